"""This process is a rank already: an engine such as mpirun has started it."""
