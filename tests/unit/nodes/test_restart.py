"""Whether there is another attempt, and when; the clock and chance are the test's."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.contract.error_file import WorkerError
from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.diagnosis.report import FailureReport
from launcher.nodes.restart import (
    STARTUP_S,
    FailedAttempt,
    RestartPolicy,
    Verdict,
    decide,
    may_replace,
)

SOON, LATE = 1.0, 3600.0


def worker(rank: int, error_type: str = "ValueError", message: str = "x") -> WorkerOutcome:
    error = WorkerError(error_type, message, "Traceback\nx")
    return WorkerOutcome(rank, 17 + rank, 1, ended_at=1.0, order=1 + rank, error=error)


def attempt(
    number: int = 0,
    duration_s: float = SOON,
    workers: tuple[WorkerOutcome, ...] = (worker(0),),
    **more: Any,
) -> AttemptOutcome:
    return AttemptOutcome(number, workers, duration_s=duration_s, **more)


def failed(
    exit_code: int = 1,
    error_type: str = "ValueError",
    message: str = "x",
    traceback: str = "Traceback\nx",
) -> FailureReport:
    return FailureReport(0, 17, "n", "exit code 1", exit_code, error_type, message, traceback)


def past(count: int, *, duration_s: float = SOON, ended_at: float = 0.0) -> list[FailedAttempt]:
    return [FailedAttempt(ended_at, duration_s)] * count


def verdict(
    outcome: AttemptOutcome,
    report: FailureReport | None,
    before: list[FailedAttempt],
    chance: float = 1.0,
    now: float = 0.0,
    **policy: Any,
) -> Verdict:
    return decide(
        outcome, report, before, RestartPolicy(**{"max_restarts": 9, **policy}), now, chance
    )


def test_success_finishes() -> None:
    outcome = AttemptOutcome(0, (WorkerOutcome(0, 17, 0, ended_at=1.0, order=1),))
    assert verdict(outcome, None, []) == Verdict("finish")


def test_signal_to_the_launcher_ends_the_run() -> None:
    assert verdict(attempt(signum=15), None, []).action == "give_up"


def test_budget_of_the_run() -> None:
    assert verdict(attempt(2), failed(), past(2), max_restarts=3).action == "restart"
    assert verdict(attempt(3), failed(), past(3), max_restarts=3) == Verdict(
        "give_up", "all 3 restarts are used up"
    )
    assert verdict(attempt(0), failed(), [], max_restarts=0) == Verdict("give_up", "")
    by_default = decide(attempt(0), failed(), [], RestartPolicy(), 0.0, 1.0)
    assert by_default == Verdict("give_up", "")


def test_budget_of_a_window_forgets_what_is_older() -> None:
    before = past(2, ended_at=1000.0, duration_s=LATE)
    limited = {"limit": (2, 600.0)}
    assert (
        "--restart-limit allows 2 restarts in 600 s"
        in verdict(attempt(2, LATE), failed(), before, now=1100.0, **limited).reason
    )
    assert verdict(attempt(2, LATE), failed(), before, now=1601.0, **limited).action == "restart"


@pytest.mark.parametrize(
    "error",
    [
        *("SyntaxError", "IndentationError", "ImportError", "ModuleNotFoundError"),
        *("NameError", "UnboundLocalError"),
    ],
)
def test_error_in_the_program_text_is_not_restarted_at_the_start(error: str) -> None:
    workers = (worker(0, error), worker(1, error))
    ended = attempt(workers=workers)
    assert error in verdict(ended, failed(error_type=error), []).reason
    # Hours later it may be a file system that was away.
    late = attempt(duration_s=LATE, workers=workers)
    assert verdict(late, failed(error_type=error), []).action == "restart"


@pytest.mark.parametrize("other", [worker(1), WorkerOutcome(1, 18, None), WorkerOutcome(1, 18, 0)])
def test_error_in_the_program_text_that_one_rank_does_not_meet_is_restarted(
    other: WorkerOutcome,
) -> None:
    ended = attempt(workers=(worker(0, "ImportError"), other))
    assert verdict(ended, failed(error_type="ImportError"), []).action == "restart"


def test_usage_error_is_not_restarted_at_the_start() -> None:
    usage = (worker(0, "SystemExit", "2"), worker(1, "SystemExit", "2"))
    report = failed(2, "", "", "")
    assert "usage error" in verdict(attempt(workers=usage), report, []).reason
    assert verdict(attempt(duration_s=LATE, workers=usage), report, []).action == "restart"
    assert verdict(attempt(), report, []).action == "restart"  # a command's own meaning of 2


def test_a_node_that_was_lost_while_no_rank_ran_is_no_usage_error() -> None:
    lost = attempt(workers=(), node_failure="node 0 (h1) was lost")
    assert verdict(lost, failed(error_type=""), []).action == "restart"


def test_every_other_failure_uses_all_restarts() -> None:
    refused = worker(0, "ConnectionRefusedError"), worker(1, "ConnectionRefusedError")
    for count in range(9):
        ended = attempt(count, workers=refused)
        assert verdict(ended, failed(), past(count)).action == "restart"
    assert verdict(attempt(9, workers=refused), failed(), past(9)).action == "give_up"


def test_codes_that_never_restart_count_at_any_time() -> None:
    codes = {"final_codes": frozenset({77})}
    assert "names exit code 77" in verdict(attempt(duration_s=LATE), failed(77), [], **codes).reason
    assert verdict(attempt(duration_s=LATE), failed(78), [], **codes).action == "restart"


def test_first_restart_comes_at_once_and_then_the_pause_doubles() -> None:
    pauses = [
        verdict(attempt(count), failed(), past(count), backoff_s=0.5).delay_s for count in range(9)
    ]
    assert pauses == [0, 0.5, 1, 2, 4, 8, 16, 32, 60]
    assert verdict(attempt(1), failed(), past(1), backoff_s=0.5) == Verdict("restart", delay_s=0.5)


def test_pause_has_jitter_between_half_and_whole() -> None:
    assert verdict(attempt(2), failed(), past(2), chance=0.0, backoff_s=4).delay_s == 4
    assert verdict(attempt(2), failed(), past(2), chance=0.5, backoff_s=4).delay_s == 6
    assert verdict(attempt(2), failed(), past(2), chance=1.0, backoff_s=4).delay_s == 8


def test_attempt_that_worked_for_long_needs_no_pause_and_begins_the_count_anew() -> None:
    assert verdict(attempt(5, STARTUP_S + 1), failed(), past(5)).delay_s == 0
    assert verdict(attempt(5), failed(), [*past(4), *past(1, duration_s=LATE)]).delay_s == 0


def test_no_pause_when_none_is_wanted() -> None:
    assert verdict(attempt(5), failed(), past(5), backoff_s=0.0).delay_s == 0


def test_a_replacement_costs_a_restart_and_needs_the_same_permission() -> None:
    before = past(1, ended_at=99.0, duration_s=LATE)

    def allowed(num_lost: int, **policy: Any) -> bool:
        return may_replace(failed(7), num_lost, before, RestartPolicy(**policy), now=100.0)

    assert allowed(1, max_restarts=2)
    assert not allowed(2, max_restarts=2)
    assert not allowed(1, max_restarts=2, final_codes=frozenset((7,)))
    assert not allowed(1, max_restarts=2, limit=(1, 10.0))
    # An attempt that fails after a replacement has one restart less.
    assert verdict(attempt(0), failed(), before, max_restarts=1).action == "give_up"
