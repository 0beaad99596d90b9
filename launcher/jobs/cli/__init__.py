"""What `python -m launcher.jobs` does, command by command."""
