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
    """A start method: makes a worker process from a plan, and knows of its end."""

    method: str
    is_ready: bool

    def start(self, worker: WorkerPlan, descriptors: Sequence[int]) -> Iterable[Event]: ...
    def collect_exits(self) -> list[Event]: ...
    def reap(self, pid: int) -> int | None: ...
    def take_set_aside(self) -> Iterable[Event]: ...
    def close(self) -> None: ...


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

    @property
    def is_running(self) -> bool:
        return self.pid != 0 and self.returncode is None

    @property
    def state(self) -> str:
        """In words: starting, running, or how it has ended."""
        if self.returncode is not None:
            return describe(self.returncode)
        return "running" if self.pid else "starting"

    def __repr__(self) -> str:
        return f"<worker {self.plan.rank} pid {self.pid}: {self.state}>"
