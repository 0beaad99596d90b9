"""The rows of a terminal on which a rank still writes: bytes -> lines that are final, and the rest.

A small model of a terminal, as wide as the rank believes it to be: cursor movements, erasing,
colours. Made for a stream only when it writes more than plain lines, see `is_special`. Rows are
final when nobody is likely to come back to them: a nested bar goes down and up again with every
update. Pure: time is an argument.
"""

from __future__ import annotations

import codecs
import re

from launcher.named import NamedTuple
from launcher.output.row import BLANK, Row

# What plain lines do not have: escape sequences other than colours, and carriage returns, unless
# they end a line as on Windows; backspaces.
_SPECIAL = re.compile(rb"\x1b(?!\[[0-9;:]*m)|\r(?!\r*\n)|[\x08\x0b\x0c]")

_COLOUR = re.compile(rb"\x1b\[([0-9;:]*)m")

# A control sequence, a string (a title, a link), another escape, one control character, or text.
_TOKEN = re.compile(
    r"\x1b\[([0-9;:<=>?]*)[ -/]*([@-~])"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|(?=\x1b))"
    r"|\x1b[ -/]*[0-Z\\`-~]"
    r"|[\x00-\x1f\x7f]"
    r"|[^\x00-\x1f\x7f]+"
)
# The beginning of one that is not whole yet; longer than this, it is none.
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;:<=>?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)\Z")
_LONGEST_SEQUENCE = 4096

# After a newline below a bar, so long for the next bar to be drawn; and for how long those stay
# live to which the cursor came back once.
_BURST_S = 0.2
_HOLD_S = 1.0

# Where the size is not known.
_COLUMNS, _ROWS = 80, 24

_MAX_STYLE = 200


def is_special(data: bytes) -> bool:
    """Tell whether output is more than plain lines, so that it needs a `Region`."""
    # Looking for one byte after the other is a hundred times as fast as the expression.
    has_any = b"\r" in data or b"\x1b" in data or b"\b" in data or b"\v" in data or b"\f" in data
    return has_any and _SPECIAL.search(data) is not None


def close_colours(block: bytes, open_colours: bytes) -> tuple[bytes, bytes]:
    """Let each line begin and end its own colours, because lines of others may come between.

    open_colours: those that the line before has left on; those of the last line are returned, too.
    """
    lines = block.split(b"\n")
    for index, line in enumerate(lines[:-1]):
        colours = open_colours
        for found in _COLOUR.finditer(line):
            is_reset = found[1] in (b"", b"0") or found[1].endswith(b";0")
            colours = b"" if is_reset else colours[-_MAX_STYLE:] + found[0]
        lines[index] = open_colours + line + (b"\x1b[0m" if colours else b"")
        open_colours = colours
    return b"\n".join(lines), open_colours


class Picture(NamedTuple):
    """What the live rows show, and where the cursor stands among them."""

    rows: list[bytes]
    cursor_row: int
    cursor_column: int


