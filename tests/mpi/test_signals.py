"""Signals to mpirun and to one of the processes that stand for ranks: each arrives in the rank,
once, and a rank has its time to save.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import is_alive, wait_until
from tests.engines import needs_mpirun
from tests.mpi.conftest import read_stat

pytestmark = needs_mpirun

# Each signal that it hears becomes a line of its file; SIGTERM ends it, SIGINT would be seen.
HEAR = """
import os, signal, sys
rank = os.environ["RANK"]
file = os.open("heard_" + rank, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
def hear(signum, frame):
    os.write(file, signal.Signals(signum).name.encode() + b"\\n")
    if signum == signal.SIGTERM:
        sys.exit(int(sys.argv[1]))
for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
    signal.signal(signum, hear)
os.write(file, b"ready\\n")
while not os.path.exists("end"):
    signal.sigtimedwait([], 0.01)
"""
RANKS = 3


class Heard:
    """The signals that ranks have heard, and who they are."""

    def __init__(self, folder: Path, find_families: Callable[..., Any]) -> None:
        self._folder = folder
        self.wait_for([["ready"]] * RANKS)
        (self.family,) = find_families(RANKS)

    def look(self) -> list[list[str]]:
        files = [self._folder / f"heard_{rank}" for rank in range(RANKS)]
        return [file.read_text().splitlines() if file.exists() else [] for file in files]

    def wait_for(self, expected: list[list[str]]) -> None:
        wait_until(lambda: self.look() == expected, f"{expected}, not {self.look()}")

    def told(self) -> list[list[str]]:
        """Return the same without SIGCONT, which goes with a stop."""
        return [[line for line in lines if line != "SIGCONT"] for lines in self.look()]

    def are_stopped(self) -> list[bool]:
        """Tell of each rank whether it stands still, and the engine's process for it, too."""
        pairs = zip(self.family.ranks, self.family.proxies, strict=True)
        return [all(read_stat(pid)[1][0] == "T" for pid in pair) for pair in pairs]

    def end(self) -> None:
        """Let the ranks end well."""
        (self._folder / "end").touch()


@pytest.fixture
def start_heard(start_ranks: Any, find_families: Any, tmp_path: Path) -> Any:
    """Start ranks that note their signals, under each engine; `code` is theirs after SIGTERM."""

    def start(code: int, *options: str, env: Any = None) -> tuple[Any, Heard]:
        job = start_ranks(RANKS, HEAR, *options, args=[str(code)], env=env)
        return job, Heard(tmp_path, find_families)

    return start


def test_usr1_and_usr2_arrive_once_and_end_nothing_and_sigterm_lets_ranks_save(
    start_heard: Any, request: pytest.FixtureRequest
) -> None:
    job, heard = start_heard(0)
    usr1, usr2 = ["ready", "SIGUSR1"], ["ready", "SIGUSR1", "SIGUSR2"]
    job.send(signal.SIGUSR1)
    heard.wait_for([usr1] * RANKS)
    os.kill(heard.family.proxies[1], signal.SIGUSR2)
    heard.wait_for([usr1, usr2, usr1])
    is_mpich = "mpich" in request.node.name
    if not is_mpich:  # whose mpiexec passes on SIGUSR1 only, and dies of the other
        os.kill(heard.family.proxies[0], signal.SIGUSR2)
        os.kill(heard.family.proxies[2], signal.SIGUSR2)
        heard.wait_for([usr2] * RANKS)
        job.send(signal.SIGUSR2)
        heard.wait_for([[*usr2, "SIGUSR2"]] * RANKS)
    before = heard.look()
    job.send(signal.SIGTERM)
    done = job.finish()
    assert heard.told() == [[*lines, "SIGTERM"] for lines in before]
    assert "FAILED" not in done.err, done.err


def test_sigterm_to_one_process_ends_its_rank_and_the_others_go_on_if_it_ends_well(
    start_heard: Any,
) -> None:
    job, heard = start_heard(0)
    os.kill(heard.family.proxies[1], signal.SIGTERM)
    wait_until(lambda: not is_alive(heard.family.ranks[1]), "the end of one")
    assert heard.look() == [["ready"], ["ready", "SIGTERM"], ["ready"]]
    assert is_alive(heard.family.ranks[0])
    assert is_alive(heard.family.ranks[2])
    heard.end()
    done = job.finish()
    assert (done.code, done.err) == (0, "")


def test_sigterm_to_one_process_is_a_stop_of_all_if_its_rank_does_not_end_well(
    start_heard: Any,
) -> None:
    job, heard = start_heard(143)
    os.kill(heard.family.proxies[1], signal.SIGTERM)
    done = job.finish()
    assert heard.told() == [["ready", "SIGTERM"]] * RANKS
    assert done.code == 143
    assert "FAILED" not in done.err, done.err
    assert "rank 1 was sent SIGTERM and has ended; stopping" in done.err


@pytest.mark.parametrize("first", [signal.SIGSTOP, signal.SIGTSTP])
def test_a_process_that_is_stopped_stops_its_rank_until_it_is_continued(
    start_heard: Any, first: signal.Signals
) -> None:
    job, heard = start_heard(0)
    os.kill(heard.family.proxies[1], first)
    wait_until(lambda: heard.are_stopped() == [False, True, False], "one stopped rank")
    os.kill(heard.family.proxies[1], signal.SIGCONT)
    heard.wait_for([["ready"], ["ready", "SIGCONT"], ["ready"]])
    heard.end()
    done = job.finish()
    assert (done.code, done.err) == (0, "")


def test_mpirun_that_is_told_to_stop_stops_all_ranks_until_it_goes_on(
    start_mpirun: Any, find_families: Any, tmp_path: Path
) -> None:
    forward = {"OMPI_MCA_orte_forward_job_control": "1"}
    job = start_mpirun(RANKS, HEAR, args=["0"], env=forward)
    heard = Heard(tmp_path, find_families)
    job.send(signal.SIGTSTP)
    wait_until(lambda: all(heard.are_stopped()), "ranks that are stopped")
    job.send(signal.SIGCONT)
    heard.wait_for([["ready", "SIGCONT"]] * RANKS)
    heard.end()
    assert job.finish().code == 0
