"""A node's account tells how long ago things happened, so that no two clocks are compared."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from launcher.contract.error_file import WorkerError
from launcher.diagnosis.cause import in_order_of_blame
from launcher.diagnosis.hang import Hang
from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.diagnosis.stacks import Frame, RankStack
from launcher.nodes.account import make_account, merge, read_account

# Clocks that have nothing in common: of a host that is up for a month, of one that has just
# started, and of the coordinator's.
OLD, YOUNG, OURS = 2_600_000.0, 3.0, 500.0


def worker(rank: int, code: int | None, ended_at: float, **fields: Any) -> WorkerOutcome:
    return WorkerOutcome(rank, 1000 + rank, code, ended_at, **fields)


def travel(outcome: AttemptOutcome, told_at: float, came_at: float = OURS) -> AttemptOutcome:
    """Return an outcome as the coordinator reads it, told and read by different clocks."""
    account = json.loads(json.dumps(make_account(outcome, told_at)))
    return read_account(account, "h1", outcome.attempt, came_at)


def test_a_success_is_told_in_few_words() -> None:
    done = tuple(worker(rank, 0, OLD - rank) for rank in (4, 5))
    outcome = AttemptOutcome(2, done, duration_s=12.5)
    assert make_account(outcome, OLD) == {"duration": 12.5, "ranks": [4, 5], "asked": False}
    heard = travel(outcome, OLD)
    assert heard.succeeded and heard.duration_s == 12.5
    assert [(one.rank, one.hostname, one.asked_to_stop_at) for one in heard.workers] == [
        (4, "h1", None),
        (5, "h1", None),
    ]


def test_who_ended_well_because_it_was_asked_to_is_known_to_have_been() -> None:
    done = worker(0, 0, OLD, asked_to_stop_at=OLD - 1)
    heard = travel(AttemptOutcome(0, (done,)), OLD)
    assert heard.succeeded and heard.workers[0].asked_to_stop_at is not None


@pytest.mark.parametrize("clock", [OLD, YOUNG])
def test_ages_are_counted_back_from_when_the_account_comes(clock: float) -> None:
    error = WorkerError("ValueError", "no", "Traceback ...", int((clock - 1.5) * 1e9), True, 3)
    failed = worker(3, 1, clock - 1.25, order=1, error=error, last_lines=("a", "b"))
    killed = worker(4, -15, clock - 0.25, order=2, asked_to_stop_at=clock - 1.0)
    waiting = worker(5, None, 0.0)
    heard = travel(AttemptOutcome(1, (failed, killed, waiting), duration_s=9.0), clock)
    first, second, third = sorted(heard.workers, key=lambda one: one.rank)
    assert first.ended_at == pytest.approx(OURS - 1.25)
    assert first.error is not None
    assert first.error.monotonic_ns / 1e9 == pytest.approx(OURS - 1.5)
    said = first.error
    assert (said.type, said.message, said.used_mpi, said.exit_code) == ("ValueError", "no", True, 3)
    assert (first.last_lines, first.order, first.returncode) == (("a", "b"), 1, 1)
    assert second.asked_to_stop_at == pytest.approx(OURS - 1.0)
    assert second.ended_at == pytest.approx(OURS - 0.25)
    assert third.returncode is None and third.error is None
    assert not heard.succeeded


def test_an_exception_without_a_time_has_none_afterwards() -> None:
    failed = worker(0, 1, OLD, error=WorkerError("E", "m", "t"))
    error = travel(AttemptOutcome(0, (failed,)), OLD).workers[0].error
    assert error is not None and error.monotonic_ns == 0


def test_an_exception_from_before_our_clock_began_still_has_a_time() -> None:
    """One that was raised longer ago than the coordinator's host is up."""
    failed = worker(0, 1, OLD, error=WorkerError("E", "m", "t", int((OLD - 900) * 1e9)))
    error = travel(AttemptOutcome(0, (failed,)), OLD).workers[0].error
    assert error is not None and error.monotonic_ns == 1


@pytest.mark.parametrize("is_old_first", [True, False])
def test_the_first_cause_of_several_nodes_is_the_one_that_is_longest_ago(
    is_old_first: bool,
) -> None:
    old_s, young_s = (0.8, 0.3) if is_old_first else (0.3, 0.8)
    on_old = AttemptOutcome(0, (worker(0, 3, OLD - old_s, order=1),))
    on_young = AttemptOutcome(0, (worker(1, 4, YOUNG - young_s, order=1),))
    heard = [travel(on_old, OLD), travel(on_young, YOUNG)]
    for accounts in (heard, heard[::-1]):
        blamed = in_order_of_blame(merge(accounts, 0))
        assert [one.rank for one in blamed] == ([0, 1] if is_old_first else [1, 0])


def test_an_account_that_comes_late_does_not_make_its_failure_late() -> None:
    """The second account is told, and comes, a second after the first."""
    early = travel(AttemptOutcome(0, (worker(0, 3, OLD - 0.1),)), OLD, OURS)
    late = travel(AttemptOutcome(0, (worker(1, 4, YOUNG - 1.5),)), YOUNG, OURS + 1.0)
    assert [one.rank for one in in_order_of_blame(merge([early, late], 0))] == [1, 0]


