"""What a start method is to the rest: it makes worker processes, and knows of their ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from launcher.events import Event
from launcher.plan.plan import WorkerPlan


class Starter(Protocol):
    """A start method: makes worker processes from their plans, and knows of their ends."""

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
        """Let the process id of an ended worker go; return its peak memory in KiB.

        None where that is not known.
        """
        ...

    def forget(self, pid: int) -> None:
        """Say nothing more of a worker that was given up: its end, if it comes, is no event."""
        ...

    def close(self) -> None:
        """End what it has started, but for the workers that are our own children."""
        ...
