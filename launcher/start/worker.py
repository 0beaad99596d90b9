"""One worker of a group and the start method behind it: the words that the files about groups
share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from launcher.events import Event
from launcher.exits import describe
from launcher.plan.plan import WorkerPlan


class Starter(Protocol):
    """A start method: makes worker processes from their plans, and knows of their ends."""

    method: str

    @property
    def is_ready(self) -> bool:
        """Whether workers may be started: not before a fork server has done its imports."""
        ...

    @property
    def pid(self) -> int:
        """The process that it has besides the workers; 0 when there is none."""
        ...

    def start(self, worker: WorkerPlan, descriptors: Sequence[int]) -> Iterable[Event]:
        """Start one worker with these descriptors as its stdin, stdout and stderr."""
        ...

    def collect_exits(self) -> list[Event]:
        """Return what has ended since the last call. Called on SIGCHLD."""
        ...

    def reap(self, pid: int) -> int | None:
        """Let the process id of an ended worker go. Returns its peak memory in KiB, None where that
        is not known.
        """
        ...

    def take_set_aside(self) -> Iterable[Event]:
        """Return events that came while an answer was awaited."""
        ...

    def close(self) -> None:
        """End what it has started, but for the workers that are our own children."""
        ...


class Worker:
    """The state of one worker in this attempt."""

    def __init__(self, plan: WorkerPlan) -> None:
        self.plan = plan
        self.pid = 0
        self.returncode: int | None = None
        self.ended_at = 0.0
        self.order = 0
        self.asked_to_stop_at: float | None = None
        self.start_failure = ""
        self.is_reaped = False
        self.evidence = ""

    @property
    def is_running(self) -> bool:
        return self.pid != 0 and self.returncode is None

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else describe(self.returncode)
        return f"<worker {self.plan.rank} pid {self.pid}: {state}>"
