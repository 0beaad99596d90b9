"""`ctl top`: what the ranks of a run use; on a terminal again and again, until Ctrl-C."""

from __future__ import annotations

import os
import sys
import time

from launcher.ctl.messages import Use
from launcher.stats.render import render_top

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

# The supervisor looks so often.
_INTERVAL_S = 2.0

_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def show(title: str, ask: Callable[[], Use | None], screen: TextIO) -> None:
    """Keep the table on the screen until the run has ended or the user has seen enough."""
    screen.write("\x1b[2J")
    try:
        while (use := ask()) is not None:
            screen.write(draw(f"{title}\n{render_top(use.samples)}", *_size()))
            screen.flush()
            time.sleep(_INTERVAL_S)
    except KeyboardInterrupt:
        pass
    screen.write("\n")


def draw(text: str, columns: int, rows: int) -> str:
    """Return what puts a text on a screen of this size, over what stood there."""
    lines = text.split("\n")
    if len(lines) > rows - 1:
        lines = [*lines[: rows - 2], f"... {len(lines) - rows + 2} more"]
    body = "\n".join(line[: columns - 1] + _CLEAR_LINE for line in lines)
    return _HOME + body + _CLEAR_BELOW


def _size() -> tuple[int, int]:
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return 80, 24
    return max(20, size.columns or 80), max(5, size.lines or 24)
