"""What ranks of MPI on several hosts agree on before their script runs: rank 0's store, and nodes.

Open MPI tells its ranks neither where rank 0 is nor how many hosts there are. They ask each other,
over MPI, where mpi4py is there and belongs to the engine; otherwise what cannot be known is left
open: no number is better than a wrong one.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any

from launcher.contract.environment import AGREE, NODE_VARIABLES, expand
from launcher.ranks import Place
from launcher.starters.detect import detect_engine
from launcher.starters.meeting import find_master, find_nodes
from launcher.system.network import own_address, reserve_port

# Set by the supervisor: what it calls the run, other hosts do not know.
_OF_THIS_HOST = ("RANK", "LAUNCHER_RUN_ID", "TORCHELASTIC_RUN_ID")

# Under these MPI can be initialised without asking: a plain srun may abort a process that tries.
_MPI_ENGINES = ("openmpi", "mvapich", "mpich")

# Reserves the port, on rank 0, until the process ends: nobody else takes it before torch's store.
_reserved: Any = None


def needs_agreement(place: Place, environ: MutableMapping[str, str]) -> bool:
    """Tell whether something is missing that ranks on several hosts can tell each other."""
    if place.starter not in _MPI_ENGINES or place.local_world_size == place.world_size:
        return False
    is_set = environ.get("MASTER_ADDR") and environ.get("MASTER_PORT")
    return not (is_set and find_nodes(place, environ))


def agree_first(
    kind: str, target: str, args: list[str], error_file: str | None
) -> tuple[str, str, list[str], str | None]:
    """Agree with the other ranks before a worker's program runs; return the program to run.

    Its supervisor could not know what its arguments refer to.
    """
    del os.environ[AGREE]
    of_engine = {name: value for name, value in os.environ.items() if name not in _OF_THIS_HOST}
    agree(detect_engine(of_engine), of_engine)
    os.environ.update(of_engine)
    return kind, target, [expand(argument, os.environ) for argument in args], error_file


def agree(place: Place, environ: MutableMapping[str, str]) -> None:
    """Put what the ranks have agreed on into `environ`. Waits for all of them where MPI is used."""
    world = _world_communicator(place.world_size) if needs_agreement(place, environ) else None
    if world is not None and find_nodes(place, environ) is None:
        rank, number = _agree_on_nodes(world)
        values = (str(rank), str(rank), str(number))
        environ.update(zip(NODE_VARIABLES, values, strict=True))
    if world is None or environ.get("MASTER_ADDR"):
        address, port = find_master(place, environ)
    else:
        address, port = world.bcast(_choose_master() if place.rank == 0 else None, root=0)
        if environ.get("MASTER_PORT"):  # it is the user's, who knows that it is free there
            port = int(environ["MASTER_PORT"])
    environ.update(MASTER_ADDR=address, MASTER_PORT=str(port))


def _choose_master() -> tuple[str, int]:
    global _reserved
    _reserved = reserve_port("")
    return own_address(), _reserved.getsockname()[1]


def _world_communicator(num_ranks: int) -> Any:
    """Return mpi4py's world of all ranks; None without mpi4py, or where it is another MPI's."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):  # the latter where its wheel finds no library of MPI
        return None
    # Another MPI than mpirun's sees each rank alone.
    return MPI.COMM_WORLD if MPI.COMM_WORLD.Get_size() == num_ranks else None


def _agree_on_nodes(world: Any) -> tuple[int, int]:
    """Number the nodes in the order of their first ranks; return ours, and how many there are.

    MPI says who shares one: host names need not differ.
    """
    from mpi4py import MPI

    here = world.Split_type(MPI.COMM_TYPE_SHARED, key=world.Get_rank())
    first = here.bcast(world.Get_rank(), root=0)
    here.Free()
    firsts = sorted(set(world.allgather(first)))
    return firsts.index(first), len(firsts)
