"""Bytes of one output stream -> whole lines, with bounded memory. Pure: no descriptors, no clock.

Lines stay bytes: nothing is decoded, so nothing can fail to decode. A line longer than
`MAX_LINE_BYTES` comes out in pieces, because a 50 MB line must not be held in memory.
"""

from __future__ import annotations

# Longest piece of a line that is kept while waiting for its end.
MAX_LINE_BYTES = 1 << 20


class LineSplitter:
    """Cuts a stream into blocks of whole lines, and keeps the unfinished last line."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._pieces: list[bytes] = []
        self._length = 0
        # Whether the unfinished line has been rewritten by a carriage return: a progress bar, then.
        self.is_rewritten = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes; return all lines that are whole now, as one block, or b""."""
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            self._keep(data)
            return self._overflow()
        block = b"".join([*self._pieces, data[:cut]])
        self._forget()
        self._keep(data[cut:])
        return block + self._overflow()

    def finish(self) -> bytes:
        """Return the unfinished last line with a newline, or b""; the splitter is empty then.

        A progress bar that was wiped out with spaces at its end leaves nothing.
        """
        rest = b"".join(self._pieces)
        if self.is_rewritten and not rest.strip():
            rest = b""
        self._forget()
        return rest + b"\n" if rest else b""

    @property
    def unfinished(self) -> bytes:
        """The line that has begun but not ended yet."""
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0] if self._pieces else b""

    def _keep(self, data: bytes) -> None:
        if not data:
            return
        # A progress bar rewrites its line for hours without a newline: what a carriage return has
        # wiped out is gone.
        wiped = data.rstrip(b"\r").rfind(b"\r")
        if wiped >= 0 or (self._pieces and self._pieces[-1].endswith(b"\r")):
            self._pieces, self._length = [], 0
            self.is_rewritten = True
            data = data[wiped + 1 :]
        self._pieces.append(data)
        self._length += len(data)

    def _forget(self) -> None:
        self._pieces, self._length, self.is_rewritten = [], 0, False

    def _overflow(self) -> bytes:
        return self.finish() if self._length >= self._max_line_bytes else b""


def apply_carriage_returns(block: bytes) -> bytes:
    """Reduce every line to what a terminal would show: the text behind its last carriage return."""
    if b"\r" not in block:
        return block
    lines = block.split(b"\n")
    return b"\n".join(line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines)


class Tail:
    """The last bytes of a stream, for the failure report."""

    def __init__(self, max_bytes: int = 64 << 10) -> None:
        self._max_bytes = max_bytes
        self._chunks: list[bytes] = []
        self._length = 0

    def feed(self, data: bytes) -> None:
        if len(data) >= self._max_bytes:
            self._chunks, self._length = [data[-self._max_bytes :]], self._max_bytes
            return
        self._chunks.append(data)
        self._length += len(data)
        # Compact only now and then, so that feeding stays cheap.
        if self._length > 2 * self._max_bytes:
            joined = b"".join(self._chunks)[-self._max_bytes :]
            self._chunks, self._length = [joined], len(joined)

    def lines(self, count: int) -> tuple[str, ...]:
        """Return the last `count` lines as text; bytes that are no UTF-8 are shown as escapes."""
        text = apply_carriage_returns(b"".join(self._chunks)).decode("utf-8", "backslashreplace")
        return tuple(text.rstrip("\n").split("\n")[-count:]) if text.strip() else ()

    def text(self) -> str:
        """Return everything that is kept, as text."""
        return b"".join(self._chunks).decode("utf-8", "backslashreplace")
