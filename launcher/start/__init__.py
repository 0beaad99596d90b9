"""How a worker comes to be, on the supervisor's side."""
