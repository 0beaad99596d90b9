"""Which failure is the first cause, and how the report says it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launcher.contract.error_file import WorkerError
from launcher.diagnosis.hang import Hang
from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.diagnosis.report import FailureReport, LaunchResult, make_report, render
from launcher.diagnosis.stacks import Frame, RankStack
from launcher.errors import LauncherError, SpawnError, UsageError
from launcher.horovod.stalls import Stall


def worker(rank: int, returncode: int | None, at: float, **more: Any) -> WorkerOutcome:
    return WorkerOutcome(
        rank=rank, pid=100 + rank, returncode=returncode, ended_at=at, order=rank, **more
    )


def raised(message: str, at: float, kind: str = "ValueError") -> WorkerError:
    return WorkerError(kind, message, f"Traceback ...\n{kind}: {message}\n", int(at * 1e9))


def report(*workers: WorkerOutcome, **more: Any) -> FailureReport:
    return make_report(
        AttemptOutcome(attempt=0, workers=workers, **more), hostname="here", run_dir=None
    )


def test_the_earliest_failure_is_the_cause_and_not_the_lowest_rank() -> None:
    found = report(worker(0, 1, 5.0), worker(1, 7, 4.0), worker(2, 0, 1.0))
    assert (found.rank, found.exit_code) == (1, 7)


def test_workers_that_we_stopped_are_not_blamed() -> None:
    found = report(
        worker(0, -15, 4.1, asked_to_stop_at=4.0),
        worker(1, -9, 4.0),
        worker(2, 0, 4.2, asked_to_stop_at=4.0),
    )
    assert (found.rank, found.exit_code, found.others) == (1, 137, ())


def test_an_exception_counts_from_when_it_was_raised() -> None:
    found = report(
        worker(0, 1, 4.0), worker(1, -15, 9.0, asked_to_stop_at=4.1, error=raised("first", 3.0))
    )
    assert (found.rank, found.error_message, found.exit_code) == (1, "first", 1)


def test_an_error_that_says_that_a_peer_has_gone_comes_after_one_that_says_why() -> None:
    gone = raised("Connection closed by peer [127.0.0.1]:3", 1.0, "RuntimeError")
    found = report(worker(0, 1, 1.1, error=gone), worker(1, 1, 2.0, error=raised("why", 1.9)))
    assert found.rank == 1
    assert [other.ranks for other in found.others] == [(0,)]


def test_a_rank_that_ended_well_is_named_where_the_others_only_missed_a_peer() -> None:
    gone = raised(
        "[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:3",
        2.0,
        "RuntimeError",
    )
    found = report(
        worker(0, 1, 2.1, error=gone), worker(1, 0, 1.0), worker(2, 0, 2.5, asked_to_stop_at=2.2)
    )
    assert (found.rank, found.exit_code) == (0, 1)
    assert found.hint.startswith("rank 1 had ended with exit code 0 while others still waited")
    known = report(worker(0, 1, 2.1, error=raised("why", 2.0)), worker(1, 0, 1.0))
    assert known.hint == ""
    no_peer = raised("<urlopen error [Errno 111] Connection refused>", 2.0, "urllib.error.URLError")
    assert report(worker(0, 1, 2.1, error=no_peer), worker(1, 0, 1.0)).hint == ""


HOROVOD_ERROR = "horovod.common.exceptions.HorovodInternalError"


@pytest.mark.parametrize(
    "lines",
    [
        (
            "terminate called after throwing an instance of 'gloo::IoException'",
            (
                "  what():  [third_party/gloo/gloo/transport/tcp/pair.h:324] Connect timeout"
                " [127.0.0.1]:14735"
            ),
            "Fatal Python error: Aborted",
        ),
        (
            "terminate called after throwing an instance of 'std::runtime_error'",
            "  what():  HTTP request failed.",
        ),
    ],
)
def test_ranks_that_horovod_aborts_come_after_the_one_that_died_even_if_they_were_seen_first(
    lines: tuple[str, ...],
) -> None:
    found = report(
        worker(0, -6, 1.0, last_lines=lines),
        worker(1, -9, 1.1),
        worker(2, -6, 1.2, last_lines=lines),
    )
    assert (found.rank, found.exit_code) == (1, 137)
    assert [(other.ranks, other.is_same) for other in found.others] == [((0, 2), False)]


def test_an_abort_of_another_kind_is_a_cause() -> None:
    aborted = worker(
        0, -6, 1.0, last_lines=("terminate called after throwing an instance of 'std::bad_alloc'",)
    )
    assert report(aborted, worker(1, -9, 1.1)).rank == 0


def test_tensors_that_do_not_match_are_the_cause_and_that_horovod_has_been_shut_down_is_not() -> (
    None
):
    text = (
        "Mismatched ALLREDUCE tensor shapes: One rank sent a tensor of shape [4], but another rank"
        " sent [5]."
    )
    gone = raised(
        "Horovod has been shut down. This was caused by an exception on one of the ranks",
        1.0,
        HOROVOD_ERROR,
    )
    mismatches = [
        worker(rank, 1, 2.0 + rank, error=raised(text, 2.0 + rank, HOROVOD_ERROR))
        for rank in (1, 2)
    ]
    found = report(worker(0, 1, 1.0, error=gone), *mismatches)
    assert (found.rank, found.error_message) == (1, text)
    assert [(other.ranks, other.is_same) for other in found.others] == [((2,), True), ((0,), False)]


def hang(stall: Stall) -> FailureReport:
    """A hang of ranks 0 and 1: both stand in the same line."""
    frames = (Frame("train.py", 9, "step"),)
    workers = (worker(0, None, 0.0), worker(1, None, 0.0))
    where = (RankStack(0, frames), RankStack(1, frames))
    return report(*workers, hang=Hang(where, 30.0, stall.odd_rank, stall.describe()))


def test_a_stall_that_horovod_found_names_the_missing_rank_and_the_tensors() -> None:
    found = hang(Stall(30.0, {1: ("allreduce.a", "allreduce.b")}))
    assert (found.rank, found.pid, found.exit_code) == (1, 101, 124)
    assert found.what.startswith(
        "Horovod has waited for 30 s for rank 1 in allreduce.a, allreduce.b: ranks 0-1 are at "
    )


def test_ranks_that_horovod_says_wait_for_each_other_are_all_named_and_none_is_blamed() -> None:
    found = hang(Stall(30.0, {0: ("allreduce.b",), 1: ("allreduce.a",)}))
    assert (found.rank, found.exit_code) == (-1, 124)
    assert found.what.startswith(
        "Horovod has waited for 30 s for rank 0 in allreduce.b; rank 1 in allreduce.a: "
    )


def test_equal_failures_are_grouped() -> None:
    found = report(
        *(worker(rank, 1, 1.0 + rank, error=raised("same", 1.0 + rank)) for rank in range(4))
    )
    assert found.rank == 0
    assert [(other.ranks, other.is_same) for other in found.others] == [((1, 2, 3), True)]
    text = render(found)
    assert "the same on ranks 1-3" in text
    assert text.count("ValueError: same") == 1


def test_a_failure_of_the_node_is_nobodys() -> None:
    found = report(
        worker(0, -9, 1.0, asked_to_stop_at=1.0), node_failure="the fork server has died"
    )
    assert (found.rank, found.exit_code) == (-1, 1)
    assert render(found).startswith("FAILED: the fork server has died")


@pytest.mark.parametrize("colour", [False, True])
def test_colours_only_where_they_are_wanted(colour: bool) -> None:
    assert ("\x1b[" in render(report(worker(0, 3, 1.0)), colour=colour)) == colour


def test_the_report_survives_the_way_through_its_file() -> None:
    found = report(
        worker(0, 1, 1.0, error=raised("\ud800 é\n", 1.0), last_lines=("a", "b")), worker(1, 2, 2.0)
    )
    assert FailureReport.from_json(json.loads(found.to_json())) == found
    for result in (LaunchResult(3, "/runs/a", 2, found), LaunchResult(0, None, 1)):
        assert LaunchResult.from_json(json.loads(result.to_json())) == result


@pytest.mark.parametrize(
    "error",
    [
        UsageError("There is no script.", hint="Type one."),
        LauncherError("The disk is full."),
        SpawnError("not found", exit_code=127),
    ],
)
def test_an_error_before_the_start_is_raised_again_as_what_it_was(error: LauncherError) -> None:
    result = LaunchResult(error.exit_code, error=error)
    again = LaunchResult.from_json(json.loads(result.to_json())).error
    assert type(again) is type(error)
    assert again is not None
    assert (again.message, again.hint, again.exit_code) == (
        error.message,
        error.hint,
        error.exit_code,
    )


def test_a_traceback_without_end_is_shortened_in_the_middle() -> None:
    error = WorkerError("E", "m", "".join(f"line {i}\n" for i in range(1000)), 1)
    lines = render(report(worker(0, 1, 1.0, error=error))).splitlines()
    assert len(lines) < 100
    assert any("line 0" in line for line in lines)
    assert any("line 999" in line for line in lines)


def left(rank: int, code: int, at: float, *said: str) -> WorkerOutcome:
    """A rank that called sys.exit with a number, and what it had written before."""
    return worker(
        rank,
        code,
        at,
        error=WorkerError("SystemExit", str(code), "", int(at * 1e9)),
        last_lines=said,
    )


def test_of_ranks_that_leave_together_the_one_that_said_why_is_named() -> None:
    found = report(left(0, 2, 4.03, "error: no such folder"), left(1, 2, 4.0), left(2, 2, 4.01))
    assert (found.rank, found.last_lines) == (0, ("error: no such folder",))
    assert [(other.ranks, other.is_same) for other in found.others] == [((1, 2), True)]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (left(0, 2, 5.0, "epoch 1"), "long after it"),
        (left(0, 3, 4.03, "epoch 1"), "another exit code"),
        (
            worker(0, 2, 4.03, error=raised("x", 4.03), last_lines=("ValueError: x",)),
            "an exception",
        ),
    ],
)
def test_a_rank_that_left_without_a_word_is_named_when_the_other_ended_otherwise(
    other: WorkerOutcome, why: str
) -> None:
    assert report(other, left(1, 2, 4.0)).rank == 1, why
