"""Ranks that mpirun has started: the command makes each process a rank, and runs the script in
place.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines import MPI_SETTINGS, needs_mpirun

pytestmark = needs_mpirun


def test_each_process_of_mpirun_is_a_rank_and_no_child_is_started(mpirun: Any, said: Any) -> None:
    done = mpirun(
        3,
        "import os, sys\n"
        "parent = open(f'/proc/{os.getppid()}/comm').read().strip()\n"
        "names = 'RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE NODE_RANK MASTER_ADDR'.split()\n"
        "with open('said_' + os.environ['RANK'], 'w') as file:\n"
        "    file.write(' '.join([*(os.environ[n] for n in names), parent, *sys.argv]))\n",
        args=("--local_rank", "$LOCAL_RANK"),
    )
    assert done.code == 0, done.err
    expected = [f"{r} {r} 3 3 0 127.0.0.1 mpirun script.py --local_rank {r}" for r in range(3)]
    assert said() == expected


def test_ranks_of_mpirun_reduce_with_torch_over_a_port_that_rank_0_has_bound(
    mpirun: Any, said: Any
) -> None:
    done = mpirun(
        2,
        "import launcher, torch\n"
        "ctx = launcher.init(backend='gloo')\n"
        "with open(f'said_{ctx.rank}', 'w') as file:\n"
        "    file.write(f\"sum {ctx.all_reduce(float(ctx.rank + 1), 'sum')}\")\n",
    )
    assert done.code == 0, done.err
    assert said() == ["sum 3.0", "sum 3.0"]


def test_mpirun_with_nproc_per_node_as_well_is_refused_with_both_commands_to_type(
    mpirun: Any,
) -> None:
    done = mpirun(2, "print('never')\n", "--nproc-per-node", "2")
    assert done.code == 2
    assert "mpirun has started 2 processes on this node (OMPI_COMM_WORLD_LOCAL_SIZE=2)" in done.err
    assert "mpirun -n 2 python -m launcher script.py" in done.err
    assert "mpirun --map-by ppr:1:node python -m launcher --nproc-per-node 2 script.py" in done.err
    assert "never" not in done.out


def test_one_launcher_started_by_mpirun_supervises_workers_that_know_nothing_of_mpi(
    mpirun: Any,
) -> None:
    done = mpirun(
        1,
        "import os\n"
        "left = [n for n in os.environ if n.startswith(('OMPI_COMM_WORLD', 'PMIX_'))]\n"
        "print(os.environ['RANK'], os.environ['WORLD_SIZE'], left, flush=True)\n",
        "--nproc-per-node",
        "2",
    )
    assert done.code == 0, done.err
    assert "0 2 []" in done.out
    assert "1 2 []" in done.out


def test_the_context_has_the_communicator_of_mpi4py(mpirun: Any, said: Any) -> None:
    done = mpirun(
        2,
        "import launcher\n"
        "ctx = launcher.init(backend='gloo')\n"
        "with open(f'said_{ctx.rank}', 'w') as file:\n"
        "    file.write(str(ctx.mpi.allgather(ctx.rank)))\n",
    )
    assert done.code == 0, done.err
    assert said() == ["[0, 1]"] * 2


def test_alone_the_communicator_is_a_world_of_one(run_command: Any, script: Any) -> None:
    name = script("import launcher\nctx = launcher.init()\nprint(ctx.mpi.allgather(ctx.rank))\n")
    done = run_command([sys.executable, name], env={**MPI_SETTINGS, "CUDA_VISIBLE_DEVICES": ""})
    assert (done.code, done.out) == (0, "[0]\n"), done.err


def test_ranks_of_the_launchers_own_are_told_how_to_get_a_communicator(
    run: Any, script: Any
) -> None:
    done = run(
        "--nproc-per-node", "2", script("import launcher\nlauncher.init(backend='gloo').mpi\n")
    )
    assert done.code == 1
    assert "mpirun -np 2 python -m launcher" in done.err


def test_the_mpi_backend_without_mpirun_is_refused_before_anything_starts(
    run: Any, script: Any, tmp_path: Path
) -> None:
    done = run("--nproc-per-node", "4", "--backend", "mpi", script("print('never')\n"))
    assert (done.code, done.out) == (2, "")
    assert "Type: mpirun -np 4 python -m launcher --backend mpi script.py" in done.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_mpi_backend_reaches_the_script_and_works_or_names_what_does(
    mpirun: Any, ranks: int
) -> None:
    text = (
        "import launcher, torch\n"
        "try:\n"
        "    ctx = launcher.init()\n"
        "    assert torch.distributed.is_mpi_available() and ctx.backend == 'mpi'\n"
        "    assert ctx.all_reduce(1, 'sum') == ctx.world_size\n"
        "except launcher.LauncherError as error:\n"
        "    assert not torch.distributed.is_mpi_available() and \"'horovod'\" in str(error)\n"
    )
    done = mpirun(ranks, text, "--backend", "mpi")
    assert done.code == 0, done.err


def test_a_dry_run_under_mpirun_shows_the_rank_and_runs_nothing(mpirun: Any) -> None:
    done = mpirun(1, "print('never')\n", "--dry-run", "--backend", "mpi")
    assert done.code == 0, done.err
    assert "rank 0 of 1, in the process that openmpi has started" in done.out
    assert "LOCAL_RANK=0   (OMPI_COMM_WORLD_LOCAL_RANK)" in done.out
    assert "MASTER_PORT=rank 0's, told over MPI" in done.out
    assert "never" not in done.out
