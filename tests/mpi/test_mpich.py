"""Ranks that MPICH's mpiexec has started, beside Open MPI's."""

from __future__ import annotations

from typing import Any

from tests.engines import needs_mpich

pytestmark = needs_mpich


def test_each_process_of_mpich_is_a_rank(mpich: Any, said: Any) -> None:
    done = mpich(
        3,
        "import os\n"
        "names = 'RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR'.split()\n"
        "with open('said_' + os.environ['RANK'], 'w') as file:\n"
        "    file.write(' '.join(os.environ[name] for name in names))\n",
    )
    assert done.code == 0, done.err
    assert said() == [f"{rank} {rank} 3 3 127.0.0.1" for rank in range(3)]


def test_scripts_speak_mpi_with_mpich_and_torch_with_the_launchers_address(
    mpich: Any, said: Any
) -> None:
    done = mpich(
        2,
        "import launcher\n"
        "ctx = launcher.init(backend='gloo')\n"
        "library = __import__('mpi4py.MPI').MPI.Get_library_version().split()[0]\n"
        "with open(f'said_{ctx.rank}', 'w') as file:\n"
        "    file.write(f\"{library} {ctx.mpi.allgather(ctx.rank)} {ctx.all_reduce(1, 'sum')}\")\n",
    )
    assert done.code == 0, done.err
    assert said() == ["MPICH [0, 1] 2"] * 2
