"""Bytes of one output stream -> whole lines, with bounded memory. Pure: no descriptors, no clock.

Lines stay bytes: nothing is decoded, so nothing can fail to decode. Nothing else is changed either,
but for the line of a progress bar, of which only the last state is kept.
"""

from __future__ import annotations

# Longest piece of a line that is kept while waiting for its end: a 50 MB line must not be held in
# memory.
MAX_LINE_BYTES = 1 << 20

# A line with so many carriage returns is a progress bar; random bytes hardly ever have that many
# between two newlines.
_MANY_RETURNS = 32


# Clears a terminal's line from here on.
_ERASE = b"\x1b[K"


class LineSplitter:
    """Cuts a stream into blocks of whole lines, and keeps the unfinished last line."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES, *, is_exact: bool = False) -> None:
        """is_exact: for a reader that is no terminal; only progress bars are not kept as they are,
        and a line that is too long must be taken away by `take_part`.
        """
        self._max_line_bytes = max_line_bytes
        self._is_exact = is_exact
        self._pieces: list[bytes] = []
        # Of the unfinished line: bytes that are kept, its carriage returns, and how many writes
        # have rewritten it.
        self.length = 0
        self._num_returns = 0
        self.num_rewrites = 0
        # Whether the unfinished line is a progress bar, of which only the last state is kept.
        self.is_rewritten = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes; return all lines that are whole now, as one block, or b""."""
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            self._keep(data)
            return self._overflow()
        block = b"".join([*self._pieces, data[:cut]])
        if b"\r" in block or self._num_returns:
            block = self._thin_block(block)
        self._forget()
        self._keep(data[cut:])
        return block + self._overflow()

    def finish(self) -> bytes:
        """Return the unfinished last line with a newline, or b""; the splitter is empty then.

        A progress bar that was wiped out at its end, with spaces or a terminal's own means, leaves
        nothing.
        """
        rest = self.unfinished
        if self.is_rewritten:
            is_wiped = not rest.replace(_ERASE, b"").strip()
            rest = b"" if is_wiped else apply_carriage_returns(rest)
        self._forget()
        return rest + b"\n" if rest else b""

    def take_part(self) -> bytes:
        """Return what is kept of the unfinished line, which goes on with what comes next."""
        part = self.unfinished
        self._pieces, self.length = [], 0
        return part

    def thin(self) -> None:
        """Take the unfinished line for a progress bar: keep only its last state from now on."""
        self.is_rewritten = True
        state = self.unfinished
        state = state[state.rstrip(b"\r").rfind(b"\r") + 1 :]
        self._pieces, self.length = [state], len(state)

    @property
    def unfinished(self) -> bytes:
        """The line that has begun but not ended yet."""
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0] if self._pieces else b""

    def _keep(self, data: bytes) -> None:
        if not data:
            return
        # What a carriage return has wiped out, once there is text behind it.
        wiped = -1
        if b"\r" in data:
            self._num_returns += data.count(b"\r")
            wiped = data.rstrip(b"\r").rfind(b"\r")
        if wiped >= 0 or (self._pieces and self._pieces[-1].endswith(b"\r")):
            self.num_rewrites += 1
            if not self._is_exact or self._num_returns >= _MANY_RETURNS:
                self.is_rewritten = True
            if self.is_rewritten:
                # A progress bar rewrites its line for hours without a newline.
                self._pieces, self.length = [], 0
                data = data[wiped + 1 :]
        self._pieces.append(data)
        self.length += len(data)

    def _thin_block(self, block: bytes) -> bytes:
        """Return a block of lines with what is left of its progress bars."""
        if not self._is_exact:
            return block  # a terminal gets no line with carriage returns anyway
        if not self.is_rewritten and self._num_returns + block.count(b"\r") < _MANY_RETURNS:
            return block
        lines = block.split(b"\n")
        returns = self._num_returns - b"".join(self._pieces).count(b"\r")
        if self.is_rewritten or returns + lines[0].count(b"\r") >= _MANY_RETURNS:
            lines[0] = apply_carriage_returns(lines[0])
        for index, line in enumerate(lines[1:], start=1):
            if line.count(b"\r") >= _MANY_RETURNS:
                lines[index] = apply_carriage_returns(line)
        return b"\n".join(lines)

    def _forget(self) -> None:
        self._pieces, self.length, self.is_rewritten = [], 0, False
        self._num_returns = self.num_rewrites = 0

    def _overflow(self) -> bytes:
        is_too_long = self.length >= self._max_line_bytes and not self._is_exact
        return self.finish() if is_too_long else b""


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
        text = apply_carriage_returns(self._plain()).decode("utf-8", "backslashreplace")
        return tuple(text.rstrip("\n").split("\n")[-count:]) if text.strip() else ()

    def text(self) -> str:
        """Return everything that is kept, as text."""
        return self._plain().decode("utf-8", "backslashreplace")

    def _plain(self) -> bytes:
        """Return what is kept without colours and cursor movements, which a terminal asks for."""
        data = b"".join(self._chunks)
        if b"\x1b[" not in data:
            return data
        import re

        return re.sub(rb"\x1b\[[0-9;:<=>?]*[ -/]*[@-~]", b"", data)
