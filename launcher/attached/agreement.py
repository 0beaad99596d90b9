"""What attached ranks agree on before their script runs: rank 0's store, and their nodes.

Over MPI where mpi4py is there and belongs to the engine; otherwise each rank derives what all can
derive alike. What cannot be known that way is left open: no number is better than a wrong one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from launcher.errors import RendezvousError
from launcher.ranks import Place
from launcher.starters.detect import NO_VARIABLE
from launcher.starters.meeting import find_master
from launcher.starters.slurm import expand_nodes
from launcher.system.network import own_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

# Under these MPI can be initialised without asking: a plain srun may abort a process that tries.
MPI_ENGINES = ("openmpi", "mvapich", "mpich")


class Nodes(NamedTuple):
    """The nodes of a run, as one of its ranks sees them."""

    # Index of the node of this rank, from 0.
    rank: int
    num: int


class Agreement(NamedTuple):
    """What all ranks hold alike, but for the node, which is each one's own."""

    address: str
    port: int
    # Reserves the port, on rank 0: to be closed when the script has ended.
    reserved: socket.socket | None = None
    # None where nobody knows.
    nodes: Nodes | None = None


def agree(place: Place, environ: Mapping[str, str]) -> Agreement:
    """Return what the ranks have agreed on. Waits for all of them where MPI is used.

    Raises UsageError where the engine tells too little for the ranks to meet, RendezvousError where
    they would meet at a name that this node does not know.
    """
    nodes = known_nodes(place, environ)
    is_set = bool(environ.get("MASTER_ADDR") and environ.get("MASTER_PORT"))
    world = None
    if place.starter in MPI_ENGINES and not (is_set and nodes):
        world = _world_communicator(place.world_size)
    if world is not None and nodes is None:
        nodes = _agree_on_nodes(world)
    if world is None or is_set:
        address, port = find_master(place, environ)
        if not environ.get("MASTER_ADDR"):
            _check_name(address)
        return Agreement(address, port, None, nodes)
    reserved = None
    answer = None
    if place.rank == 0:
        from launcher.system.network import reserve_port

        one_node = place.local_world_size == place.world_size
        reserved = reserve_port("127.0.0.1" if one_node else "")
        answer = ("127.0.0.1" if one_node else own_address(), reserved.getsockname()[1])
    address, port = world.bcast(answer, root=0)
    return Agreement(address, port, reserved, nodes)


def known_nodes(place: Place, environ: Mapping[str, str]) -> Nodes | None:
    """Return the nodes of this run; None where mpirun over several hosts has not numbered them.

    The count is that of the Slurm step, elsewhere as if each node had as many ranks as this one.
    """
    if place.world_size == place.local_world_size:
        return Nodes(0, 1)
    if place.sources.get("node_rank", NO_VARIABLE) == NO_VARIABLE:
        return None
    if place.starter == "slurm" and environ.get("SLURM_STEP_NODELIST"):
        return Nodes(place.node_rank, len(expand_nodes(environ["SLURM_STEP_NODELIST"])))
    return Nodes(place.node_rank, -(-place.world_size // place.local_world_size))


def _world_communicator(num_ranks: int) -> Any:
    """Return mpi4py's world of all ranks; None without mpi4py, or where it is another MPI's."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):  # the latter where its wheel finds no library of MPI
        return None
    # Another MPI than mpirun's sees each rank alone.
    return MPI.COMM_WORLD if MPI.COMM_WORLD.Get_size() == num_ranks else None


def _agree_on_nodes(world: Any) -> Nodes:
    """Number the nodes in the order of their first ranks.

    MPI says who shares one: host names need not differ.
    """
    from mpi4py import MPI

    here = world.Split_type(MPI.COMM_TYPE_SHARED, key=world.Get_rank())
    first = here.bcast(world.Get_rank(), root=0)
    here.Free()
    firsts = sorted(set(world.allgather(first)))
    return Nodes(firsts.index(first), len(firsts))


def _check_name(name: str) -> None:
    """Raise RendezvousError where this node does not know the name; torch would ask for minutes."""
    import socket

    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        raise RendezvousError(
            f"The ranks are to meet at {name}, the first node of this job step, but this node"
            f" ({os.uname().nodename}) does not know that name: {error.strerror or error}.",
            hint="Name another address of it, the same for all ranks: MASTER_ADDR=ADDRESS srun ...",
        ) from None
