"""Processes that an engine such as mpirun has started as ranks: what becomes of them."""
