"""--engine mpi: what is typed, or comes through a pipe, goes to one rank."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.conftest import Script
from tests.lab.lab import Lab
from tests.lab.pipe import READ, check_that_nobody_waits, check_that_one_reads
from tests.lab.terminal import ASK, answer, on_terminal

pytestmark = pytest.mark.slow

# MPICH's mpirun is given no pipe.
only_open_mpi = pytest.mark.parametrize("engine_settings", ["openmpi"], indirect=True)


def test_what_is_typed_goes_to_the_rank_that_asks(
    lab: Lab, engine_settings: dict[str, str], script: Script
) -> None:
    with on_terminal(lab, engine_settings) as terminal:
        terminal.start("--engine", "mpi", "--hosts", "h2:1,h3:1", script(ASK))
        answer(terminal)
        assert "[h2:0] (Pdb) p 6 * 7\n[h2:0] 42\n" in terminal.seen


@only_open_mpi
def test_a_pipe_goes_to_the_rank_that_is_named(start_engine: Any) -> None:
    options = ("--hosts", "h1:2,h2:2", "--stdin-rank", "2")
    check_that_one_reads(start_engine(READ, *options, stdin=subprocess.PIPE), 2)


@only_open_mpi
def test_a_rank_that_reads_nothing_keeps_nobody(start_engine: Any) -> None:
    options = ("--hosts", "h1:1", "--stdin-rank", "0")
    check_that_nobody_waits(start_engine("print('done')", *options, stdin=subprocess.PIPE))
