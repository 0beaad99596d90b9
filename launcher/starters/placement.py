"""The place of a launcher among the launchers of a run, where a starter has put one on each node.

A value only; which starters say it, and in which variables, stands in nodes.py beside this file.
"""

from __future__ import annotations

from collections.abc import Mapping

from launcher.named import NamedTuple


class Placement(NamedTuple):
    """Which of how many nodes this is, and where they meet, as a starter says it."""

    # As it is called in messages: srun, mpirun, "the environment".
    starter: str
    # None where the starter does not count the nodes.
    num_nodes: int | None
    # None where the starter does not number the nodes.
    node_rank: int | None
    # The first node, by a name or address that the others can reach, or by several with commas
    # between them, of which one is right; and a port on it that all nodes derive alike. "" and 0
    # where the starter tells none.
    host: str = ""
    port: int = 0
    # The starter's name of this run, the same on all nodes and of no other run; "" without one.
    # And whether people know it, too.
    job: str = ""
    is_named: bool = True
    # What the workers are to find in MASTER_ADDR and MASTER_PORT, where the starter says that.
    master_addr: str = ""
    master_port: int = 0
    # By which the nodes prove to each other that they belong together; "" where the starter has
    # nothing that only they know.
    secret: str = ""
    # Whether it shows what all launchers say in one place.
    gathers_output: bool = False
    # What WORLD_SIZE says, the number of the nodes or of all workers; 0 without it.
    world_size: int = 0
    # Field -> the variable that gave it.
    sources: Mapping[str, str] = {}
