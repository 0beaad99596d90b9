"""Which of several failures came first, and which only followed from it."""

from __future__ import annotations

import pytest

from launcher.contract.error_file import WorkerError
from launcher.diagnosis.outcome import WorkerOutcome
from launcher.exits import shell_code
from tests.unit.diagnosis.ended import raised, report, worker


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


@pytest.mark.parametrize("returncode", [None, -15])
def test_a_rank_that_has_called_exit_has_its_code_although_the_stop_overtook_it(
    returncode: int | None,
) -> None:
    leaving = WorkerError("SystemExit", "3", "", int(3.0 * 1e9), exit_code=3)
    found = report(
        worker(0, 1, 4.0), worker(1, returncode, 9.0, asked_to_stop_at=4.1, error=leaving)
    )
    assert (found.rank, found.what, found.exit_code) == (1, "exit code 3", 3)


def test_an_error_that_says_that_a_peer_has_gone_comes_after_one_that_says_why() -> None:
    gone = raised("Connection closed by peer [127.0.0.1]:3", 1.0, "RuntimeError")
    found = report(worker(0, 1, 1.1, error=gone), worker(1, 1, 2.0, error=raised("why", 1.9)))
    assert found.rank == 1
    assert [other.ranks for other in found.others] == [(0,)]


def test_the_end_of_a_pipe_is_no_cause_and_that_of_a_file_is() -> None:
    killed = worker(1, -9, 1.1)
    assert report(worker(0, 1, 1.2, error=raised("", 1.0, "EOFError")), killed).rank == 1
    truncated = raised("Ran out of input", 1.0, "EOFError")
    assert report(worker(0, 1, 1.2, error=truncated), killed).rank == 0


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


PEER_GONE = raised("Connection closed by peer", 1.0, "RuntimeError")


@pytest.mark.parametrize(
    ("returncode", "evidence"), [(9, ""), (-11, ""), (-9, "by the out-of-memory killer")]
)
def test_end_that_is_heard_of_just_after_the_stop_began_is_the_cause(
    returncode: int, evidence: str
) -> None:
    late = worker(1, returncode, 1.02, asked_to_stop_at=1.01, evidence=evidence)
    found = report(worker(0, 1, 1.0, error=PEER_GONE), late)
    assert (found.rank, found.exit_code) == (1, shell_code(returncode))


def test_of_those_that_end_just_after_the_stop_began_one_that_missed_a_peer_is_no_cause() -> None:
    line = "RuntimeError: Connection closed by peer [127.0.0.1]:12"
    missed = worker(1, 1, 1.02, asked_to_stop_at=1.01, last_lines=(line,))
    crashed = worker(2, -11, 1.02, asked_to_stop_at=1.01)
    first = worker(0, 1, 1.0, last_lines=(line,))
    found = report(first, missed, crashed)
    assert (found.rank, found.exit_code) == (2, 139)
    assert [other.ranks for other in found.others] == [(0, 1)]
    assert report(missed, first._replace(rank=2)).rank == 2


@pytest.mark.parametrize(
    ("returncode", "ended_at"), [(-15, 1.02), (143, 1.02), (0, 1.02), (-9, 1.02), (9, 5.0)]
)
def test_end_that_the_stop_brought_about_is_no_cause(returncode: int, ended_at: float) -> None:
    late = worker(1, returncode, ended_at, asked_to_stop_at=1.01)
    assert report(worker(0, 1, 1.0, error=PEER_GONE), late).rank == 0


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
