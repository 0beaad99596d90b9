"""What a run has printed: all of it, or the lines of one rank, read on as it grows.

The launcher's ranks share the driver log, in which each line says whose it is; those that mpirun
starts have a file each, because its own tags stand in the middle of lines. Where the launcher keeps
a file of each rank, one rank's lines are read there; what the launcher says itself, rank 0 shows.
"""

from __future__ import annotations

import os
import re

from launcher.jobs.engine import RANK_PREFIX
from launcher.jobs.store import RunFolder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class LogReader:
    """Reads on in the logs of a run; whole lines, until it is told that no more will come."""

    def __init__(self, run: RunFolder, rank: int | None) -> None:
        self._run = run
        self._rank = rank
        self._files: dict[str, _Growing] = {}

    def read(self, *, is_over: bool = False) -> bytes:
        """Return what has come since the last call."""
        apart = _files_of_ranks(self._run)
        own = [] if self._rank is None or apart else _logs_of_rank(self._run, self._rank)
        # Of ranks that write meanwhile: so what is said of their end comes behind what they wrote.
        said = self._lines(self._run.driver_log, is_over)
        written = [line for path in own for line in self._lines(path, is_over)]
        if own:
            before, behind = _split_at_ranks(said) if self._rank == 0 else ([], [])
            parts = [*before, *written, *behind]
        else:
            parts = list(lines_of_rank(said, self._rank))
        for rank, path in apart:
            if self._rank in (None, rank):
                prefix = b"[%d] " % rank if self._rank is None else b""
                parts += [prefix + line for line in self._lines(path, is_over)]
        return b"".join(parts)

    def _lines(self, path: str, is_over: bool) -> list[bytes]:
        return self._files.setdefault(path, _Growing(path)).read(is_over=is_over)


class _Growing:
    """One file that grows."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def read(self, *, is_over: bool) -> list[bytes]:
        """Return the lines that have come; one that has not ended, when no more will come."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return []
        self._offset += len(data)
        data = self._rest + data
        end = len(data) if is_over else data.rfind(b"\n") + 1
        self._rest = data[end:]
        *lines, last = data[:end].split(b"\n")  # a carriage return ends no line
        return [line + b"\n" for line in lines] + ([last] if last else [])


def _files_of_ranks(run: RunFolder) -> list[tuple[int, str]]:
    try:
        names = os.listdir(run.ranks)
    except OSError:
        return []
    ranks = sorted(int(name[:-4]) for name in names if name[:-4].isdigit())
    return [(rank, os.path.join(run.ranks, f"{rank}.log")) for rank in ranks]


def _logs_of_rank(run: RunFolder, rank: int) -> list[str]:
    """Return the launcher's files with what one rank has written, the oldest first."""
    name = re.compile(rf"rank_0*{rank}(?:\.(\d+))?\.log")
    found: list[tuple[list[int], str]] = []
    for folder, folders, names in os.walk(run.launcher):
        folders[:] = [name for name in folders if name not in ("errors", "latest")]
        for each in names:
            match = name.fullmatch(each)
            if match:
                # Of the job before a requeue, of an attempt before a restart, of a lost process.
                order = [_number(part, folder) for part in ("requeue", "attempt")]
                found.append(([*order, int(match[1] or 0)], os.path.join(folder, each)))
    return [path for _, path in sorted(found)]


def _split_at_ranks(lines: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return what the launcher said before the first rank wrote something, and all after that."""
    first = next((i for i, line in enumerate(lines) if RANK_PREFIX.match(line)), len(lines))
    return lines[:first], [line for line in lines[first:] if not RANK_PREFIX.match(line)]


def _number(part: str, folder: str) -> int:
    match = re.search(rf"/{part}_(\d+)(?:/|$)", folder)
    return int(match[1]) if match else 0


def lines_of_rank(lines: Iterable[bytes], rank: int | None) -> Iterator[bytes]:
    """Yield a rank's lines without the rank in front; what the launcher says, rank 0 shows.

    None yields all lines as they are.
    """
    for line in lines:
        if rank is None:
            yield line
            continue
        match = RANK_PREFIX.match(line)
        if match is None:
            if rank == 0:
                yield line
        elif int(match[1]) == rank:
            yield line[match.end() :]


def as_text(data: bytes) -> str:
    """Return output as text; bytes that are none stand as they are written in Python."""
    return data.decode("utf-8", "backslashreplace")
