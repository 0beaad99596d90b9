"""Whether a failed attempt is followed by another, and when. Pure: clock and chance are arguments.

A budget for the whole run and one for a time window; a pause that grows while attempts fail soon;
and no restart for what another attempt cannot heal: an error of the program's text, its modules or
its arguments, at the start and on every rank. All else may be a service that comes up late.
"""

from __future__ import annotations

from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.diagnosis.report import FailureReport
from launcher.named import NamedTuple

# An attempt that fails this soon has failed at its start.
STARTUP_S = 10.0

_MAX_PAUSE_S = 60.0

# Exceptions of the program's text or installation: the next attempt would meet them again.
UNHEALABLE = frozenset(
    (
        "SyntaxError",
        "IndentationError",
        "TabError",
        "ImportError",
        "ModuleNotFoundError",
        "NameError",
        "UnboundLocalError",
    )
)

_USAGE_CODE = 2


def will_hit_all(outcome: WorkerOutcome) -> bool:
    """Tell whether every rank meets a worker's error by itself: in the text, or the arguments."""
    error = outcome.error
    if error is None:
        return False
    is_usage = error.type == "SystemExit" and error.message == str(_USAGE_CODE)
    return is_usage or error.type in UNHEALABLE


class RestartPolicy(NamedTuple):
    """What the user allows."""

    max_restarts: int = 0
    # At most this many restarts in so many seconds; (0, 0) for no such limit.
    limit: tuple[int, float] = (0, 0.0)
    # Pause before the second restart in a row; doubles after that. The first comes at once.
    backoff_s: float = 0.5
    # Exit codes that never restart.
    final_codes: frozenset[int] = frozenset()


class FailedAttempt(NamedTuple):
    """What the policy remembers of an attempt."""

    ended_at: float
    duration_s: float


def decide(
    outcome: AttemptOutcome,
    report: FailureReport | None,
    past: list[FailedAttempt],
    policy: RestartPolicy,
    now: float,
    chance: float,
) -> Verdict:
    """Return the verdict on an attempt.

    `past` holds the failed attempts before it, `chance` lies between 0 and 1.
    """
    if outcome.succeeded:
        return Verdict("finish")
    if outcome.signum is not None or report is None:
        return Verdict("give_up", "a signal asked us to stop")
    # Replacements of single workers are among the past failures, too.
    if max(outcome.attempt, len(past)) >= policy.max_restarts:
        allowed = policy.max_restarts
        return Verdict("give_up", f"all {allowed} restarts are used up" if allowed else "")
    obstacle = outcome.obstacle or _limit(report, past, policy, now) or _obstacle(outcome, report)
    if obstacle:
        return Verdict("give_up", f"not restarted: {obstacle}")
    return Verdict("restart", delay_s=_pause_s(outcome, past, policy, chance))


def may_replace(
    report: FailureReport,
    num_lost: int,
    past: list[FailedAttempt],
    policy: RestartPolicy,
    now: float,
) -> bool:
    """Tell whether a lost worker may be replaced while the others go on.

    `num_lost` counts it and others that are not replaced yet.

    `report` is about this worker alone. A replacement costs one restart.
    """
    return (
        len(past) + num_lost <= policy.max_restarts
        and not _limit(report, past, policy, now)
        and not (report.duration_s <= STARTUP_S and report.error_type in UNHEALABLE)
    )


def _limit(
    report: FailureReport, past: list[FailedAttempt], policy: RestartPolicy, now: float
) -> str:
    """Return why the user's options allow no other attempt after this failure, or ""."""
    if report.exit_code in policy.final_codes:
        return f"--no-restart-codes names exit code {report.exit_code}"
    count, window_s = policy.limit
    if count and sum(attempt.ended_at > now - window_s for attempt in past) >= count:
        return f"--restart-limit allows {count} restarts in {window_s:g} s"
    return ""


def _obstacle(outcome: AttemptOutcome, report: FailureReport) -> str:
    """Return why another attempt would be of no use, or ""."""
    if outcome.duration_s > STARTUP_S or not outcome.workers:
        return ""
    if not all(map(will_hit_all, outcome.workers)):
        return ""
    if report.error_type in UNHEALABLE:
        return f"another attempt would meet the same {report.error_type}"
    return "exit code 2 at the start is a usage error"


def _pause_s(
    outcome: AttemptOutcome, past: list[FailedAttempt], policy: RestartPolicy, chance: float
) -> float:
    """Return the pause before the next attempt; its jitter keeps many runs from coming together."""
    if outcome.duration_s > STARTUP_S:
        return 0.0
    quick = 0
    for attempt in reversed(past):
        if attempt.duration_s > STARTUP_S:
            break
        quick += 1
    if quick == 0:
        return 0.0
    pause = min(_MAX_PAUSE_S, policy.backoff_s * 2.0 ** (quick - 1))
    return float(pause * (0.5 + 0.5 * chance))


def exit_code_of(outcome: AttemptOutcome, report: FailureReport | None) -> int:
    """Return the exit code of a run that ends with this attempt."""
    if outcome.succeeded:
        return 0
    if report is not None:
        return report.exit_code
    return 128 + outcome.signum if outcome.signum else 1


class Verdict(NamedTuple):
    """What to do after an attempt."""

    # "finish", "restart" or "give_up"; "leave" where the run goes on without this node.
    action: str
    reason: str = ""
    # Pause before the next attempt, in seconds.
    delay_s: float = 0.0
    # What was decided on, where the attempt has failed; and the exit code if no other follows.
    report: FailureReport | None = None
    exit_code: int = 0
    # The host on which the report is shown, where that is not this one; else "".
    reporter: str = ""
