"""What a command answers: text for a person, the same as data, and an exit code."""

from __future__ import annotations

from typing import NamedTuple


class Answer(NamedTuple):
    """The outcome of one command."""

    text: str
    data: object = None
    code: int = 0
    # Text that a person may want and a program not: it goes to stderr.
    remark: str = ""
