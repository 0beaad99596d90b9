"""Handing a launch over to what starts a launcher on each host."""
