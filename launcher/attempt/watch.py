"""Looks at the workers of an attempt from outside: does anything still move, and where is everyone?

Owns the hang timer and the collection of stacks; what a hang leads to is decided by the group.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from launcher.attempt.worker import Worker
from launcher.contract.files import heartbeat_file
from launcher.diagnosis import stacks
from launcher.diagnosis.hang import WARN_AFTER_S, Hang, HangWatch, Progress, look_interval_s
from launcher.diagnosis.probe import Target, collect_stacks, cpu_seconds
from launcher.diagnosis.stacks import RankStack
from launcher.output.pipes import WorkerPipes
from launcher.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.horovod.stalls import StallWatch

# How many intervals late we look only when we have been kept from running.
_LATE_INTERVALS = 2


class Watch:
    """The look-out over the workers of one attempt."""

    def __init__(
        self,
        workers: Sequence[Worker],
        pipes: WorkerPipes,
        loop: Loop,
        timeout_s: float,
        say: Callable[[str], None],
        on_hang: Callable[[Hang], None],
        tell_still: Callable[[bool], None] | None = None,
    ) -> None:
        """`on_hang` is called when a hang has lasted for the timeout; without a timeout there is
        only a warning. `tell_still`: asks the other nodes whether they stand still, too, when this
        one does, and tells them when it moves again.
        """
        self._workers = workers
        self._pipes = pipes
        self._loop = loop
        self._timeout_s = timeout_s
        self._say = say
        self._on_hang = on_hang
        self._hang_watch = HangWatch(loop.clock(), len(workers))
        self._tell_still = tell_still
        self._is_still = self._has_warned = False
        self._still_s = 0.0
        self._stalls: StallWatch | None = None
        self._due_at = 0.0

    def begin(self) -> None:
        """Start to look for a hang, or begin to count anew."""
        self._hang_watch.restart(self._loop.clock())
        self._set_timer()

    def end(self) -> None:
        """Look no more: a stop has begun, or everything has ended."""
        self._loop.cancel_timer(self._look)

    def hear(self, local_rank: int, data: bytes) -> None:
        """Take what a rank of Horovod has written on stderr, which may tell of a stall.

        A rank that waits in Horovod keeps a processor busy, so nothing seems to stand still.
        """
        if self._stalls is None:
            from launcher.horovod.stalls import StallWatch

            self._stalls = StallWatch()
        stall = self._stalls.hear(local_rank, data, self._loop.clock())
        if stall is None:
            return
        if self._timeout_s:
            if stall.waited_s >= self._timeout_s:
                hang = self.make_hang(stall.waited_s)
                self._on_hang(hang._replace(waits_for=stall.summary(), odd_rank=stall.odd_rank))
        elif stall.is_new:
            hang = self.make_hang(stall.waited_s)
            self._warn(hang._replace(waits_for=stall.summary()))

    def stacks(self) -> str:
        """Return where the running workers are, as text."""
        return stacks.render(self._collect())

    def _set_timer(self) -> None:
        interval_s = look_interval_s(self._timeout_s)
        self._due_at = self._loop.clock() + interval_s
        self._loop.set_timer(self._look, interval_s)

    def _look(self) -> None:
        late_s = self._loop.clock() - self._due_at
        if late_s > _LATE_INTERVALS * look_interval_s(self._timeout_s):
            # We did not run, nor did the workers: Slurm freezes all that belongs to a job.
            self.begin()
            return
        self._set_timer()
        progress = self._measure()
        still_s = self._still_s = self._hang_watch.still_for(progress, self._loop.clock())
        if self._timeout_s:
            self._judge(
                still_s >= self._timeout_s, has_heart=progress.oldest_heartbeat_s is not None
            )
        elif still_s < WARN_AFTER_S:
            self._has_warned = False
        elif not self._has_warned:
            self._has_warned = True
            self._warn(self.make_hang(still_s), " (no output, no CPU time)")

    def _judge(self, is_still: bool, *, has_heart: bool) -> None:
        """Take note whether the timeout is over; a rank without its heartbeat is a hang by itself.

        Ranks that only wait may wait for those of another node, which work.
        """
        if self._tell_still is None or has_heart:
            if is_still:
                self._on_hang(self.make_hang(self._still_s))
        elif is_still != self._is_still:
            self._is_still = is_still
            self._tell_still(is_still)

    def _collect(self) -> list[RankStack]:
        """Return where each running worker is."""
        running = [worker for worker in self._workers if worker.is_running]
        return collect_stacks(
            [Target(worker.plan.rank, worker.pid, worker.plan.error_file) for worker in running]
        )

    def find_hang(self) -> Hang:
        """Return where the running workers are, and for how long they have stood still."""
        return self.make_hang(self._still_s)

    def make_hang(self, still_s: float) -> Hang:
        """Return where the running workers are, which have stood still for so long."""
        where = tuple(self._collect())
        return Hang(where, still_s, odd_rank=stacks.odd_rank(where))

    def _warn(self, hang: Hang, detail: str = "") -> None:
        self._say(f"{hang.summary()}{detail}:\n{stacks.render(hang.where)}")

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
        return max(0.0, time.time() - os.stat(heartbeat_file(error_file)).st_mtime)
    except OSError:
        return None
