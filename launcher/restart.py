"""Whether a failed attempt is followed by another. Pure. Layer 1."""

from __future__ import annotations

from launcher.outcome import AttemptOutcome, Verdict


def decide(outcome: AttemptOutcome, max_restarts: int) -> Verdict:
    """Return the verdict on an attempt; `max_restarts` counts for the whole run."""
    if outcome.succeeded:
        return Verdict("finish")
    if outcome.signum is not None:
        return Verdict("give_up", "a signal asked us to stop")
    if outcome.attempt >= max_restarts:
        return Verdict("give_up", "no restarts are left" if max_restarts else "")
    return Verdict("restart")
