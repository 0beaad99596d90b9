"""--engine slurm: what is typed, or comes through a pipe, goes to one rank."""

from __future__ import annotations

import hashlib
import subprocess
from typing import Any

import pytest

from tests.lab.lab import Lab
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
    read = script(
        "import hashlib, sys\nprint(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())\n"
    )
    env = {"SLURM_CONF": str(lab.start_slurm())}
    argv = (*LAUNCHER, *TWO, "--nproc-per-node", "2", "--stdin-rank", "3", read)
    running = lab["h1"].start(*argv, env=env, stdin=subprocess.PIPE)
    data = bytes(range(256)) * 2000
    running.process.stdin.write(data)
    running.process.stdin.close()
    done = running.finish()
    assert done.code == 0, done.err
    empty, full = (hashlib.sha256(text).hexdigest() for text in (b"", data))
    assert sorted(done.lines) == [
        f"[h1:0] {empty}",
        f"[h1:1] {empty}",
        f"[h2:2] {empty}",
        f"[h2:3] {full}",
    ]