class Region:
    """The rows of one stream that are not final."""

    def __init__(self, columns: int, rows: int) -> None:
        self._num_columns = 0
        self.resize(columns, rows)
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._pending = ""  # a sequence that is not whole
        self._rows = [Row()]
        self._at = self._column = 0
        self._saved = (0, 0)
        self._has_returned = False  # to the begin of the row, and nothing is written since
        self._style = ""
        self._is_hidden = False
        self._final: list[str] = []
        # Until when rows above the cursor wait for it to come back; whether it ever has.
        self._held_until = 0.0
        self._rose_at: float | None = None
        # The highest rows to which it came in this while and in the one before.
        self._tops = [0, 0]
        self._now = 0.0

    def resize(self, columns: int, rows: int) -> None:
        """Take on another size; 0 where it is not known.

        Rows become no narrower: most bars stay as wide as they began, and one that is broken over
        two rows leaves a new row at each update. What does not fit is not drawn.
        """
        self._num_columns = max(columns or _COLUMNS, self._num_columns)
        self._num_rows = rows or _ROWS

    def feed(self, data: bytes, now: float) -> bytes:
        """Take what the rank wrote; return the lines that have become final."""
        text = self._pending + self._decoder.decode(data)
        self._pending, self._now = "", now
        rest = _UNFINISHED.search(text)
        if rest is not None and len(rest[0]) < _LONGEST_SEQUENCE:
            self._pending, text = rest[0], text[: rest.start()]
        for token in _TOKEN.finditer(text):
            final_byte = token[2]
            if final_byte is not None:
                self._control(token[1], final_byte)
            elif token[0] >= " " and token[0] != "\x7f":
                self._put(token[0])
            else:
                self._act(token[0])
        return self.settle(now)

    def settle(self, now: float) -> bytes:
        """Return the lines that have become final by now."""
        if now >= self._held_until and not self._is_waiting:
            if self._rose_at is None:
                self._finish_rows(self._line_start)
            else:
                self._finish_rows(min(self._line_start, *self._tops))
                self._tops = [self._at, self._tops[0]]
                self._held_until = now + _HOLD_S
                if now - self._rose_at > 2 * _HOLD_S and not self._is_hidden:
                    self._rose_at = None  # it comes back no more
        final, self._final = self._final, []
        return "".join(final).encode("utf-8", "surrogateescape")

    def finish(self) -> bytes:
        """Return all that is left as lines; the region is empty then."""
        while len(self._rows) > 1 and self._rows[-1].is_blank:
            del self._rows[-1]
        if not self._rows[0].is_blank or len(self._rows) > 1:
            self._finish_rows(len(self._rows))
        final, self._final = self._final, []
        self._rows, self._at, self._column = [Row()], 0, 0
        return "".join(final).encode("utf-8", "surrogateescape")

    @property
    def is_left(self) -> bool:
        """Whether the rank has begun a new line below its rows, and written nothing there: it has
        done with them, unless the cursor rises again with what it writes next.
        """
        row = self._rows[self._at]
        is_new = row.is_plain and not row.cells
        return is_new and 0 < self._at == len(self._rows) - 1 and not self._is_hidden

    def wait_s(self, now: float) -> float | None:
        """Return how long until `settle` may have something; None for not without more output."""
        return None if self._is_waiting else max(0.0, self._held_until - now)

    @property
    def _is_waiting(self) -> bool:
        """Whether time alone makes no row final: none stands above the cursor, or a program that
        hides the cursor has not drawn since.
        """
        if not self._line_start or not self._is_hidden:
            return not self._line_start
        return self._rose_at is None or self._rose_at < self._held_until - _HOLD_S

    @property
    def _line_start(self) -> int:
        """The row in which the line has begun that the cursor is on."""
        start = self._at
        while start and self._rows[start - 1].wraps:
            start -= 1
        return start

    @property
    def is_over(self) -> bool:
        """Whether nothing is left that a `Region` is needed for: an empty line is begun."""
        return (
            len(self._rows) == 1
            and not (self._column or self._pending or self._style or self._is_hidden)
            and self._rows[0].is_blank
        )

    @property
    def is_line(self) -> bool:
        """Whether it is the begin of an ordinary line, a question perhaps, and no bar."""
        return len(self._rows) == 1 and self._rows[0].is_plain and bool(self._rows[0].cells)

    def picture(self) -> Picture:
        """Return what is to be shown."""
        last = len(self._rows)
        while last > self._at + 1 and self._rows[last - 1].is_blank:
            last -= 1
        rows = [
            row.render(self._column if index == self._at else 0)
            for index, row in enumerate(self._rows[:last])
        ]
        encoded = [row.encode("utf-8", "surrogateescape") for row in rows]
        return Picture(encoded, self._at, self._column)

    def _act(self, token: str) -> None:
        """Obey a control character, or an escape sequence of no interest."""
        if token == "\n":
            self._go_down()
        elif token == "\r":
            self._column, self._has_returned = 0, True
        elif token == "\b":
            self._column = max(0, min(self._column, self._num_columns) - 1)
        elif token == "\t":
            self._column = min(self._num_columns - 1, self._column // 8 * 8 + 8)
        elif token in ("\x1b7", "\x1b8"):
            self._keep_cursor(restore=token == "\x1b8")
        elif token == "\x1bM":
            self._go_up(1)

    def _control(self, parameters: str, command: str) -> None:
        numbers = [int(part) for part in re.findall(r"\d+", parameters)[:16] if len(part) < 5]
        count = max(1, numbers[0] if numbers else 1)
        mode = numbers[0] if numbers else 0
        row = self._rows[self._at]
        if command == "m":
            self._set_style(parameters)
        elif command in "AF":
            self._go_up(count)
        elif command in "BE":
            self._at = min(self._at + count, len(self._rows) - 1)
        elif command == "C":
            self._column = min(self._column + count, self._num_columns - 1)
        elif command == "D":
            self._column = max(0, min(self._column, self._num_columns - 1) - count)
        elif command in "G`":
            self._column = min(count, self._num_columns) - 1
        elif command in "Hfd":
            self._go_to(count, numbers[1] if len(numbers) > 1 else 1)
        elif command == "J":
            self._erase_rows(mode)
        elif command == "K":
            row.erase(0 if mode else self._column, self._column + 1 if mode == 1 else None)
        elif command == "X":
            row.erase(self._column, self._column + count)
        elif command == "P":
            row.is_plain = False
            del row.cells[self._column : self._column + count]
        elif command == "@":
            row.is_plain = False
            row.cells[self._column : self._column] = [BLANK] * min(count, self._num_columns)
            del row.cells[self._num_columns :]
        elif command in "hl" and parameters.startswith("?") and 25 in numbers:
            self._is_hidden = command == "l"
        elif command in "su":
            self._keep_cursor(restore=command == "u")
        if command in "EF":
            self._column = 0

    def _keep_cursor(self, *, restore: bool) -> None:
        if not restore:
            self._saved = self._at, self._column
            return
        at, self._column = self._saved
        if at < self._at:
            self._go_up(self._at - at)
        self._at = min(at, len(self._rows) - 1)

    def _set_style(self, parameters: str) -> None:
        resets = parameters.split(";")
        if resets[-1] in ("", "0"):
            self._style = ""
            return
        kept = "" if resets[0] == "0" else self._style
        # Forgotten rather than grown without end, by colours that are never reset.
        self._style = (kept if len(kept) < _MAX_STYLE else "") + f"\x1b[{parameters}m"

    def _go_up(self, count: int) -> None:
        self._at = max(0, self._at - count)
        if self._rose_at is None:
            self._tops = [self._at, self._at]
            self._held_until = self._now + _HOLD_S
        self._rose_at = self._now
        self._tops[0] = min(self._tops[0], self._at)

    def _go_to(self, row: int, column: int) -> None:
        """Go to a place of the screen: its first row is that of the region."""
        wanted = min(row, self._num_rows) - 1
        if wanted < self._at:
            self._go_up(self._at - wanted)
        while len(self._rows) <= wanted:
            self._rows.append(Row())
        self._at, self._column = wanted, min(max(1, column), self._num_columns) - 1

    def _go_down(self) -> None:
        row = self._rows[self._at]
        self._column, self._has_returned = 0, False
        self._move_down()
        if self._rose_at is None and not self._is_hidden:
            if row.is_plain and row.cells:
                self._finish_rows(self._at)  # an ordinary line, and so is what stands above it
            else:
                self._held_until = self._now + _BURST_S

    def _move_down(self) -> None:
        self._at += 1
        if self._at == len(self._rows):
            self._rows.append(Row())
        if len(self._rows) > self._num_rows:
            self._finish_rows(1)

    def _erase_rows(self, mode: int) -> None:
        at, rows = self._at, self._rows
        if mode == 0:
            rows[at].erase(self._column)
            del rows[at + 1 :]
        else:
            for row in rows if mode > 1 else rows[:at]:
                row.erase(0)
            if mode == 1:
                rows[at].erase(0, self._column + 1)

    def _put(self, text: str) -> None:
        if self._has_returned:
            self._rows[self._at].is_plain = self._has_returned = False
        if not text.isascii():
            self._put_wide(text)
            return
        while text:
            self._wrap_if_full(1)
            room = self._num_columns - self._column
            part, text = text[:room], text[room:]
            self._rows[self._at].put(self._column, [(char, self._style) for char in part])
            self._column += len(part)

    def _put_wide(self, text: str) -> None:
        from unicodedata import combining, east_asian_width

        for char in text:
            row = self._rows[self._at]
            if combining(char) or char in "\u200b\u200d\ufe0e\ufe0f":
                place = min(self._column, len(row.cells)) - 1
                while place > 0 and not row.cells[place][0]:
                    place -= 1
                if place >= 0:
                    row.cells[place] = (row.cells[place][0] + char, row.cells[place][1])
                continue
            width = 2 if east_asian_width(char) in "WF" else 1
            self._wrap_if_full(width)
            cells = [(char, self._style), *[("", self._style)] * (width - 1)]
            self._rows[self._at].put(self._column, cells)
            self._column += width

    def _wrap_if_full(self, width: int) -> None:
        if self._column + width > self._num_columns and self._column:
            self._rows[self._at].wraps = True
            self._column = 0
            self._move_down()

    def _finish_rows(self, count: int) -> None:
        """Let the upper rows go, as lines; rows that are one line together stay so."""
        for row in self._rows[:count]:
            self._final.append(row.render() + ("" if row.wraps else "\n"))
        if count and self._rows[count - 1].wraps:
            self._final.append("\n")
        del self._rows[:count]
        if not self._rows:
            self._rows.append(Row())
        self._at = max(0, self._at - count)
        self._tops = [max(0, top - count) for top in self._tops]
        self._saved = (max(0, self._saved[0] - count), self._saved[1])
