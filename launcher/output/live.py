"""The rows at the bottom of a terminal that are not final: bars, tables, questions.

What of them is shown: those of one rank, or a row of each. They are cleared before anybody writes a
line, and drawn again behind it. Made only when there is something to show.
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
        # Of each rank and stream the rows, and the cursor if it is not at their end. The newest
        # comes last.
        self._live: dict[tuple[int, str], tuple[Sequence[bytes], _Place | None]] = {}
        # What stands on the screen: the stream, the widths of its rows, and the cursor's row.
        self._drawn: tuple[str, list[int], int] | None = None

    def put(self, rank: int, stream: str, rows: Sequence[bytes], cursor: _Place | None) -> None:
        """Have these rows for a stream of a rank, instead of those before."""
        self.remove(rank, stream)
        self._live[rank, stream] = rows, cursor

    def remove(self, rank: int, stream: str) -> bool:
        """Have none for it any more; return whether there were any."""
        return self._live.pop((rank, stream), None) is not None

    def reflow(self) -> None:
        """Take into account that the terminal's size is another one."""
        if self._drawn is not None:
            stream, widths, cursor_row = self._drawn
            # Rows that were wider than it is now, it has broken.
            columns = self._writers[stream].size[0]
            heights = [max(1, -(-width // columns)) for width in widths]
            above = sum(heights[: cursor_row + 1]) - 1
            self._drawn = stream, [columns] * sum(heights), above

    def clear(self) -> None:
        """Take the rows off the screen."""
        if self._drawn is None:
            return
        (stream, widths, cursor_row), self._drawn = self._drawn, None
        self._writers[stream].write(self._wipe(widths, cursor_row))

    def _wipe(self, widths: Sequence[int], cursor_row: int) -> bytes:
        """Return what takes rows off the screen."""
        if self._is_dumb:
            return b"\r" + b" " * widths[0] + b"\r"
        up = b"\x1b[%dA" % cursor_row if cursor_row else b""
        return up + (_CLEAR_LINE if len(widths) == 1 else _CLEAR_BELOW)

    def draw(self, asking_rank: int, *, each_rank: bool) -> None:
        """Show on the screen what belongs there now."""
        selected = self._select(asking_rank, each_rank)
        if selected is None:
            self.clear()
            return
        stream, rows, cursor = selected
        wipe = b""
        if self._drawn is not None and self._drawn[0] == stream:
            wipe, self._drawn = self._wipe(*self._drawn[1:]), None
        self.clear()  # on another stream
        widths = [visible_width(row) for row in rows]
        text, at = b"\n".join(rows), len(rows) - 1
        if cursor is not None and cursor != (at, widths[-1]):
            up = b"\x1b[%dA" % (at - cursor[0]) if at > cursor[0] else b""
            right = b"\x1b[%dC" % cursor[1] if cursor[1] else b""
            text, at = text + up + b"\r" + right, cursor[0]
        if self._writers[stream].tap is not None:
            text = _NO_WRAP + text + _WRAP  # it is shown on other terminals, too: narrower ones
        self._writers[stream].write(wipe + text)
        self._drawn = stream, widths, at

    def _select(
        self, asking_rank: int, each_rank: bool
    ) -> tuple[str, list[bytes], _Place | None] | None:
        """Return what is to be shown: stream, rows and cursor; None for nothing."""
        if not self._live:
            return None
        # The lowest rank's, and of its streams the newest.
        front = min(reversed(self._live), key=lambda key: (key[0] != asking_rank, key[0]))
        stream = front[1]
        if self._writers[stream].pending_bytes:
            return None
        columns, height = self._writers[stream].size
        rows, cursor = self._live[front]
        if each_rank and front[0] != asking_rank:
            rows, cursor = self._one_row_each(height), None
        at = cursor[0] if cursor else len(rows) - 1
        if self._is_dumb:
            return stream, [_fit(_ESCAPE.sub(b"", rows[at]), columns - 1)], None
        first = max(0, min(len(rows) - height, at))
        shown = [_fit(row, columns) for row in rows[first : first + height]]
        return stream, shown, (at - first, min(cursor[1], columns - 1)) if cursor else None

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
