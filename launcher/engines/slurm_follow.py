"""A batch job, followed from here: its output as it comes, its end as our exit code.

A signal that stops cancels the job, whose ranks then have Slurm's KillWait to save; its output is
shown to the end. Slurm is asked seldom: a controller has many to answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from launcher.engines import slurm_client
from launcher.events import Event, Signalled
from launcher.exits import signal_name
from launcher.output.console import LOW_WATER_BYTES
from launcher.output.writer import StreamWriter
from launcher.system.loop import Loop

# Between two questions for the job's state: at first, and after it has been followed for a while.
_ASK_S = 0.5
_ASK_SELDOM_S = 2.0
_WHILE_S = 60.0

# Between two looks at the file that the job writes.
_READ_S = 0.1

# For so long nobody worries about a controller that does not answer.
_PATIENCE_S = 600.0

_BLOCK = 1 << 16


def follow(number: str, path: str, signals: Sequence[int], say: Callable[[str], None]) -> int:
    """Show what a job writes into `path` until it is over; return its exit code."""
    with Loop(signals) as loop:
        follower = _Follower(loop, number, path, say)
        try:
            return follower.wait()
        finally:
            follower.close()


class _Follower:
    def __init__(self, loop: Loop, number: str, path: str, say: Callable[[str], None]) -> None:
        self._loop = loop
        self._number = number
        self._path = path
        self._say = say
        self._writer = StreamWriter(1, loop)
        self._file = -1
        self._job = slurm_client.Job("")
        self._heard_at = self._began = time.monotonic()
        self._signum = 0
        self._is_over = False

    def wait(self) -> int:
        """Turn the loop until the job is over; return the exit code."""
        self._ask()
        self._read()
        while not self._is_over:
            self._loop.turn(self._handle)
        self._read()
        self._writer.drain()
        return self._exit_code()

    def close(self) -> None:
        """Let go of the file and the timers."""
        for timer in (self._ask, self._read):
            self._loop.cancel_timer(timer)
        if self._file >= 0:
            os.close(self._file)
        self._writer.close()

    def _handle(self, event: Event) -> None:
        if not isinstance(event, Signalled):
            return
        if self._signum:
            # Nobody waits any longer for what it saves.
            slurm_client.signal_step(self._number, 9)
            self._is_over = True
            return
        self._signum = event.signum
        self._say(
            f"received {signal_name(event.signum)}; cancelling job {self._number}, a second one"
            " kills it"
        )
        problem = slurm_client.cancel(self._number)
        if problem:
            self._say(f"job {self._number} was not cancelled: {problem}")
        self._ask()

    def _ask(self) -> None:
        """Ask for the job's state, and when to ask again."""
        job = slurm_client.ask(self._number)
        now = time.monotonic()
        if job.state or not job.reason:
            self._heard_at = now
        if job.is_waiting and job.reason not in ("", self._job.reason):
            self._say(f"job {self._number} waits: {job.reason}")
        self._job = job
        is_answer = bool(job.state) or not job.reason
        is_known = job.is_waiting or job.is_running
        self._is_over = not is_known and (is_answer or now - self._heard_at > _PATIENCE_S)
        is_new = now - self._began < _WHILE_S or self._signum
        self._loop.set_timer(self._ask, _ASK_S if is_new else _ASK_SELDOM_S)

    def _read(self) -> None:
        """Show what has come to the file, as far as the reader of our stdout takes it."""
        self._loop.set_timer(self._read, _READ_S)
        if self._file < 0:
            try:
                self._file = os.open(self._path, os.O_RDONLY)
            except FileNotFoundError:
                return
        while self._writer.pending_bytes < LOW_WATER_BYTES:
            data = os.read(self._file, _BLOCK)
            if not data:
                return
            self._writer.write(data)

    def _exit_code(self) -> int:
        if self._signum:
            return 128 + self._signum
        state = self._job.state
        if state == "COMPLETED":
            return 0
        code = slurm_client.ask_exit_code(self._number) or 1
        self._say(f"job {self._number} has ended: {state or self._job.reason or 'unknown'}")
        return code
