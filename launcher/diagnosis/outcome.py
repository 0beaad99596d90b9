"""What happened: the end of each worker, and of one attempt on this node. Values only.

They are filled in by the room attempt and explained by cause.py and report.py.
"""

from __future__ import annotations

from launcher.exits import describe
from launcher.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.contract.error_file import WorkerError
    from launcher.diagnosis.hang import Hang


class WorkerOutcome(NamedTuple):
    """The end of one worker; `returncode` is None while it has not ended."""

    rank: int
    pid: int
    returncode: int | None
    # Monotonic seconds of this node when the end was seen, and the order in which ends were seen.
    ended_at: float = 0.0
    order: int = 0
    # Monotonic seconds at which we asked it to stop; None when we did not, or it had ended.
    asked_to_stop_at: float | None = None
    error: WorkerError | None = None
    last_lines: tuple[str, ...] = ()
    log_path: str = ""
    # Why the worker never ran, when it did not.
    start_failure: str = ""
    # What the kernel knows about its death: memory, /dev/shm.
    evidence: str = ""
    # The host that it ran on, where that may be another one than ours.
    hostname: str = ""

    @property
    def failed_at(self) -> float | None:
        """When this worker failed by itself, in monotonic seconds; None when it did not.

        A worker that had left its exception before we asked it to stop was on its way out already.
        """
        asked_at = self.asked_to_stop_at
        if self.error is not None and self.error.monotonic_ns:
            raised_at = self.error.monotonic_ns / 1e9
            return raised_at if asked_at is None or raised_at < asked_at else None
        return self.ended_at if self.returncode not in (None, 0) and asked_at is None else None

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else describe(self.returncode)
        return f"<rank {self.rank} pid {self.pid}: {state}>"


class AttemptOutcome(NamedTuple):
    """What happened on this node in one attempt."""

    attempt: int
    workers: tuple[WorkerOutcome, ...]
    # The signal that made us stop the attempt, or None.
    signum: int | None = None
    # A failure that is not one worker's: the fork server died, say.
    node_failure: str = ""
    # What made us stop an attempt that stood still.
    hang: Hang | None = None
    duration_s: float = 0.0
    # Why there cannot be another attempt, whatever has happened in this one.
    obstacle: str = ""
    # A line for each worker that was lost in this attempt and replaced while the others went on.
    replaced: tuple[str, ...] = ()

    @property
    def succeeded(self) -> bool:
        if self.node_failure or self.hang or not self.workers:
            return False
        return all(worker.returncode == 0 for worker in self.workers)
