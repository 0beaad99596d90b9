"""What one worker writes: into its log files first, then prefixed on the console.

Owns the log descriptors, the prefixes and the choice of what is shown; knows nothing of processes.
Each rank and stream has one `RankStream`. Log files get the bytes as they came; the console gets
whole lines.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from launcher.output.console import Console
from launcher.output.lines import LineSplitter, Tail, apply_carriage_returns

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


def make_prefix(
    template: str | None, names: dict[str, str], *, width: int, rank: int, colour: bool
) -> bytes:
    """Return the prefix of a rank's lines: `[rank] ` padded, or the user's template filled in."""
    if template is None:
        text = f"[{rank:{width}d}] "
    else:
        text = template
        for name in sorted(names, key=len, reverse=True):
            text = text.replace("${" + name + "}", names[name]).replace("$" + name, names[name])
    if colour:
        text = f"\x1b[{_COLOURS[rank % len(_COLOURS)]}m{text}\x1b[0m"
    return text.encode("utf-8", "surrogateescape")


class LogFile:
    """An append-only file that gives up quietly, but not silently, when it cannot be written."""

    def __init__(self, path: str, console: Console) -> None:
        self._path = path
        self._console = console
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._fd >= 0:
            try:
                view = view[os.write(self._fd, view) :]
            except OSError as error:
                self._console.say(
                    f"cannot write {self._path}: {error.strerror}; this file ends here, the run"
                    " goes on"
                )
                self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class RankStream:
    """One output stream of one worker."""

    def __init__(self, settings: StreamSettings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._splitter = LineSplitter()
        self.tail = Tail()
        self.bytes_seen = 0
        self.last_output_at = 0.0
        self._last_progress_line = 0.0
        self._log = LogFile(settings.log_path, console) if settings.log_path else None
        self._filtered = (
            LogFile(settings.filtered_path, console) if settings.filtered_path else None
        )

    def take(self, data: bytes) -> None:
        """Take what the worker wrote."""
        self.bytes_seen += len(data)
        self.last_output_at = time.monotonic()
        if self._log is not None:
            self._log.write(data)
        self.tail.feed(data)
        if not self._settings.shown and self._filtered is None:
            return
        block = self._splitter.feed(data)
        if block:
            self._emit(block)
        if self._settings.shown:
            self._show_unfinished()

    def rename(self, prefix: bytes, rank: int) -> None:
        """Show what follows under another rank; the log file stays."""
        self._console.end_live(self._settings.rank)
        self._settings = self._settings._replace(prefix=prefix, rank=rank)

    def close(self) -> None:
        """Show an unfinished last line and close the files: the stream has ended."""
        block = self._splitter.finish()
        self._console.end_live(self._settings.rank)
        if block:
            self._emit(block)
        for file in (self._log, self._filtered):
            if file is not None:
                file.close()

    def _emit(self, block: bytes) -> None:
        block = apply_carriage_returns(block)
        if self._filtered is not None:
            self._write_filtered(block)
        if self._settings.shown:
            prefix = self._settings.prefix
            self._console.show(
                self._settings.stream, prefix + block[:-1].replace(b"\n", b"\n" + prefix) + b"\n"
            )

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

    @property
    def has_prompt(self) -> bool:
        """Whether text without a newline waits on a terminal: a question to the user, perhaps."""
        is_shown = self._settings.shown and self._console.is_tty(self._settings.stream)
        return is_shown and bool(self._splitter.unfinished) and not self._splitter.is_rewritten

    def show_prompt(self) -> None:
        """Show the unfinished text, because it has been there for a while."""
        if self.has_prompt:
            self._show_live(self._splitter.unfinished)

    def _show_unfinished(self) -> None:
        """Show a progress bar before its line has ended."""
        text = self._splitter.unfinished
        if not text:
            self._console.end_live(self._settings.rank)
        elif self._splitter.is_rewritten:
            if self._console.is_tty(self._settings.stream):
                self._show_live(text)
            else:
                self._show_progress_line(apply_carriage_returns(text))

    def _show_live(self, text: bytes) -> None:
        shown = self._settings.prefix + apply_carriage_returns(text)
        self._console.show_live(self._settings.rank, self._settings.stream, shown)

    def _show_progress_line(self, text: bytes) -> None:
        now = time.monotonic()
        if now - self._last_progress_line >= PROGRESS_INTERVAL_S:
            self._last_progress_line = now
            self._console.show(self._settings.stream, self._settings.prefix + text.strip() + b"\n")
