"""What one worker writes: into its log files first, then prefixed on the console.

Owns the log descriptors, the prefixes and the choice of what is shown; knows nothing of processes.
Each rank and stream has one `RankStream`, and both streams of a rank one `MergedLog`. Log files get
the bytes as they came; the console gets whole lines.
"""

from __future__ import annotations

import os
import time

from launcher.named import NamedTuple
from launcher.output.console import Console
from launcher.output.files import LogFile
from launcher.output.lines import MAX_LINE_BYTES, LineSplitter, Tail, apply_carriage_returns
from launcher.output.merged import MergedLog
from launcher.output.times import LineTimes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.output.region import Region

# Text without a newline is shown after this long: most of it is completed at once. On a terminal
# it is only for the moment; elsewhere others can tear the line from then on.
_PROMPT_S = 0.1
_PART_S = 0.2

# Longer text is no question to the user: it is part of a long line, which soon ends.
_LONGEST_PROMPT = 4096

# Rewritten so often, and for so long, a line is a progress bar; nobody sees a faster one. One that
# may become a bar is shown as it is only later.
_BAR_REWRITES = 3
_BAR_S = 0.3
_MAY_BE_BAR_S = 1.0

# A line that is longer than this may be torn by others.
_LONGEST_WHOLE_LINE = 64 << 20

# A progress bar that is not on a terminal is printed as a line, at most this often.
PROGRESS_INTERVAL_S = 10.0

# Colours of the prefixes, by rank: the six that are readable on dark and on light backgrounds.
_COLOURS = (36, 33, 32, 35, 34, 31)


class StreamSettings(NamedTuple):
    """How one stream of one worker is treated."""

    rank: int
    stream: str  # "out" or "err"
    prefix: bytes
    # Log file, or None when no file is wanted.
    log_path: str | None
    shown: bool
    # Lines that contain one of these also go to `filtered_path`.
    filters: tuple[bytes, ...] = ()
    filtered_path: str | None = None
    # Where it is noted when lines came; None without a log file.
    times: LineTimes | None = None


def make_prefix(
    template: str | None,
    names: dict[str, str],
    *,
    width: int,
    rank: int,
    colour: bool,
    host_width: int = 0,
) -> bytes:
    """Return the prefix of lines: `[rank] ` padded, or the user's template filled in.

    names: `rank` may be several, `0-7`; then `rank` gives no more than the colour. host_width: the
    length of the longest hostname, where there are several: `[host:rank] `.
    """
    if template is None:
        host = f"{names['hostname']:>{host_width}}:" if host_width else ""
        text = f"[{host}{names['rank']:>{width}}] "
    else:
        text = template
        for name in sorted(names, key=len, reverse=True):
            text = text.replace("${" + name + "}", names[name]).replace("$" + name, names[name])
    if colour:
        text = f"\x1b[{_COLOURS[rank % len(_COLOURS)]}m{text}\x1b[0m"
    return text.encode("utf-8", "surrogateescape")


