"""The log files of a run, read again: the lines of all ranks in the order in which they came.

When they came is known from the notes beside the files, which have their own order, too; how exact
these are is said in output/times.py. The order within a stream is exact.
"""

from __future__ import annotations

import heapq
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain

from launcher.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

_LOG = re.compile(r"rank_(\d+)(?:\.\d+)?\.(out|err)")
_TIMES = re.compile(r"times(_\d+)?\.txt")

# A line is searched this far back for its beginning.
_LONGEST_BACK = 1 << 20


class Line(NamedTuple):
    """One line of a rank."""

    time: float
    # Of the note that tells the time: of the same time, that of the lower number came first.
    number: int
    rank: int
    stream: str
    text: bytes


class RunLogs:
    """The log files of one run, which may still grow."""

    def __init__(
        self,
        folder: str,
        ranks: frozenset[int] | None = None,
        begins: Mapping[str, int] | None = None,
        without: Collection[int] = (),
    ) -> None:
        """ranks: the only ones that are wanted; None for all. without: these are not.

        begins: file -> where it begins, if that is known to be behind its beginning.
        """
        self._folder = folder
        self._wanted, self._unwanted = ranks, without
        self._begins = {} if begins is None else begins
        self._files: dict[str, _LogFile] = {}
        self._notes: dict[str, _Notes] = {}

    @property
    def ranks(self) -> set[int]:
        """The wanted ranks that have log files here."""
        return {file.rank for file in self._files.values()}

    @property
    def has_times(self) -> bool:
        """Whether it is known when lines came."""
        return any(notes.has_any for notes in self._notes.values())

    def look(self) -> None:
        """Find files that are new, and read the notes that are."""
        for folder in list_folders(self._folder):
            notes = self._notes.setdefault(folder, _Notes(folder, self._begins))
            notes.read()
            for name in sorted(os.listdir(folder)):
                match = _LOG.fullmatch(name)
                path = os.path.join(folder, name)
                if match is None or path in self._files or int(match[1]) in self._unwanted:
                    continue
                if self._wanted is None or int(match[1]) in self._wanted:
                    begin = self._begins.get(path, 0)
                    self._files[path] = _LogFile(path, int(match[1]), match[2], notes, begin)

    def lines(self, since: float = 0.0, *, is_last: bool = True) -> Iterator[Line]:
        """Return the lines that have not been returned, in their order.

        since: lines of an earlier time are left out. is_last: nobody writes any more, so that an
        unfinished line is one.
        """
        streams: Iterable[Iterator[Line]] = [
            file.lines(since, is_last=is_last) for file in self._files.values()
        ]
        return heapq.merge(*streams, key=lambda line: line[:2])

    def skip(self, path: str, offset: int) -> None:
        """Read a file from an offset on: what stands before that will not come."""
        if path in self._files:
            self._files[path].read_to = offset

    def read_to(self, path: str) -> int:
        """Return how far a file has been read."""
        return self._files[path].read_to if path in self._files else 0


def list_folders(logs: str) -> list[str]:
    """Return the folders of all attempts, in their order, a requeued job's behind the first."""
    first = _numbered(logs, "attempt_")
    later = [[folder, *_numbered(folder, "attempt_")] for folder in _numbered(logs, "requeue_")]
    return [logs, *first, *chain(*later)] if os.path.isdir(logs) else []


def read_log_name(name: str) -> int | None:
    """Return the rank whose log file has this name; None where it is no such file."""
    match = _LOG.fullmatch(name)
    return int(match[1]) if match else None


def is_notes_name(name: str) -> bool:
    """Tell whether a file has this name in which it is noted when lines came."""
    return _TIMES.fullmatch(name) is not None


def _numbered(folder: str, beginning: str) -> list[str]:
    """Return the folders in a folder that begin so and end with a number, in their order."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    numbers = sorted(
        int(name[len(beginning) :])
        for name in names
        if name.startswith(beginning) and name[len(beginning) :].isdecimal()
    )
    return [os.path.join(folder, f"{beginning}{number}") for number in numbers]


class _Notes:
    """When the lines of an attempt came: for each file, offsets and times."""

    def __init__(self, folder: str, begins: Mapping[str, int]) -> None:
        self._folder = folder
        self._begins = begins
        self._read_to: dict[str, int] = {}
        self._count = 0
        # Log file -> of each note the offset, and time and number.
        self._by_file: dict[str, tuple[list[int], list[tuple[float, int]]]] = {}

    @property
    def has_any(self) -> bool:
        return bool(self._by_file)

    def of(self, name: str) -> tuple[list[int], list[tuple[float, int]]]:
        return self._by_file.get(name, ([], []))

    def read(self) -> None:
        """Read what has been noted since the last time; a broken note is left out."""
        for name in os.listdir(self._folder):
            if not _TIMES.fullmatch(name):
                continue
            path = os.path.join(self._folder, name)
            begin = self._read_to.get(name, self._begins.get(path, 0))
            with open(path, "rb") as file:
                file.seek(begin)
                text = file.read()
            cut = text.rfind(b"\n") + 1
            self._read_to[name] = begin + cut
            for note in text[:cut].split(b"\n"):
                self._take(note)

    def _take(self, note: bytes) -> None:
        try:
            moment, offset, name = note.decode().split(" ", 2)
            found = int(offset), float(moment)
        except ValueError:
            return
        offsets, times = self._by_file.setdefault(name, ([], []))
        self._count += 1
        offsets.append(found[0])
        times.append((found[1], self._count))


class _LogFile:
    """One log file, and how far it has been read."""

    def __init__(self, path: str, rank: int, stream: str, notes: _Notes, begin: int) -> None:
        self.rank = rank
        self._path = path
        self._name = os.path.basename(path)
        self._stream = stream
        self._notes = notes
        self._begin = self.read_to = begin

    def lines(self, since: float, *, is_last: bool) -> Iterator[Line]:
        try:
            file = open(self._path, "rb")  # noqa: SIM115
        except OSError:
            return
        with file:
            offsets, times = self._notes.of(self._name)
            if since and self.read_to == self._begin:
                offset = _offset_at(offsets, times, since)
                self.read_to = max(self._begin, _line_begin(file, offset))
            fallback = os.fstat(file.fileno()).st_mtime, 0
            file.seek(self.read_to)
            for text in file:
                if not (is_last or text.endswith(b"\n")):
                    return
                self.read_to += len(text)
                number = bisect_right(offsets, self.read_to - 1) - 1
                moment = times[max(number, 0)] if times else fallback
                if moment[0] >= since:
                    yield Line(*moment, self.rank, self._stream, _shown(text))


def _shown(text: bytes) -> bytes:
    """Return a line as a terminal would show it: behind its last carriage return."""
    return text.rstrip(b"\r\n").rpartition(b"\r")[2]


def _offset_at(offsets: list[int], times: list[tuple[float, int]], moment: float) -> int:
    """Return an offset before which everything came earlier."""
    number = bisect_left(times, (moment, 0)) - 1
    return offsets[number] if number >= 0 else 0


def _line_begin(file: BinaryIO, offset: int) -> int:
    """Return where the line begins in which this offset stands."""
    begin = max(0, offset - _LONGEST_BACK)
    file.seek(begin)
    before = file.read(offset - begin)
    return begin + before.rfind(b"\n") + 1 if b"\n" in before else begin
