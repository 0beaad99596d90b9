"""--engine mpi: what is typed, or comes through a pipe, goes to one rank."""

from __future__ import annotations

import hashlib
import subprocess
from typing import Any

import pytest

from tests.conftest import TIMEOUT_S, Script
from tests.lab.lab import Lab
from tests.lab.terminal import ASK, answer, on_terminal

pytestmark = pytest.mark.slow

# MPICH's mpirun is given no pipe.
only_open_mpi = pytest.mark.parametrize("engine_settings", ["openmpi"], indirect=True)

READ = """
import hashlib, sys
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())
"""
EMPTY = hashlib.sha256(b"").hexdigest()


def test_what_is_typed_goes_to_the_rank_that_asks(
    lab: Lab, engine_settings: dict[str, str], script: Script
) -> None:
    with on_terminal(lab, engine_settings) as terminal:
        terminal.start("--engine", "mpi", "--hosts", "h2:1,h3:1", script(ASK))
        answer(terminal)
        assert "[h2:0] (Pdb) p 6 * 7\n[h2:0] 42\n" in terminal.seen


@only_open_mpi
def test_a_pipe_goes_to_the_rank_that_is_named(start_engine: Any) -> None:
    data = bytes(range(256)) * 2000
    options = ("--hosts", "h1:2,h2:2", "--stdin-rank", "2")
    running = start_engine(READ, *options, stdin=subprocess.PIPE)
    running.process.stdin.write(data)
    running.process.stdin.close()
    done = running.finish()
    assert done.code == 0, done.err
    assert sorted(done.lines) == [
        f"[h1:0] {EMPTY}",
        f"[h1:1] {EMPTY}",
        f"[h2:2] {hashlib.sha256(data).hexdigest()}",
        f"[h2:3] {EMPTY}",
    ]


@only_open_mpi
def test_a_rank_that_reads_nothing_keeps_nobody(start_engine: Any) -> None:
    # More than fits anywhere, and no end of it.
    options = ("--hosts", "h1:1", "--stdin-rank", "0")
    running = start_engine("print('done')", *options, stdin=subprocess.PIPE)
    writer = subprocess.Popen(["yes"], stdout=running.process.stdin)
    try:
        assert running.finish().code == 0
        running.process.stdin.close()
        writer.wait(TIMEOUT_S)
    finally:
        writer.kill()
        writer.wait()
