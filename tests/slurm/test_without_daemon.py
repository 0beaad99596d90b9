"""Tasks of a Slurm step where no process of Slurm is seen, as in a container: the variables of
the step tell which of them belong together. Started here with the variables of srun.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def srun(start_command: Any, tmp_path: Path, script: Any) -> Any:
    """Run a script's text as two tasks of a Slurm step; returns both ends."""

    def run(text: str) -> list[Any]:
        name = script(text)
        step = {
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURMD_NODENAME": "n1",
            "SLURM_STEP_NODELIST": "n1",
            "SLURM_STEP_TASKS_PER_NODE": "2",
        }
        argv = [sys.executable, "-m", "launcher", name]
        tasks = [
            start_command(argv, env={**step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
            for rank in (0, 1)
        ]
        return [task.finish() for task in tasks]

    return run


WAIT_FOR_ONE = "import os, signal, sys\nif os.environ['RANK'] == '0': signal.pause()\n"


@pytest.mark.parametrize(
    ("fail", "code", "words"),
    [("sys.exit(3)", 3, "exit code 3"), ("os.kill(os.getpid(), 9)", 137, "killed by SIGKILL (9)")],
)
def test_both_end_with_the_code_of_the_cause_and_the_first_one_reports(
    srun: Any, fail: str, code: int, words: str
) -> None:
    zero, one = srun(WAIT_FOR_ONE + fail)
    assert (zero.code, one.code) == (code, code)
    assert zero.err.count("FAILED: rank 1 (pid ") == 1
    assert words in zero.err
    assert one.err == ""


def test_ranks_that_fail_on_their_own_at_the_same_moment_are_one_report(srun: Any) -> None:
    zero, one = srun("raise ValueError('the same')\n")
    assert (zero.code, one.code) == (1, 1)
    assert zero.err.count("FAILED: rank ") == 1
    assert "FAILED: " not in one.err
