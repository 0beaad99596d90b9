"""Signals that Slurm, or a person, sends to the ranks of a step: each rank gets each one once.

This Slurm finds the processes of a step by their parents, in /proc, as a part of the real ones do;
others reach only the processes that they have started. Neither must make a difference.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.slurm.conftest import ONE_NODE, TWO_NODES, Job

pytestmark = pytest.mark.slow

# Writes down what comes, and ends with the third signal.
COUNT = """
got = open(f"got_{RANK}", "w", buffering=1)
num = 0
def note(signum, frame):
    global num
    num += 1
    print(signal.Signals(signum).name, file=got)
for signum in (signal.SIGUSR1, signal.SIGUSR2): signal.signal(signum, note)
ready()
while num < 3: signal.pause()
"""


@pytest.fixture
def got(tmp_path: Path) -> Callable[[], list[list[str]]]:
    """Return what each rank has got so far."""
    return lambda: [path.read_text().split() for path in sorted(tmp_path.glob("got_*"))]


def _by_scancel(signum: signal.Signals, job: Job, slurm: Any) -> None:
    assert slurm("scancel", "--signal", signum.name[3:], job.id).code == 0


def _by_srun(signum: signal.Signals, job: Job, slurm: Any) -> None:
    job.running.send(signum)


@pytest.mark.parametrize("send", [_by_scancel, _by_srun], ids=["scancel", "kill of srun"])
@pytest.mark.parametrize(
    ("nodes", "options"),
    [(ONE_NODE, ()), (TWO_NODES, ()), (ONE_NODE, ("--start", "spawn"))],
    ids=["one node", "two nodes", "spawn"],
)
def test_each_rank_gets_each_signal_once(
    slurm: Any, start_job: Any, got: Any, send: Any, nodes: Any, options: Any
) -> None:
    job = start_job(4, COUNT, *options, nodes=nodes)
    wanted: list[str] = []
    # Each one also shows that the one before it has not come twice.
    for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
        send(signum, job, slurm)
        wanted.append(signum.name)
        wait_until(lambda: all(len(each) >= len(wanted) for each in got()), signum.name)
        assert got() == [wanted] * 4
    done = job.running.finish()
    assert (done.code, done.err) == (0, "")
