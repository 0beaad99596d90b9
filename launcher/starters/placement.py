"""The place of a launcher among the launchers of a run, where a starter has put one on each node.

Variables in, values out: Slurm's, Open MPI's and MPICH's, those of services that start containers.
What nobody knows stays empty. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Placement(NamedTuple):
    """Which of how many nodes this is, and where they meet, as a starter says it."""

    # As it is called in messages: srun, mpirun, "the environment".
    starter: str
    num_nodes: int
    # None where the starter does not number the nodes.
    node_rank: int | None
    # The first node, by a name or address that the others can reach, and a port on it that all
    # nodes derive alike; "" and 0 where the starter tells none.
    host: str = ""
    port: int = 0
    # The starter's name of this run, the same on all nodes and of no other run; "" without one.
    job: str = ""
    # What the workers are to find in MASTER_ADDR and MASTER_PORT, where the starter says that.
    master_addr: str = ""
    master_port: int = 0
    # Field -> the variable that gave it.
    sources: Mapping[str, str] = {}


def find_placement(environ: Mapping[str, str]) -> Placement | None:
    """Return the place among the run's launchers; None where this launcher is the only one."""
    return None
