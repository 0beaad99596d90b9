"""MPI in the ranks: they are no children of the engine's, and communicate as if they were; one that
ends without MPI_Finalize is one report.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_dirs, wait_until
from tests.engines import needs_horovod, needs_mpi4py, needs_mpich, needs_mpirun
from tests.mpi.conftest import find_report

REDUCE = """
from mpi4py import MPI
world = MPI.COMM_WORLD
mine = bytearray([world.rank + 1]) * 10_000_000
total = bytearray(len(mine))
world.Allreduce([mine, MPI.UNSIGNED_CHAR], [total, MPI.UNSIGNED_CHAR], MPI.SUM)
assert total == bytearray([world.size * (world.size + 1) // 2]) * len(mine)
with open(f"said_{world.rank}", "w") as file:
    file.write(str(world.allgather(world.rank)))
"""


@needs_mpi4py
def test_ranks_reduce_10_mb_and_leave_nothing(start_ranks: Any, said: Any) -> None:
    before = set(os.listdir("/dev/shm"))
    done = start_ranks(4, REDUCE).finish()
    assert (done.code, done.out, done.err) == (0, "", "")
    assert said() == ["[0, 1, 2, 3]"] * 4
    mine = [name for name in set(os.listdir("/dev/shm")) - before if "launcher" in name]
    assert mine == []


DIE = """
import os, signal, sys
from mpi4py import MPI
world = MPI.COMM_WORLD
world.Barrier()
if world.rank == 1:
    {how}
world.Barrier()
"""
WAYS = {
    "os._exit": ("os._exit(3)", 3, "exit code 3"),
    "an exception": ("raise ValueError('only here')", 1, "ValueError: only here"),
    "sys.exit": ("sys.exit(4)", 4, "exit code 4"),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", 137, "killed by SIGKILL (9)"),
    "SIGSEGV": ("os.kill(os.getpid(), signal.SIGSEGV)", 139, "SIGSEGV"),
}


@needs_mpi4py
@pytest.mark.parametrize("way", WAYS)
def test_a_rank_that_dies_without_finalize_is_one_report_and_the_end_of_all(
    start_ranks: Any, way: str, tmp_path: Path
) -> None:
    how, code, words = WAYS[way]
    job = start_ranks(3, DIE.format(how=how))
    job.wait_for("FAILED:")
    reported_at = time.monotonic()
    done = job.finish()
    # Open MPI sleeps for a second or two, where it is not kept from that.
    assert time.monotonic() - reported_at < 5.0
    assert done.code == code, done.err
    assert done.err.count("FAILED:") == 1, done.err
    before, _, report = done.err.partition("FAILED:")
    assert report.startswith(" rank 1 (pid ")
    assert words in report
    assert "-------" not in before, "the engine has spoken before us"
    assert "BAD TERMINATION" not in done.err
    path = run_dirs(tmp_path)[0] / "report.json"
    assert json.loads(path.read_text())["rank"] == 1


@needs_mpirun
@needs_mpi4py
def test_mpi_abort_is_reported_with_its_code(mpirun: Any) -> None:
    done = mpirun(3, DIE.format(how="world.Abort(5)"))
    assert done.code == 5
    assert done.err.count("FAILED:") == 1, done.err
    assert "): exit code 5" in done.err.partition("FAILED: rank 1 (pid ")[2]


@needs_mpich
@needs_mpi4py
def test_after_mpi_abort_mpich_kills_all_processes_and_the_logs_say_why(
    start_mpich: Any, tmp_path: Path
) -> None:
    done = start_mpich(3, DIE.format(how="world.Abort(5)")).finish()
    assert done.code == 5
    # Nobody is left who could show it: neither the engine nor the processes of the ranks.
    wait_until(lambda: next(tmp_path.glob("runs/[!l]*/report.json"), None), "the report")
    (log,) = tmp_path.glob("runs/[!l]*/logs/rank_01.err")
    assert "application called MPI_Abort(MPI_COMM_WORLD, 5)" in log.read_text()


HOROVOD = """
import torch, horovod.torch as hvd
hvd.init()
assert hvd.mpi_enabled()
with open(f"said_{hvd.rank()}", "w") as file:
    file.write(str(hvd.allreduce(torch.ones(1), name="together", op=hvd.Sum).item()))
"""


@needs_mpirun
@needs_horovod
def test_horovod_meets_over_mpi(mpirun: Any, said: Any) -> None:
    done = mpirun(3, HOROVOD)
    assert (done.code, done.err) == (0, "")
    assert said() == ["3.0"] * 3


@needs_mpirun
@needs_horovod
def test_a_failed_rank_of_horovod_is_the_cause_and_the_shutdown_of_the_others_is_not(
    mpirun: Any, said: Any
) -> None:
    done = mpirun(
        3,
        HOROVOD + "if hvd.rank() == 1: raise ValueError('only here')\n"
        "hvd.allreduce(torch.ones(1), name='alone')\n",
    )
    assert done.code == 1
    assert said() == ["3.0"] * 3
    report = find_report(done.err)
    assert report.startswith("FAILED: rank 1 (pid "), report
    assert report.count("Traceback (most recent call last)") == 1, report
    assert "ValueError: only here" in report
    assert "also failed, later: ranks 0, 2: " in report


FAIL_WITH_HOROVOD = """
import horovod.torch as hvd, torch
hvd.init()
hvd.allreduce(torch.ones(1))
if hvd.rank() == 1: raise ValueError("only here")
while True: hvd.allreduce(torch.ones(1))
"""


@needs_mpirun
@needs_horovod
def test_ranks_of_horovod_over_mpi_are_not_started_again(mpirun: Any) -> None:
    done = mpirun(2, FAIL_WITH_HOROVOD, "--max-restarts", "1")
    assert done.code == 1
    assert "--max-restarts has no effect: Horovod uses MPI here" in done.err
    assert "ValueError: only here" in done.err.partition("FAILED: rank 1 ")[2]
    assert "MPI_Init" not in done.err