class RankStream:
    """One output stream of one worker."""

    def __init__(
        self, settings: StreamSettings, console: Console, merged: MergedLog | None = None
    ) -> None:
        """merged: the file for both streams of the worker, which is not ours to close."""
        self._settings = settings
        self._merged = merged
        self._console = console
        self._is_live = console.is_tty(settings.stream)
        # What is written there, while it is more than plain lines.
        self._region: Region | None = None
        self._open_colours = b""
        self._splitter = LineSplitter(is_exact=not self._is_live)
        self.tail = Tail()
        self.bytes_seen = 0
        self.last_output_at = 0.0
        self._last_progress_line = 0.0
        # Of the unfinished line: when it began; how much of it is on the console, and since when.
        self._began_at = 0.0
        self._bytes_shown = 0
        self._shown_at = 0.0
        self._log_name = os.path.basename(settings.log_path or "")
        self._log = LogFile(settings.log_path, console) if settings.log_path else None
        self._filtered = (
            LogFile(settings.filtered_path, console) if settings.filtered_path else None
        )
        # What the filters have not seen of a line that is on the console already.
        self._unfiltered = b""

    def take(self, data: bytes) -> None:
        """Take what the worker wrote."""
        self.bytes_seen += len(data)
        self.last_output_at = time.monotonic()
        if self._log is not None:
            if self._settings.times is not None and b"\n" in data:
                self._settings.times.note(self._log_name, self.bytes_seen - len(data))
            self._log.write(data)
        if self._merged is not None:
            self._merged.write(self._settings.stream, data)
        self.tail.feed(data)
        if not self._settings.shown and self._filtered is None:
            return
        is_new = not self._splitter.length and not self._bytes_shown
        block = self._feed_live(data) if self._is_live else self._splitter.feed(data)
        if block or is_new:
            self._began_at = self.last_output_at
        if block:
            self._emit(block)
        if self._is_live:
            if self._settings.shown:
                self._show_unfinished()
        elif self._splitter.length:
            self._go_on()

    def _feed_live(self, data: bytes) -> bytes:
        """Take output for a terminal; return the lines that are final."""
        from launcher.output.region import Region, is_special

        if self._region is None:
            if not is_special(data):
                return self._splitter.feed(data)
            self._region = Region(*self._inner_size())
            data = self._splitter.take_part() + data
        block = self._region.feed(data, time.monotonic())
        if self._region.is_over:
            self._region = None
        return block

    def _inner_size(self) -> tuple[int, int]:
        columns, rows = self._console.size(self._settings.stream)
        return max(1, columns - self.prefix_width), rows

    @property
    def prefix_width(self) -> int:
        """How many columns of a terminal the prefix takes."""
        from launcher.output.live import visible_width

        return visible_width(self._settings.prefix)

    @property
    def has_left_rows(self) -> bool:
        """Whether live rows are there that the rank has done with, if nothing more is to come."""
        return self._region is not None and self._region.is_left

    def leave_rows(self) -> None:
        """Pass on live rows that the rank has left, because it writes on its other stream."""
        if self._region is None or not self._region.is_left:
            return
        block, self._region = self._region.finish(), None
        self._console.end_live(self._settings.rank, self._settings.stream)
        self._emit(block)

    def give_line(self) -> bytes:
        """Return the unfinished line, which from now on another stream shows."""
        begun = self._region.finish() if self._region is not None else self._splitter.finish()
        self._region, self._bytes_shown = None, 0
        self._console.end_live(self._settings.rank, self._settings.stream)
        return begun[:-1]

    def end_question(self) -> None:
        """Let go of the beginning of a line: somebody has answered it, where it is shown."""
        if self.is_asking:
            self.give_line()
        elif self._bytes_shown and self._console.goes_on(self, self._settings.stream):
            self._console.leave_part(self._settings.stream)
            self._bytes_shown = 0

    def take_line(self, begun: bytes) -> None:
        """Show what follows behind the line that another stream has begun."""
        block = self._feed_live(begun)
        assert not block  # it has no end yet

    def resize(self) -> None:
        """Take on the new size of the terminal."""
        if self._region is not None:
            self._region.resize(*self._inner_size())

    def rename(self, prefix: bytes, rank: int) -> None:
        """Show what follows under another rank; the log file stays."""
        self._console.end_live(self._settings.rank, self._settings.stream)
        self._settings = self._settings._replace(prefix=prefix, rank=rank)

    def close(self) -> None:
        """Show an unfinished last line and close the files: the stream has ended."""
        block = self._splitter.finish() or self._end_of_shown()
        if self._region is not None:
            block, self._region = self._region.finish(), None
        self._console.end_live(self._settings.rank, self._settings.stream)
        if block:
            self._emit(block)
        for file in (self._log, self._filtered):
            if file is not None:
                file.close()

    def _end_of_shown(self) -> bytes:
        return b"\n" if self._bytes_shown and not self._is_live else b""

    def _emit(self, block: bytes) -> None:
        """Pass on whole lines, of which the first may have been begun on the console."""
        if self._is_live:
            block = self._tidy(block)
        if self._filtered is not None:
            self._write_filtered(self._unfiltered + block)
            self._unfiltered = b""
        if not self._settings.shown:
            return
        stream, prefix = self._settings.stream, self._settings.prefix
        if self._bytes_shown and not self._is_live:
            block = self._end_line(block)
        self._bytes_shown = 0
        if block:
            self._console.show_lines(self._settings.rank, stream, prefix, block)

    def _tidy(self, block: bytes) -> bytes:
        """Return lines so that a terminal shows them as they are meant, whoever writes next."""
        block = apply_carriage_returns(block)
        if self._open_colours or b"\x1b" in block:  # two bytes take a hundred times as long
            from launcher.output.region import close_colours

            block, self._open_colours = close_colours(block, self._open_colours)
        return block

    def _end_line(self, block: bytes) -> bytes:
        """Write the end of a line that is on the console already; return the lines behind it."""
        stream, end = self._settings.stream, block.find(b"\n") + 1
        if self._console.goes_on(self, stream):
            self._console.show_part(self, stream, block[:end], is_last=True)
        elif end > 1:
            end = 0  # others have ended it with their own, and the rest is a line
        self.let_go()
        return block[end:]

    def let_go(self) -> None:
        """Let others write on the console again, if a long line of ours has kept them from it."""
        if self._console.claimant is self:
            self._console.release()

    def _write_filtered(self, block: bytes) -> None:
        assert self._filtered is not None
        wanted = [
            line
            for line in block.split(b"\n")
            if any(word in line for word in self._settings.filters)
        ]
        if wanted:
            prefix = b"[%d] " % self._settings.rank
            self._filtered.write(b"".join(prefix + line + b"\n" for line in wanted))

    def show_prompt(self) -> float | None:
        """Show an unfinished line that has been there for a while: a question, perhaps.

        Returns when to ask again, in seconds from now; None for when there is more.
        """
        if self._region is not None:
            return self._settle()
        if not self.has_prompt:
            return None
        wait_s = self._prompt_due_at() - time.monotonic()
        if wait_s > 0:
            return wait_s
        if self._is_live:
            self._bytes_shown = self._splitter.length
            self._show_live(self._splitter.unfinished)
        elif self._console.is_busy(self._settings.stream):
            return _PART_S
        else:
            self._show_part()
        return None

    @property
    def has_prompt(self) -> bool:
        """Whether there is text without a newline that is not on the console, or not final."""
        if self._region is not None:
            return self._region.wait_s(time.monotonic()) is not None
        waiting = self._splitter.length - (self._bytes_shown if self._is_live else 0)
        return self._settings.shown and waiting > 0 and not self._splitter.is_rewritten

    @property
    def is_asking(self) -> bool:
        """Whether the beginning of an ordinary line stands on the terminal: a question, perhaps."""
        if self._region is not None:
            return self._settings.shown and self._region.is_line
        return self._is_live and 0 < self._bytes_shown < _LONGEST_PROMPT

    def _settle(self) -> float | None:
        """Pass on lines that have become final with time; return when to ask again, in seconds."""
        assert self._region is not None
        now = time.monotonic()
        block = self._region.settle(now)
        if block:
            self._emit(block)
            self._show_region()
        return self._region.wait_s(now)

    def _prompt_due_at(self) -> float:
        if self._is_live:
            return self._began_at + _PROMPT_S
        if self._bytes_shown and not self._console.goes_on(self, self._settings.stream):
            # Others have torn the line; each further part would be a line of its own.
            return self._shown_at + PROGRESS_INTERVAL_S
        if self._splitter.length > _LONGEST_PROMPT:
            return self.last_output_at + PROGRESS_INTERVAL_S
        if self._splitter.num_rewrites:
            return self._began_at + _MAY_BE_BAR_S
        return max(self._began_at, self._shown_at) + _PART_S

    def _go_on(self) -> None:
        """Look at an unfinished line where there is no terminal: a progress bar, or a long one?"""
        splitter = self._splitter
        has_lasted = self.last_output_at - self._began_at >= _BAR_S
        if has_lasted and splitter.num_rewrites >= _BAR_REWRITES and not splitter.is_rewritten:
            splitter.thin()
        if splitter.is_rewritten:
            self._bytes_shown = 0
            self.let_go()
            if self._settings.shown:
                self._show_progress_line(apply_carriage_returns(splitter.unfinished))
        elif splitter.length >= MAX_LINE_BYTES:
            self._show_part()
            if self._bytes_shown >= _LONGEST_WHOLE_LINE:
                self.let_go()
            elif self._settings.shown:
                self._console.claimant = self

    def _show_part(self) -> None:
        """Pass on what there is of a line before its end has come."""
        part = self._splitter.take_part()
        if self._filtered is not None:
            self._unfiltered = (self._unfiltered + part)[-MAX_LINE_BYTES:]
        if self._settings.shown:
            goes_on = self._console.goes_on(self, self._settings.stream)
            prefix = b"" if goes_on else self._settings.prefix
            self._console.show_part(self, self._settings.stream, prefix + part)
            self._bytes_shown += len(part)
            self._shown_at = time.monotonic()

    def _show_unfinished(self) -> None:
        """Show what has no end yet: a progress bar, or what is typed, at once."""
        text = self._splitter.unfinished
        if len(text) < self._bytes_shown:
            self._bytes_shown = 0
        if self._region is not None:
            self._show_region()
        elif not text:
            self._console.end_live(self._settings.rank, self._settings.stream)
        elif self._console.asking_rank == self._settings.rank:
            self._bytes_shown = len(text)
            self._show_live(text)

    def _show_region(self) -> None:
        from launcher.output.live import visible_width

        assert self._region is not None
        if not self._settings.shown:
            return
        rank, stream, prefix = self._settings.rank, self._settings.stream, self._settings.prefix
        rows, cursor_row, cursor_column = self._region.picture()
        cursor: tuple[int, int] | None = (cursor_row, cursor_column + self.prefix_width)
        if self._region.is_line and cursor_column == visible_width(rows[0]):
            cursor = None  # where an answer goes
        self._console.show_live(rank, stream, [prefix + row for row in rows], cursor)

    def _show_live(self, text: bytes) -> None:
        rank, stream = self._settings.rank, self._settings.stream
        self._console.show_live(rank, stream, [self._settings.prefix + text])

    def _show_progress_line(self, text: bytes) -> None:
        now = time.monotonic()
        if now - self._last_progress_line >= PROGRESS_INTERVAL_S:
            self._last_progress_line = now
            settings = self._settings
            self._console.show_lines(
                settings.rank, settings.stream, settings.prefix, text.strip() + b"\n"
            )
