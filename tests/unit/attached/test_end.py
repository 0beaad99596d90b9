"""The end of an attached rank: whose failure is reported, by whom, and with which exit code."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from launcher.attached.end import Failure, outcomes_of, report_once
from launcher.attached.notes import Page, Peer, open_notes
from launcher.contract.error_file import WorkerError
from launcher.diagnosis.report import FailureReport


def error(message: str, at: float, kind: str = "ValueError") -> WorkerError:
    return WorkerError(kind, message, f"Traceback ...\n{kind}: {message}\n", int(at * 1e9))


LOST = error("Connection closed by peer [127.0.0.1]:3", 1.0, "RuntimeError")


def test_a_rank_without_notes_reports_for_itself() -> None:
    reports: list[FailureReport] = []
    assert report_once(Failure(2, 3, error("why", 1.0)), None, reports.append) == 3
    assert [(report.rank, report.error_message) for report in reports] == [(2, "why")]


def test_a_rank_that_vanished_is_the_cause_when_the_others_only_miss_a_peer() -> None:
    gone = Peer(0, 2**22 + 1, "7")
    page = Page({0: gone, 1: Peer(1, 2**22 + 2, "7", "failed", 1.0, 1, LOST)})
    vanished = [
        outcome
        for outcome in outcomes_of(page, Failure(1, 1, LOST), [gone])
        if outcome.start_failure
    ]
    assert [outcome.rank for outcome in vanished] == [0]
    known = Page({**page.peers, 2: Peer(2, 2**22 + 3, "7", "failed", 2.0, 1, error("why", 2.0))})
    assert all(
        not outcome.start_failure for outcome in outcomes_of(known, Failure(1, 1, LOST), [gone])
    )


def test_a_rank_that_has_ended_well_is_known_to_the_report() -> None:
    page = Page(
        {0: Peer(0, 2**22 + 1, "7", "ended"), 1: Peer(1, 2**22 + 2, "7", "failed", 1.0, 1, LOST)}
    )
    assert [
        (outcome.rank, outcome.returncode) for outcome in outcomes_of(page, Failure(1, 1, LOST), [])
    ] == [(1, 1), (0, 0)]


def test_one_rank_reports_for_all_and_all_end_with_the_code_of_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    first, second = open_notes("job", 0, 2), open_notes("job", 1, 2)
    assert first is not None
    assert second is not None
    now = time.monotonic()
    second.fail(3, error("the cause", now - 1.0))
    reports: list[FailureReport] = []
    lost = Failure(0, 1, LOST._replace(monotonic_ns=int(now * 1e9)))
    cause = Failure(1, 3, error("the cause", now - 1.0))
    # Neither waits for the other's end: both "ranks" are this process.
    assert report_once(lost, first, reports.append, patience_s=0.0) == 3
    assert report_once(cause, second, reports.append, patience_s=0.0) == 3
    (report,) = reports
    assert (report.rank, report.exit_code, [other.ranks for other in report.others]) == (
        1,
        3,
        [(0,)],
    )


def test_a_failure_long_after_the_report_is_reported_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notes = open_notes("job", 0, 1)
    assert notes is not None
    notes.tell(0, 1)
    reports: list[FailureReport] = []
    other = Failure(0, 7, error("another matter", 1.0))
    assert report_once(other, notes, reports.append, aftermath_s=-1.0) == 7
    assert len(reports) == 1
