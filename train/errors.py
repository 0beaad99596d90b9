"""What the trainer says when it cannot go on, and how all ranks say it together.

Owns the exception for mistakes that a person can mend, and the collective decision about it: one
message, printed once, and the same exit code everywhere, so that no rank waits for another that has
left. Knows nothing of training.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from launcher import Context

T = TypeVar("T")

# As argparse and shells say it: the command or its input is wrong, trying again changes nothing.
EXIT_USAGE = 2
EXIT_UNSAVED = 1  # the training ran, but its result could not be written


class TrainerError(Exception):
    """A mistake in the command, the data or the machine; the text says what to do about it."""


def one_line(error: BaseException) -> str:
    """The first line of an error's text, short enough for a sentence; its name if it has no
    text.
    """
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def together(ctx: Context, action: Callable[[], T]) -> T:
    """Run `action` on every rank and return its result; if it fails on any rank, all ranks leave.

    A collective call. Only TrainerError counts as a failure to agree on; anything else is a bug and
    crashes at once. The message of the lowest failing rank is printed, by rank 0; raises SystemExit
    with code 2 on all ranks.
    """
    result: T | None = None
    problem: str | None = None
    try:
        result = action()
    except TrainerError as error:
        problem = str(error)
    problems = ctx.gather_object(problem)
    first = next((p for p in problems if p is not None), None) if problems is not None else None
    first = ctx.broadcast_object(first)
    if first is None:
        return result  # type: ignore[return-value]  # no problem anywhere: `action` returned
    if ctx.is_main:
        print(f"train: error: {first}", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_USAGE)
