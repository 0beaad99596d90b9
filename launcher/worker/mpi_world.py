"""MPI in a rank: when it is there, and mpi4py's communicator of all ranks.

Owns the helpers' use of mpi4py. To import `mpi4py.MPI` is to initialise MPI, and in ranks that MPI
has not started that gives each one a world of its own: so the environment is asked first.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from launcher.errors import LauncherError
from launcher.starters.detect import find_mpi_engine, in_slurm_step


def communicator(rank: int, world_size: int, environ: Mapping[str, str]) -> Any:
    """Return mpi4py's COMM_WORLD; where this process is alone, that is a world of one.

    Raises LauncherError where MPI has not started the ranks, mpi4py is missing, or it uses another
    MPI than mpirun.
    """
    check_started("ctx.mpi", world_size, environ)
    mpi = _import_mpi4py()
    world = mpi.COMM_WORLD
    library = mpi.Get_library_version().partition(",")[0].partition("\n")[0].strip("\0 ")
    check_same(
        (world.Get_rank(), world.Get_size()),
        (rank, world_size),
        f"mpi4py, which uses {library},",
        environ,
    )
    return world


def check_started(what: str, world_size: int, environ: Mapping[str, str]) -> None:
    """Raise LauncherError where MPI would not find the other ranks, or would end this process."""
    if find_mpi_engine(environ):
        return
    command = f"python -m launcher {sys.argv[0] or 'train.py'}"
    if in_slurm_step(
        environ
    ):  # Open MPI ends a process that srun has started without MPI, also a single one
        raise LauncherError(
            f"{what} needs MPI, and srun has started this rank without it: neither PMIX_RANK nor"
            " PMI_RANK is set.",
            hint=(
                f"Type: srun --mpi=pmix -n {world_size} {command} (`srun --mpi=list` names what"
                f" Slurm offers here), or in an allocation: mpirun -np {world_size} {command}"
            ),
        )
    if world_size > 1:
        raise LauncherError(
            f"{what} needs ranks that MPI has started, and these {world_size} are not: none of"
            " OMPI_COMM_WORLD_RANK, PMIX_RANK and PMI_RANK is set.",
            hint=f"Type: mpirun -np {world_size} {command}",
        )


def check_same(
    found: tuple[int, int], wanted: tuple[int, int], who: str, environ: Mapping[str, str]
) -> None:
    """Raise LauncherError unless MPI and the environment agree on rank and number of ranks."""
    if found != wanted:
        engine = find_mpi_engine(environ) or "the environment"
        raise LauncherError(
            f"{who} says rank {found[0]} of {found[1]}, and {engine} says rank {wanted[0]} of"
            f" {wanted[1]}.",
            hint=(
                "If they belong to two MPI installations, start the ranks with the mpirun of the"
                " first, or build it for the second (for mpi4py: python -m pip install"
                " --force-reinstall --no-binary=mpi4py mpi4py)."
            ),
        )


def _import_mpi4py() -> Any:
    try:
        from mpi4py import MPI
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mpi4py":
            raise
        raise LauncherError(
            "ctx.mpi needs mpi4py, which this Python does not have.",
            hint=f"Type: {sys.executable} -m pip install mpi4py",
        ) from None
    except (
        ImportError,
        RuntimeError,
    ) as error:  # its wheel looks for the library of MPI when it is imported
        raise LauncherError(
            f"mpi4py finds no MPI here: {str(error).partition(chr(10))[0]}.",
            hint=(
                "Install one (on Debian and Ubuntu: apt-get install openmpi-bin) or set"
                " MPI4PY_LIBMPI to its libmpi.so."
            ),
        ) from error
    return MPI
