"""The state of one worker in an attempt; the group changes it, the files beside it read it."""

from __future__ import annotations

from launcher.exits import describe
from launcher.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.plan.plan import WorkerPlan


class WorkerStatus(NamedTuple):
    """One rank as `ctl ps` shows it. `state` is `running`, `starting` or how it ended."""

    rank: int
    pid: int
    state: str
    # How long ago it wrote something, in seconds; None when it never has.
    last_output_s: float | None


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
        # The signal by which its engine has told it to end, and when.
        self.told_signum: int | None = None
        self.told_at = 0.0
        # Why it ended, where the kernel need not be asked.
        self.known_cause = ""
        self.is_reaped = False
        # The most memory that it has had in use; None where that is not known.
        self.peak_kib: int | None = None

    @property
    def is_running(self) -> bool:
        return self.pid != 0 and self.returncode is None

    def told_within(self, seconds: float, now: float) -> int | None:
        """Return the signal by which its engine has told it to end, unless that is longer ago."""
        return None if now - self.told_at > seconds else self.told_signum

    @property
    def state(self) -> str:
        """What it does, in words: starting, running, or how it has ended."""
        if self.returncode is not None:
            return describe(self.returncode)
        return "running" if self.pid else "starting"

    def __repr__(self) -> str:
        return f"<worker {self.plan.rank} pid {self.pid}: {self.state}>"
