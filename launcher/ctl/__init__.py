"""`python -m launcher.ctl`: looking at runs from another terminal, and acting on them."""
