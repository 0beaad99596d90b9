"""How an attached rank ends when it fails: one rank of the host reports, and the cause ends first.

The first that fails waits a moment for others that fail with it, prints the report of
diagnosis/report.py, and says so in the notes. The rest print nothing and wait for that.
The engine (mpirun, say) stops a job at the first rank that ends with an error, and names it: so the
others stay until the one that the report names has gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from launcher.attached.notes import Page, Peer, PeerNotes
from launcher.contract.error_file import WorkerError
from launcher.diagnosis.cause import knows_the_cause
from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.diagnosis.report import FailureReport, make_report

# How long to wait for ranks that fail at the same moment, in seconds.
_TOGETHER_S = 0.25

# The same while all that have failed only miss a peer, because the one that knows why is still on
# its way out; and while some ranks have not even started.
_CAUSE_S = 1.0

# How long to wait for another rank's report, and for the cause to end, in seconds. A script may do
# a lot when it ends.
PATIENCE_S = 5.0

# A rank that fails later than this many seconds after the report does not fail because of it.
AFTERMATH_S = 10.0

_POLL_S = 0.01

_GONE = "ended without an exception: by a signal, a crash or os._exit"


class Failure(NamedTuple):
    """How this rank fails."""

    rank: int
    returncode: int
    error: WorkerError
    # Which start of the job this is, from 0, and for how long the script has run, in seconds.
    attempt: int = 0
    duration_s: float = 0.0


def report_once(
    failure: Failure,
    notes: PeerNotes | None,
    publish: Callable[[FailureReport], None],
    *,
    patience_s: float = PATIENCE_S,
    aftermath_s: float = AFTERMATH_S,
) -> int:
    """See to it that this failure is reported once on this host.

    Returns the exit code with which this rank must end.

    publish: prints the report. Called by one rank only, unless the notes are None or cannot be
    written. Takes up to some seconds, because other ranks are waited for.
    """
    if notes is None or _goes_on(notes.read(), aftermath_s):
        return _report(failure, None, publish, patience_s)
    notes.fail(failure.returncode, failure.error)
    deadline = time.monotonic() + patience_s
    while (page := notes.read()).exit_code is None:
        if notes.claim_report() or time.monotonic() > deadline:
            return _report(failure, notes, publish, patience_s)
        time.sleep(_POLL_S)
    _let_the_cause_end(page, notes, patience_s)
    return page.exit_code


def _goes_on(page: Page, aftermath_s: float) -> bool:
    """Tell whether the job has gone on after a failure, as srun lets it: this is another matter."""
    return page.exit_code is not None and time.monotonic() - page.told_at > aftermath_s


def _report(
    failure: Failure,
    notes: PeerNotes | None,
    publish: Callable[[FailureReport], None],
    patience_s: float,
) -> int:
    page, gone = _wait_for_others(notes) if notes is not None else (Page(), [])
    outcome = AttemptOutcome(
        failure.attempt, outcomes_of(page, failure, gone), duration_s=failure.duration_s
    )
    report = make_report(outcome, hostname=os.uname().nodename, run_dir=None)
    publish(report)
    if notes is not None:
        notes.tell(report.rank, report.exit_code)
        _let_the_cause_end(notes.read(), notes, patience_s)
    return report.exit_code


def _wait_for_others(notes: PeerNotes) -> tuple[Page, list[Peer]]:
    """Wait for ranks that fail at the same moment; not longer when there are no others left.

    Returns the notes then, and the first ranks that were seen to have vanished. Only the first: an
    engine that has noticed it kills the others.
    """
    began = time.monotonic()
    gone: list[Peer] = []
    while True:
        page = notes.read()
        gone = gone or [peer for peer in page.peers.values() if peer.has_gone]
        busy = [peer for peer in page.peers.values() if peer.state == "came" and not peer.has_gone]
        # A rank that has not even started will find no note of this report, and print its own.
        have_come = len(page.peers) >= notes.expected
        if have_come and not busy:
            return page, gone
        is_clear = bool(gone) or knows_the_cause(_outcome_of(peer, 0) for peer in page.failed)
        if time.monotonic() - began > (_TOGETHER_S if is_clear and have_come else _CAUSE_S):
            return page, gone
        time.sleep(_POLL_S)


def outcomes_of(page: Page, failure: Failure, gone: list[Peer]) -> tuple[WorkerOutcome, ...]:
    """Return the ends of this host's ranks; `gone` are those that could not say why they ended."""
    peers = {peer.rank: peer for peer in page.failed}
    # Ours is not there when the notes could not be written.
    moment = failure.error.monotonic_ns / 1e9
    ours = Peer(failure.rank, os.getpid(), "", "failed", moment, failure.returncode, failure.error)
    peers.setdefault(failure.rank, ours)
    outcomes = [_outcome_of(peer, order) for order, peer in enumerate(peers.values())]
    if not knows_the_cause(outcomes):
        # The others have lost a peer: here it is. When somebody knows better, it was the engine
        # that stopped it.
        outcomes += [WorkerOutcome(peer.rank, peer.pid, 1, start_failure=_GONE) for peer in gone]
    outcomes += [
        WorkerOutcome(peer.rank, peer.pid, 0)
        for peer in page.peers.values()
        if peer.state == "ended"
    ]
    return tuple(outcomes)


def _outcome_of(peer: Peer, order: int) -> WorkerOutcome:
    return WorkerOutcome(
        peer.rank, peer.pid, peer.returncode, peer.failed_at, order, error=peer.error
    )


def _let_the_cause_end(page: Page, notes: PeerNotes, patience_s: float) -> None:
    """Wait until the rank that the report names has ended, so that the engine names it as well."""
    cause = page.peers.get(page.cause)
    deadline = time.monotonic() + patience_s
    while (
        cause is not None
        and cause.rank != notes.rank
        and cause.is_alive
        and time.monotonic() < deadline
    ):
        time.sleep(_POLL_S)
