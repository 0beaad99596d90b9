"""The rows at the bottom of a terminal that are not final: bars, tables, questions.

What of them is shown: those of one rank, or a row of each. They are cleared before anybody writes a
line, and drawn again behind it. Made only when there is something to show.

Many terminals break the rows anew when they become narrower, and may say so only later: tmux up to
a quarter of a second. Nobody knows then how many rows there are. So the cursor waits where the
first row begins, a place that it keeps, unless it has to show where the user types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.output.writer import StreamWriter

# One row, and from its first column everything below.
_CLEAR_LINE = b"\r\x1b[K"
_CLEAR_BELOW = b"\r\x1b[J"

# Between these, what is too long for a row is cut by the terminal.
_NO_WRAP, _WRAP = b"\x1b[?7l", b"\x1b[?7h"

# Escape sequences that take no room, and what a row consists of.
_ESCAPE = re.compile(rb"\x1b\[[0-9;:<=>?]*[ -/]*[@-~]")
_PARTS = re.compile(r"\x1b\[[0-9;:<=>?]*[ -/]*[@-~]|[^\x1b]+|\x1b")

# Of a longer row nothing more is looked at.
_LONGEST_ROW = 16 << 10

# A row and a column.
_Place = tuple[int, int]


class LiveRows:
    """All live rows of a console, and what of them stands on its terminal."""

    def __init__(self, writers: Mapping[str, StreamWriter], *, is_dumb: bool) -> None:
        """is_dumb: the terminal knows no escape sequences."""
        self._writers = writers
        self._is_dumb = is_dumb
        # Of each rank and stream the rows, and the cursor if they are no question. The newest comes
        # last.
        self._live: dict[tuple[int, str], tuple[Sequence[bytes], _Place | None]] = {}
        # What stands on the screen: the stream, the widths of its rows, and the cursor's row; None
        # where the cursor waits at the begin of the first.
        self._drawn: tuple[str, list[int], int | None] | None = None

    def put(self, rank: int, stream: str, rows: Sequence[bytes], cursor: _Place | None) -> None:
        """Have these rows for a stream of a rank, instead of those before.

        cursor: where the rank has left it; None for the end of what may be a question.
        """
        self.remove(rank, stream)
        self._live[rank, stream] = rows, cursor

    def remove(self, rank: int, stream: str) -> bool:
        """Have none for it any more; return whether there were any."""
        return self._live.pop((rank, stream), None) is not None

    def clear(self) -> None:
        """Take the rows off the screen."""
        if self._drawn is None:
            return
        stream = self._drawn[0]
        self._writers[stream].write(self._wipe())

    def _wipe(self) -> bytes:
        """Return what takes the rows off the screen; they count as gone then."""
        assert self._drawn is not None
        (stream, widths, cursor_row), self._drawn = self._drawn, None
        if self._is_dumb:
            return b"\r" + b" " * widths[0] + b"\r"
        if cursor_row is None:
            return _CLEAR_BELOW
        # Rows that were wider than the terminal is now, it has broken.
        columns = self._writers[stream].size[0]
        heights = [max(1, -(-width // columns)) for width in widths]
        above = sum(heights[: cursor_row + 1]) - 1
        up = b"\x1b[%dA" % above if above else b""
        return up + (_CLEAR_LINE if sum(heights) == 1 else _CLEAR_BELOW)

    def draw(self, asking_rank: int, *, each_rank: bool) -> None:
        """Show on the screen what belongs there now."""
        selected = self._select(asking_rank, each_rank)
        if selected is None:
            self.clear()
            return
        stream, rows, cursor, is_waiting = selected
        wipe = b""
        if self._drawn is not None and self._drawn[0] == stream:
            wipe = self._wipe()
        self.clear()  # on another stream
        widths = [visible_width(row) for row in rows]
        text = b"\n".join(rows)
        at = len(rows) - 1
        if is_waiting:
            # At the begin of the first row, from which all can be cleared.
            cursor = 0, 0
        if cursor is not None and cursor != (at, widths[-1]):
            up = b"\x1b[%dA" % (len(rows) - 1 - cursor[0]) if cursor[0] < len(rows) - 1 else b""
            right = b"\x1b[%dC" % cursor[1] if cursor[1] else b""
            text, at = text + up + b"\r" + right, cursor[0]
        if is_waiting or self._writers[stream].tap is not None:
            # The terminal may be narrower than it has said, or the output is shown on others, too.
            text = _NO_WRAP + text + _WRAP
        self._writers[stream].write(wipe + text)
        self._drawn = stream, widths, None if is_waiting else at

    def _select(
        self, asking_rank: int, each_rank: bool
    ) -> tuple[str, list[bytes], _Place | None, bool] | None:
        """Return what is to be shown: stream, rows, the cursor, and whether that does not matter.

        None for nothing.
        """
        if not self._live:
            return None
        # The lowest rank's, and of its streams the newest.
        front = min(reversed(self._live), key=lambda key: (key[0] != asking_rank, key[0]))
        stream = front[1]
        if self._writers[stream].pending_bytes:
            return None
        columns, height = self._writers[stream].size
        rows, cursor = self._live[front]
        is_waiting = front[0] != asking_rank and (each_rank or cursor is not None)
        if each_rank and front[0] != asking_rank:
            rows, cursor = self._one_row_each(height), None
        at = cursor[0] if cursor else len(rows) - 1
        if self._is_dumb:
            return stream, [_fit(_ESCAPE.sub(b"", rows[at]), columns - 1)], None, False
        first = max(0, min(len(rows) - height, at))
        shown = [_fit(row, columns) for row in rows[first : first + height]]
        place = (at - first, min(cursor[1], columns - 1)) if cursor else None
        return stream, shown, place, is_waiting

    def _one_row_each(self, height: int) -> list[bytes]:
        """Return the last row of each rank: of nested bars the inner one, which moves."""
        found = {rank: rows[-1] for (rank, _), (rows, _) in self._live.items()}
        rows = [found[rank] for rank in sorted(found)]
        room = max(1, height - 1)
        if len(rows) > room:
            rows[room - 1 :] = [b"... and %d more ranks" % (len(rows) - room + 1)]
        return rows


def visible_width(text: bytes) -> int:
    """Return how many columns a row takes on a terminal."""
    if b"\x1b" in text:
        text = _ESCAPE.sub(b"", text)
    return len(text) if text.isascii() else _width(text.decode("utf-8", "replace"))


def _width(text: str) -> int:
    from unicodedata import combining, east_asian_width

    return sum(
        0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text
    )


def _fit(row: bytes, columns: int) -> bytes:
    """Cut a row to the width of the terminal: one that wraps could not be cleared."""
    if len(row) <= columns or visible_width(row[:_LONGEST_ROW]) <= columns:
        return row[:_LONGEST_ROW]
    kept, room = [], columns
    for part in _PARTS.findall(row[:_LONGEST_ROW].decode("utf-8", "surrogateescape")):
        width = 0 if part[0] == "\x1b" else _width(part)
        if width <= room:
            kept.append(part)
            room -= width
        elif room > 0:
            while width > room:
                part = part[: -max(1, (width - room) // 2)]
                width = _width(part)
            kept.append(part)
            room = 0
    return "".join(kept).encode("utf-8", "surrogateescape")
