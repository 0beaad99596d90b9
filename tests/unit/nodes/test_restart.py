"""Whether an attempt is followed by another, and after which pause; the clock and chance are the
test's.
"""

from __future__ import annotations

from typing import Any

import pytest

from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.diagnosis.report import make_report
from launcher.nodes.restart import FailedAttempt, RestartPolicy, Verdict, decide, may_replace


def verdict(policy: RestartPolicy, past: list[FailedAttempt] | None = None, **more: Any) -> Verdict:
    details = {"attempt": len(past or []), "duration_s": 60.0, **more}
    returncode = details.pop("returncode", 1)
    outcome = AttemptOutcome(
        workers=(WorkerOutcome(rank=0, pid=1, returncode=returncode, ended_at=1.0),), **details
    )
    report = (
        None
        if outcome.succeeded or outcome.signum
        else make_report(outcome, hostname="here", run_dir=None)
    )
    return decide(outcome, report, past or [], policy, now=100.0, chance=1.0)


def test_a_success_is_the_end() -> None:
    assert verdict(RestartPolicy(max_restarts=5), returncode=0).action == "finish"


def test_a_failure_is_followed_by_another_attempt_until_none_is_left() -> None:
    past: list[FailedAttempt] = []
    for _ in range(3):
        assert verdict(RestartPolicy(max_restarts=3), past).action == "restart"
        past.append(FailedAttempt(ended_at=1.0, duration_s=60.0, signature=""))
    assert verdict(RestartPolicy(max_restarts=3), past).action == "give_up"
    assert verdict(RestartPolicy()).action == "give_up"


def test_a_signal_to_the_launcher_is_never_answered_by_a_restart() -> None:
    assert verdict(RestartPolicy(max_restarts=3), signum=15).action == "give_up"


@pytest.mark.parametrize("quick", [0, 1, 2, 3])
def test_the_pause_doubles_while_attempts_fail_at_once(quick: int) -> None:
    past = [FailedAttempt(ended_at=1.0, duration_s=1.0, signature="")] * quick
    found = verdict(RestartPolicy(max_restarts=9, backoff_s=0.5), past, duration_s=1.0)
    assert found == Verdict("restart", delay_s=0.0 if quick == 0 else 0.5 * 2 ** (quick - 1))
    assert (
        verdict(RestartPolicy(max_restarts=9, backoff_s=0.0), past, duration_s=1.0).delay_s == 0.0
    )


def test_a_replacement_costs_a_restart_and_needs_the_same_permission() -> None:
    outcome = AttemptOutcome(
        0, (WorkerOutcome(rank=1, pid=1, returncode=7, ended_at=1.0),), duration_s=60.0
    )
    report = make_report(outcome, hostname="here", run_dir=None)
    past = [FailedAttempt(ended_at=99.0, duration_s=60.0, signature="")]

    def allowed(num_lost: int, **policy: Any) -> bool:
        return may_replace(report, num_lost, past, RestartPolicy(**policy), now=100.0)

    assert allowed(1, max_restarts=2)
    assert not allowed(2, max_restarts=2)
    assert not allowed(1, max_restarts=2, final_codes=frozenset((7,)))
    assert not allowed(1, max_restarts=2, limit=(1, 10.0))
    # An attempt that fails after a replacement has one restart less.
    assert verdict(RestartPolicy(max_restarts=1), past, attempt=0).action == "give_up"
