"""`launcher.launch()`: a function or a command on several workers, from a program."""
