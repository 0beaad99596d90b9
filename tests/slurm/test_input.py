"""--engine slurm: what is typed, or comes through a pipe, goes to one rank."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.lab.pipe import READ, check_that_one_reads
from tests.lab.terminal import ASK, answer, on_terminal
from tests.slurm.conftest import LAUNCHER

pytestmark = pytest.mark.slow

TWO = ("--engine", "slurm", "--nnodes", "2")


def test_what_is_typed_goes_to_the_rank_that_asks(lab: Lab, script: Any) -> None:
    with on_terminal(lab, {"SLURM_CONF": str(lab.start_slurm())}) as terminal:
        terminal.start(*TWO, script(ASK))
        answer(terminal)
        assert "[h1:0] (Pdb) \np 6 * 7\n[h1:0] 42\n" in terminal.seen


def test_a_pipe_goes_to_the_rank_that_is_named(lab: Lab, script: Any) -> None:
    env = {"SLURM_CONF": str(lab.start_slurm())}
    argv = (*LAUNCHER, *TWO, "--nproc-per-node", "2", "--stdin-rank", "3", script(READ))
    check_that_one_reads(lab["h1"].start(*argv, env=env, stdin=subprocess.PIPE), 3)