def test_who_only_missed_a_peer_is_no_cause_however_early() -> None:
    lost = WorkerError("RuntimeError", "Connection closed by peer", "Traceback ...")
    on_old = AttemptOutcome(0, (worker(0, 1, OLD - 0.9, error=lost),))
    on_young = AttemptOutcome(0, (worker(1, -9, YOUNG - 0.2),))
    blamed = in_order_of_blame(merge([travel(on_old, OLD), travel(on_young, YOUNG)], 0))
    assert [one.rank for one in blamed] == [1, 0]


def test_all_nodes_are_one_outcome_in_the_order_of_rank() -> None:
    here = AttemptOutcome(
        0, (worker(2, 0, 1.0), worker(3, 0, 1.0)), duration_s=3.0, replaced=("a",)
    )
    there = AttemptOutcome(
        0, (worker(0, 0, 1.0), worker(1, 0, 1.0)), duration_s=5.0, replaced=("b",)
    )
    both = merge([here, there], 7)
    assert [one.rank for one in both.workers] == [0, 1, 2, 3]
    assert (both.attempt, both.duration_s, both.replaced) == (7, 5.0, ("a", "b"))
    assert both.succeeded
    broken = here._replace(node_failure="the fork server died", obstacle="no memory")
    assert merge([there, broken], 7).node_failure == "the fork server died"
    assert merge([there, broken], 7).obstacle == "no memory"
    assert merge([], 7) == AttemptOutcome(7, ())


def test_where_ranks_stood_is_told_and_put_together() -> None:
    waits = (Frame("/site/torch/distributed/c10d.py", 10, "all_reduce"),)
    works = (Frame("/home/train.py", 5, "load"),)
    here = Hang((RankStack(1, works), RankStack(0, waits)), 30.0)
    there = Hang((RankStack(2, waits), RankStack(3, condition="has ended")), 31.5)
    outcomes = [
        travel(AttemptOutcome(0, (worker(rank, None, 0.0),), hang=hang), OLD)
        for rank, hang in ((0, here), (2, there))
    ]
    hang = merge(outcomes, 0).hang
    assert hang is not None
    assert [stack.rank for stack in hang.where] == [0, 1, 2, 3]
    assert hang.where[1].frames == works
    assert hang.where[3].condition == "has ended"
    assert hang.still_s == 31.5


def test_horovod_names_the_odd_rank_itself() -> None:
    hang = Hang((RankStack(0),), 60.0, odd_rank=5, waits_for="rank 5")
    outcome = travel(AttemptOutcome(0, (worker(0, None, 0.0),), hang=hang), OLD)
    merged = merge([outcome], 0).hang
    assert merged is not None and (merged.odd_rank, merged.waits_for) == (5, "rank 5")


def test_long_texts_are_cut() -> None:
    lines = tuple(f"{number} " + "x" * 5000 for number in range(100))
    error = WorkerError("E", "m" * 9000, "t" * 90_000 + "end")
    outcome = AttemptOutcome(0, (worker(0, 1, 1.0, error=error, last_lines=lines),))
    [heard] = travel(outcome, OLD).workers
    assert len(heard.last_lines) == 60 and max(map(len, heard.last_lines)) == 2000
    assert heard.last_lines[-1].startswith("99 ")
    assert heard.error is not None
    assert len(heard.error.message) == 4000
    assert len(heard.error.traceback) == 40_000 and heard.error.traceback.endswith("end")


def test_of_many_failures_the_first_keep_their_words_and_all_their_exit_codes() -> None:
    lines = ("x" * 2000,) * 60
    failed = [worker(rank, 1, 1.0, order=64 - rank, last_lines=lines) for rank in range(64)]
    account = make_account(AttemptOutcome(0, tuple(failed)), OLD)
    assert len(json.dumps(account)) < 400_000
    heard = {one.rank: one for one in read_account(account, "h", 0, OURS).workers}
    assert [heard[rank].returncode for rank in range(64)] == [1] * 64
    assert heard[63].last_lines == lines  # its end was seen first
    assert heard[0].last_lines == ()


FAILED: dict[str, Any] = make_account(
    AttemptOutcome(0, (worker(0, 1, OLD, error=WorkerError("E", "m", "t", 1)),)), OLD
)
[TOLD] = FAILED["workers"]


@pytest.mark.parametrize(
    "account",
    [
        {},
        {"ranks": [0]},
        {"ranks": 5, "asked": True, "duration": 1.0},
        {"ranks": ["x"], "asked": True, "duration": 1.0},
        {"ranks": [0], "asked": True, "duration": None},
        {"ranks": [math.inf], "asked": True, "duration": 1.0},
        {"ranks": [0], "asked": True, "duration": 10**400},
        {**FAILED, "workers": None},
        {**FAILED, "workers": [5]},
        {**FAILED, "workers": [[]]},
        {**FAILED, "replaced": 5},
        {**FAILED, "hang": []},
        {**FAILED, "hang": [[[0, [["f"]], ""]], 1.0, None, ""]},
        {**FAILED, "workers": [{**TOLD, "ended": "long ago"}]},
        {**FAILED, "workers": [{**TOLD, "code": []}]},
        {**FAILED, "workers": [{**TOLD, "lines": 5}]},
        {**FAILED, "workers": [{**TOLD, "error": ["E"]}]},
        {**FAILED, "workers": [{**TOLD, "error": ["E", "m", "t", -math.inf, False]}]},
        {key: value for key, value in FAILED.items() if key != "obstacle"},
    ],
)
def test_what_is_no_account_is_called_so(account: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^no account of an attempt$"):
        read_account(account, "h1", 0, OURS)
