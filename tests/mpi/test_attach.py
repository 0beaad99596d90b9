"""Ranks that mpirun has started: the command makes each process a rank, and runs the script in place."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed: apt-get install openmpi-bin")

# Tests run as root in containers, and with more ranks than processors.
_SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
}


@pytest.fixture
def mpirun(start_command: Any, tmp_path: Path) -> Any:
    """Run the launcher under mpirun with a script's text; returns what `Running.finish` returns."""

    def run(ranks: int, text: str, *options: str, args: tuple[str, ...] = ()) -> Any:
        (tmp_path / "script.py").write_text(text)
        argv = ["mpirun", "-np", str(ranks), sys.executable, "-m", "launcher", *options, "script.py", *args]
        return start_command(argv, env=_SETTINGS).finish()

    return run


@pytest.fixture
def said(tmp_path: Path) -> Any:
    """Return what the ranks have written into files of their own: mpirun may mix lines of several ranks on its stdout."""
    return lambda: [path.read_text() for path in sorted(tmp_path.glob("said_*"))]


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


def test_ranks_of_mpirun_reduce_with_torch_over_a_port_that_rank_0_has_bound(mpirun: Any, said: Any) -> None:
    done = mpirun(
        2,
        "import launcher, torch\n"
        "ctx = launcher.init(backend='gloo')\n"
        "with open(f'said_{ctx.rank}', 'w') as file:\n"
        "    file.write(f\"sum {ctx.all_reduce(float(ctx.rank + 1), 'sum')}\")\n",
    )
    assert done.code == 0, done.err
    assert said() == ["sum 3.0", "sum 3.0"]


def test_an_exception_on_one_rank_ends_the_others_that_wait_in_mpi(mpirun: Any) -> None:
    done = mpirun(
        2,
        "from mpi4py import MPI\n"
        "if MPI.COMM_WORLD.rank == 1:\n"
        "    raise ValueError('only here')\n"
        "MPI.COMM_WORLD.barrier()\n",
    )
    assert done.code == 1
    assert "ValueError: only here" in done.err
    assert "launcher/" not in done.err.partition("MPI_ABORT")[0], "the traceback shows the user's frames only"


def test_mpirun_with_nproc_per_node_as_well_is_refused_with_both_commands_to_type(mpirun: Any) -> None:
    done = mpirun(2, "print('never')\n", "--nproc-per-node", "2")
    assert done.code == 2
    assert "mpirun has started 2 processes on this node (OMPI_COMM_WORLD_LOCAL_SIZE=2)" in done.err
    assert "mpirun -n 2 python -m launcher script.py" in done.err
    assert "mpirun --map-by ppr:1:node python -m launcher --nproc-per-node 2 script.py" in done.err
    assert "never" not in done.out


def test_one_launcher_started_by_mpirun_supervises_workers_that_know_nothing_of_mpi(mpirun: Any) -> None:
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
