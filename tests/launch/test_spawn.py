"""The start method with an interpreter for each rank, with a worker that is nobody's."""

from __future__ import annotations

import os
import signal

from launcher.events import Exited, Started
from launcher.plan.plan import WorkerPlan
from launcher.ranks import Place
from launcher.start.spawn import SpawnStarter


def start(starter: SpawnStarter, local_rank: int) -> int:
    """Start a worker that sleeps, and return its process id."""
    plan = WorkerPlan(
        place=Place("launcher", local_rank, local_rank, 2, 2),
        kind="command",
        target="sleep",
        args=("1000",),
        common_env={},
        env={},
        unset=(),
        error_file=None,
        logs={},
        shown={},
        title="sleep",
    )
    null = os.open(os.devnull, os.O_RDWR)
    (event,) = starter.start(plan, (null, null, null))
    os.close(null)
    assert isinstance(event, Started)
    return event.pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_the_end_of_a_worker_that_was_given_up_is_no_event() -> None:
    """An attempt later it would be taken for the end of that attempt's worker."""
    starter = SpawnStarter()
    pids = [start(starter, local_rank) for local_rank in (0, 1)]
    starter.forget(pids[0])
    for pid in pids:
        kill(pid)
    assert starter.collect_exits() == [Exited(1, -signal.SIGKILL)]
    for pid in pids:
        starter.reap(pid)
