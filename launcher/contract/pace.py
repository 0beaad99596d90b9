"""How far a rank is, as its heartbeat file says it: steps, waiting, moments of some steps.

Written by the worker, read by its supervisor. One line of text: `120 3.25 112:91.5031 120:93.1180`,
which is the number of heartbeats, the seconds in collective calls of ctx, and when some of the
last heartbeats came, by the machine's monotonic clock. Pure.
"""

from __future__ import annotations

from launcher.named import NamedTuple

# So many of the last moments are kept.
_NUM_MARKS = 4


class Pace(NamedTuple):
    """How far a rank is."""

    steps: int
    waited_s: float
    # Heartbeat -> when it came.
    marks: dict[int, float]


def is_marked(step: int) -> bool:
    """Tell whether a heartbeat's moment is kept: 16 to 32 of them between one step and its double.

    It follows from the number alone, so that the moments of different ranks can be compared,
    however fast they are and whenever somebody looks.
    """
    return step & ((1 << max(0, step.bit_length() - 5)) - 1) == 0


def keep_mark(marks: dict[int, float], step: int, moment: float) -> None:
    """Keep the moment of a heartbeat, and let the oldest go."""
    marks[step] = moment
    if len(marks) > _NUM_MARKS:
        del marks[next(iter(marks))]


def encode(pace: Pace) -> bytes:
    """Return what `decode` reads."""
    marks = (f"{step}:{moment:.4f}" for step, moment in pace.marks.items())
    return " ".join((str(pace.steps), f"{pace.waited_s:.3f}", *marks)).encode() + b"\n"


def decode(text: bytes) -> Pace | None:
    """Read what `encode` wrote; None for everything else: a rank may be writing just now."""
    if not text.endswith(b"\n"):
        return None
    try:
        steps, waited_s, *marks = text.split()
        pairs = (mark.split(b":") for mark in marks)
        return Pace(int(steps), float(waited_s), {int(step): float(at) for step, at in pairs})
    except ValueError:
        return None
