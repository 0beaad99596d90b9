"""Both streams of one worker in one file, in the order in which they came.

As long as a worker uses only one of its streams, the file is a link to that stream's own: nothing
is written twice. With the first byte of the other stream it becomes a file.

The bytes are those of the two separate files. What is added is a newline where one stream goes on
while the other's line stands unfinished for a while, a progress bar say: as a terminal would need
it, too. Lines that are only cut by a full pipe stay whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress

from launcher.output.console import Console
from launcher.output.files import LogFile

# The rest of a line mostly comes at once; until then it is kept back, but no longer than this, and
# no more than so much.
PART_S = 0.2
_LONGEST_PART = 64 << 10

# More than this of the first stream is not copied when the second one comes: everybody would have
# to wait.
_LONGEST_COPY = 16 << 20


class MergedLog:
    """The file of one worker for both of its streams."""

    def __init__(self, logs: Mapping[str, str], console: Console) -> None:
        """logs: the files of `out` and `err`, which are written before this, and of `log`."""
        self._logs = logs
        self._console = console
        self._file: LogFile | None = None
        self._is_lost = False  # it cannot be written
        # The only stream so far, how much it has brought, and how that ends.
        self._only = ""
        self._length = 0
        self._end = b"\n"
        # Of each stream: the part of a line that is not in the file yet, and since when.
        self._parts: dict[str, bytes] = {}
        self._since: dict[str, float] = {}
        # The stream whose unfinished line stands at the end of the file; "" when none does.
        self._open = ""
        self._link("out")

    @property
    def has_parts(self) -> bool:
        """Whether something waits for the rest of its line."""
        return bool(self._parts)

    def write(self, stream: str, data: bytes) -> None:
        """Write what a stream has brought, up to its last whole line."""
        if self._file is None and not self._is_lost:
            if self._only in ("", stream):
                self._note_only(stream, data)
                return
            self._part_ways()
        if self._file is None:
            return
        part = self._parts.pop(stream, b"")
        if part:
            data = part + data
        cut = data.rfind(b"\n") + 1
        if cut < len(data) and (stream == self._open or len(data) - cut > _LONGEST_PART):
            cut = len(data)  # it goes on where it stands, or is too long to be kept
        if cut:
            self._append(self._file, stream, data[:cut])
        if cut < len(data):
            self._parts[stream] = data[cut:]
            if cut or not part:
                self._since[stream] = time.monotonic()

    def flush(self, *, is_last: bool = False) -> None:
        """Write the parts of lines that have waited long enough; all of them at the end."""
        now = time.monotonic()
        for stream in list(self._parts):
            if self._file and (is_last or now - self._since[stream] >= PART_S):
                self._append(self._file, stream, self._parts.pop(stream))

    def close(self) -> None:
        """Write what is left, and close the file."""
        self.flush(is_last=True)
        if self._file is not None:
            self._file.close()

    def _append(self, file: LogFile, stream: str, data: bytes) -> None:
        if self._open and self._open != stream:
            data = b"\n" + data
        file.write(data)
        self._open = "" if data.endswith(b"\n") else stream

    def _link(self, stream: str) -> None:
        """Let the file be the one of a stream, where the file system has links."""
        try:
            if os.path.islink(self._logs["log"]):
                os.unlink(self._logs["log"])
            os.symlink(os.path.basename(self._logs[stream]), self._logs["log"])
        except OSError:
            self._make_file()

    def _make_file(self) -> None:
        path = self._logs["log"]
        try:
            self._file = LogFile(path, self._console)
        except OSError as error:
            self._is_lost = True
            self._console.say(f"cannot write {path}: {error.strerror}; the run goes on without")

    def _note_only(self, stream: str, data: bytes) -> None:
        if not self._only:
            self._only = stream
            if stream != "out":
                self._link(stream)
                if self._file is not None:  # there are no links
                    self.write(stream, data)
                    return
        self._length += len(data)
        self._end = data[-1:]

    def _part_ways(self) -> None:
        """Make the file one of its own, with what the only stream has brought so far."""
        with suppress(OSError):  # what is in the way shows itself when the file is made
            os.unlink(self._logs["log"])
        self._make_file()
        if self._file is None:
            return
        path = self._logs[self._only]
        if self._length > _LONGEST_COPY:
            note = f"the first {self._length} bytes are in {os.path.basename(path)} alone"
            self._file.write(f"[launcher] {note}\n".encode())
        else:
            try:
                with open(path, "rb") as source:
                    self._file.write(source.read(self._length))
            except OSError as error:
                self._console.say(f"cannot read {path}: {error.strerror}")
        if self._end != b"\n":
            self._open = self._only
