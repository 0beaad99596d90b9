"""Shows a line that several ranks write at about the same time once: `[0-7] epoch 3`.

A line waits a moment for the same line of other ranks. Lines leave in the order in which the first
of their ranks wrote them, and a rank joins a line only behind all that it has written before: so
the order within a rank is kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable

from launcher.ranks import format_short_ranges
from launcher.system.loop import Loop

# How long a line waits for other ranks.
WAIT_S = 0.15

# With more than this nobody reads along, and nothing waits.
_MOST_LINES = 10_000
_MOST_BYTES = 4 << 20


class _Line:
    """A line, and who has written it."""

    __slots__ = ("due_at", "number", "prefix", "ranks", "stream", "text")

    def __init__(self, number: int, stream: str, text: bytes, prefix: bytes, due_at: float) -> None:
        self.number, self.stream, self.text = number, stream, text
        self.prefix, self.due_at = prefix, due_at
        self.ranks: list[int] = []


def _number_of(line: _Line) -> int:
    return line.number


def _make_prefix(ranks: list[int]) -> bytes:
    return b"[%s] " % format_short_ranges(ranks).encode()


class Fold:
    """The lines that wait. `show` is called with a stream and a block of whole lines."""

    def __init__(self, loop: Loop, show: Callable[[str, bytes], None], num_ranks: int) -> None:
        """A line that `num_ranks` ranks have written waits for nobody."""
        self._loop = loop
        self._show = show
        self._num_ranks = num_ranks
        # What stands in front of a line that several ranks have written.
        self.make_prefix: Callable[[list[int]], bytes] = _make_prefix
        # Of the last such line, ranks and prefix: the next one's are mostly the same.
        self._shared: tuple[list[int], bytes] = ([], b"")
        self._lines: deque[_Line] = deque()
        self._same: dict[tuple[str, bytes], list[_Line]] = {}
        # Rank -> the number of the line that it wrote last.
        self._last: dict[int, int] = {}
        self._count = 0
        self._num_bytes = 0
        self._is_timed = False

    def take(self, rank: int, stream: str, prefix: bytes, block: bytes) -> None:
        """Take whole lines of a rank, without prefixes."""
        due_at = self._loop.clock() + WAIT_S
        for text in block[:-1].split(b"\n"):
            self._find(rank, stream, text, prefix, due_at).ranks.append(rank)
        if len(self._lines) > _MOST_LINES or self._num_bytes > _MOST_BYTES:
            self.flush()
        else:
            self._show_until(due_at - WAIT_S)

    def flush(self) -> None:
        """Show what waits."""
        self._show_until(float("inf"))

    def _find(self, rank: int, stream: str, text: bytes, prefix: bytes, due_at: float) -> _Line:
        """Return the line that this rank joins, or begins."""
        behind = self._last.get(rank, 0)
        same = self._same.setdefault((stream, text), [])
        # There may be thousands of empty lines, say; their numbers rise.
        at = bisect_right(same, behind, key=_number_of)
        if at < len(same):
            line = same[at]
        else:
            self._count += 1
            line = _Line(self._count, stream, text, prefix, due_at)
            same.append(line)
            self._lines.append(line)
            self._num_bytes += len(text)
        self._last[rank] = line.number
        return line

    def _show_until(self, moment: float) -> None:
        """Show the first lines, as far as they wait for nobody or have waited long enough."""
        lines = self._lines
        block: list[bytes] = []
        stream = ""
        while lines and (lines[0].due_at <= moment or len(lines[0].ranks) >= self._num_ranks):
            line = lines.popleft()
            self._forget(line)
            if line.stream != stream and block:
                self._show(stream, b"".join(block))
                block = []
            stream = line.stream
            block.append(self._render(line))
        if block:
            self._show(stream, b"".join(block))
        self._set_timer()

    def _render(self, line: _Line) -> bytes:
        """Return a line for the screen; whoever wants no prefix gets none here either."""
        prefix = line.prefix
        if len(line.ranks) > 1 and prefix:
            if line.ranks != self._shared[0]:
                self._shared = line.ranks, self.make_prefix(line.ranks)
            prefix = self._shared[1]
        return prefix + line.text + b"\n"

    def _forget(self, line: _Line) -> None:
        self._num_bytes -= len(line.text)
        same = self._same[line.stream, line.text]
        del same[0]  # the first of all is the first of its kind
        if not same:
            del self._same[line.stream, line.text]

    def _set_timer(self) -> None:
        if not self._lines:
            self._loop.cancel_timer(self._on_time)
            self._is_timed = False
        elif not self._is_timed:
            self._is_timed = True
            self._loop.set_timer(self._on_time, self._lines[0].due_at - self._loop.clock())

    def _on_time(self) -> None:
        self._is_timed = False
        self._show_until(self._loop.clock())
