"""Who started this process, and what follows from it: variables in, values out."""
