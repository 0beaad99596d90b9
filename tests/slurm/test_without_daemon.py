"""Attached ranks of an engine that does not end a job when a rank fails, as srun: started here with
the variables of srun.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

_NEEDS_TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)

_TORCH = (
    "import os, torch, torch.distributed as dist\n"
    "dist.init_process_group('gloo')\n"
    "if dist.get_rank() == 1: FAIL\n"
    "dist.all_reduce(torch.ones(1))\n"
)


@pytest.fixture
def srun(start_command: Any, tmp_path: Path, script: Any) -> Any:
    """Run a script's text as two tasks of a Slurm step; returns both ends."""
    notes = tmp_path / "tmp"
    notes.mkdir()

    def run(text: str) -> list[Any]:
        name = script(text)
        step = {
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURMD_NODENAME": "n1",
        }
        step |= {
            "SLURM_STEP_NODELIST": "n1",
            "SLURM_STEP_TASKS_PER_NODE": "2",
            "TMPDIR": str(notes),
        }
        argv = [sys.executable, "-m", "launcher", name]
        tasks = [
            start_command(argv, env={**step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
            for rank in (0, 1)
        ]
        return [task.finish() for task in tasks]

    yield run
    assert list(notes.iterdir()) == []


@_NEEDS_TORCH
def test_both_end_with_the_code_of_the_cause_and_one_of_them_reports(srun: Any) -> None:
    zero, one = srun(_TORCH.replace("FAIL", "raise SystemExit(3)"))
    assert (zero.code, one.code) == (3, 3)
    assert (zero.err + one.err).count("FAILED:") == 1
    assert "FAILED: rank 1 " in zero.err + one.err


@_NEEDS_TORCH
def test_a_rank_that_was_killed_is_named_though_it_could_not_speak(srun: Any) -> None:
    zero, one = srun(_TORCH.replace("FAIL", "os.kill(os.getpid(), 9)"))
    assert (zero.code, one.code) == (1, -9)
    assert "FAILED: rank 1 (pid " in zero.err
    assert "ended without an exception" in zero.err
    assert "also failed, later: rank 0: " in zero.err


def test_ranks_that_fail_on_their_own_at_the_same_moment_are_one_report(srun: Any) -> None:
    text = (
        "import os, time\n"
        "open('came_' + os.environ['RANK'], 'w').close()\n"
        "while not (os.path.exists('came_0') and os.path.exists('came_1')): time.sleep(0.005)\n"
        "raise ValueError('the same')\n"
    )
    zero, one = srun(text)
    assert (zero.code, one.code) == (1, 1)
    assert (zero.err + one.err).count("ValueError: the same") == 1
