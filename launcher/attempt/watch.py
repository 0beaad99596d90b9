"""Looks after the workers of an attempt from outside: does anything still move, and where is
everyone?

Owns the hang timer and the collection of stacks; decides nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from launcher.diagnosis import stacks
from launcher.diagnosis.hang import WARN_AFTER_S, Hang, HangWatch, Progress, look_interval_s
from launcher.diagnosis.probe import Target, collect_stacks, cpu_seconds
from launcher.diagnosis.stacks import RankStack
from launcher.events import Output
from launcher.horovod.stalls import Stall, StallWatch
from launcher.output.pipes import WorkerPipes
from launcher.plan.plan import WorkerPlan
from launcher.system.loop import Loop

HANG_TIMER = "look for a hang"


class Watched(Protocol):
    """What is needed of a worker."""

    pid: int

    @property
    def plan(self) -> WorkerPlan: ...
    @property
    def is_running(self) -> bool: ...


class Diagnostics:
    """Watches the workers of one attempt."""

    def __init__(
        self,
        workers: Sequence[Watched],
        pipes: WorkerPipes,
        loop: Loop,
        timeout_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._workers = workers
        self._pipes = pipes
        self._loop = loop
        self._timeout_s = timeout_s
        self._say = say
        self._watch = HangWatch(loop.clock(), len(workers))
        self._has_warned = False
        self._stalls = StallWatch()

    def begin(self) -> None:
        """Start to look for a hang."""
        self._watch.restart(self._loop.clock())
        self._loop.set_timer(HANG_TIMER, look_interval_s(self._timeout_s))

    def end(self) -> None:
        self._loop.cancel_timer(HANG_TIMER)

    def look(self) -> Hang | None:
        """The timer has fired. Returns the hang once it has lasted for the timeout; without a
        timeout, warns of it once.
        """
        self._loop.set_timer(HANG_TIMER, look_interval_s(self._timeout_s))
        still_s = self._watch.still_for(self._measure(), self._loop.clock())
        if self._timeout_s:
            return self._make_hang(still_s) if still_s >= self._timeout_s else None
        if still_s < WARN_AFTER_S:
            self._has_warned = False
        elif not self._has_warned:
            self._has_warned = True
            self._warn(self._make_hang(still_s), " (no output, no CPU time)")
        return None

    def hear(self, event: Output) -> Hang | None:
        """A rank has written something. Returns a stall that Horovod tells of, or warns of it, as
        `look` does.

        A rank that waits in Horovod keeps a processor busy, so nothing seems to stand still.
        """
        stall = (
            self._stalls.feed(event.local_rank, event.data, self._loop.clock())
            if event.stream == "err"
            else None
        )
        if stall is None:
            return None
        if self._timeout_s:
            return (
                self._make_hang(stall.waited_s, stall)
                if stall.waited_s >= self._timeout_s
                else None
            )
        if stall.is_new:
            self._warn(self._make_hang(stall.waited_s, stall))
        return None

    def collect(self) -> list[RankStack]:
        """Return where each running worker is."""
        running = [worker for worker in self._workers if worker.is_running]
        return collect_stacks(
            [Target(worker.plan.rank, worker.pid, worker.plan.error_file) for worker in running]
        )

    def describe(self) -> str:
        """Return where the running workers are, as text."""
        return stacks.render(self.collect())

    def _make_hang(self, still_s: float, stall: Stall | None = None) -> Hang:
        return Hang(tuple(self.collect()), still_s, stall)

    def _warn(self, hang: Hang, detail: str = "") -> None:
        self._say(f"{hang.describe()}{detail}:\n{stacks.render(hang.where)}")

    def _measure(self) -> Progress:
        running = [worker for worker in self._workers if worker.is_running]
        ages = [
            age
            for worker in running
            if (age := _heartbeat_age_s(worker.plan.error_file)) is not None
        ]
        return Progress(
            output_bytes=self._pipes.bytes_seen,
            cpu_s=sum(cpu_seconds(worker.pid) for worker in running),
            oldest_heartbeat_s=max(ages) if ages and self._timeout_s else None,
        )


def _heartbeat_age_s(error_file: str | None) -> float | None:
    """Return how long ago a rank last called ctx.heartbeat(); None when it never has."""
    if error_file is None:
        return None
    try:
        return max(0.0, time.time() - os.stat(error_file + ".beat").st_mtime)
    except OSError:
        return None
