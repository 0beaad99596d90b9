"""Ended workers for the tests of this room, and the report that is made of them."""

from __future__ import annotations

from typing import Any

from launcher.contract.error_file import WorkerError
from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.diagnosis.report import FailureReport, make_report


def worker(rank: int, returncode: int | None, at: float, **more: Any) -> WorkerOutcome:
    """A worker that has ended at this time, or still runs: returncode None."""
    return WorkerOutcome(
        rank=rank, pid=100 + rank, returncode=returncode, ended_at=at, order=rank, **more
    )


def raised(message: str, at: float, kind: str = "ValueError") -> WorkerError:
    """An exception, as a worker leaves it in its error file."""
    return WorkerError(kind, message, f"Traceback ...\n{kind}: {message}\n", int(at * 1e9))


def report(*workers: WorkerOutcome, **more: Any) -> FailureReport:
    return make_report(
        AttemptOutcome(attempt=0, workers=workers, **more), hostname="here", run_dir=None
    )
