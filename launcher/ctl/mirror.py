"""Log files that lie on other hosts: copies of them, fetched through the run itself.

A little at a time, so that nobody there is kept from anything. Of what was written before, the end
of each file; what has been read here is let go.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator

from launcher.ctl.messages import AskLogs, Logs
from launcher.ctl.service import MOST_LOGS_BYTES
from launcher.runs.logs import Line, RunLogs, is_notes_name, read_log_name
from launcher.runs.parts import Part

# The ranks of one question: their files' names go along.
_MOST_RANKS = 64

# How often the run is asked for more: so often where few hosts have to answer, and more seldom by
# the number of hosts.
_LEAST_INTERVAL_S = 0.2
_INTERVAL_S = 1.0
_PER_HOST_S = 0.02

# The pause between two questions, while there is more.
_PAUSE_S = 0.02

# How much of a file that has been read is kept before it is let go.
_MOST_READ_BYTES = 8 << 20

# Asks the run; None where it does not answer any more.
Ask = Callable[[AskLogs], Logs | None]


class Mirror:
    """Copies of the log files of some ranks."""

    def __init__(self, folder: str, ranks: Iterable[int], num_hosts: int, ask: Ask) -> None:
        """folder: an empty one, for the copies. num_hosts: of those that have the ranks."""
        self._folder = folder
        # All that these ranks write is here, also what is written on this host.
        self.wanted = frozenset(ranks)
        wanted = sorted(self.wanted)
        self._batches = [wanted[at : at + _MOST_RANKS] for at in range(0, len(wanted), _MOST_RANKS)]
        self._most_bytes = max(1, MOST_LOGS_BYTES // max(1, min(num_hosts, _MOST_RANKS)))
        self._ask = ask
        # How long to wait between two looks.
        self.interval_s = min(_INTERVAL_S, max(_LEAST_INTERVAL_S, num_hosts * _PER_HOST_S))
        # Inner folder -> file -> how much of it is known; and of a path, where our copy begins.
        self._known: dict[str, dict[str, int]] = {".": {}}
        self._begins: dict[str, int] = {}
        # Inner folder -> file -> how large it was when it was first seen at this look.
        self._sizes: dict[str, dict[str, int]] = {}
        # Folders of attempts that are over, and everything of them is here.
        self._ended: set[str] = set()
        # The ranks of which not everything is here, because it is much.
        self.cut_ranks: set[int] = set()
        self._logs = RunLogs(folder, self.wanted, self._begins)
        # Whether the run has answered the last question.
        self.is_answered = True

    @property
    def ranks(self) -> set[int]:
        """The ranks that have files."""
        return self._logs.ranks

    def fetch(self) -> None:
        """Fetch what there is by now and is not known."""
        self._sizes.clear()
        for inner in self._known_folders():
            for batch in self._batches:
                while self.is_answered and self._fetch_some(inner, batch):
                    time.sleep(_PAUSE_S)
        if self.is_answered:
            self._ended.update(list(self._known)[:-1])
        self._logs.look()

    def lines(self, since: float, *, is_last: bool) -> Iterator[Line]:
        """Return the lines that have not been returned, in their order; see `RunLogs.lines`."""
        return self._logs.lines(since, is_last=is_last)

    def let_go(self) -> None:
        """Give the room back that long files take which have been read."""
        for inner, known in self._known.items():
            for name, end in known.items():
                path = self._path(inner, name)
                begin = self._begins.get(path, 0)
                read_to = self._logs.read_to(path)
                if read_to - begin < _MOST_READ_BYTES:
                    continue
                with open(path, "r+b") as file:
                    file.seek(read_to)
                    rest = file.read(end - read_to)
                    file.truncate(0)
                    file.seek(read_to)
                    file.write(rest)
                self._begins[path] = read_to

    def _known_folders(self) -> Iterator[str]:
        """Return the folders in turn; more may become known meanwhile."""
        done = set(self._ended)
        while left := [inner for inner in self._known if inner not in done]:
            done.add(left[0])
            yield left[0]

    def _fetch_some(self, inner: str, batch: list[int]) -> bool:
        """Ask once; return whether there may be more."""
        known = self._known[inner]
        names = {
            name: size
            for name, size in known.items()
            if is_notes_name(name) or read_log_name(name) in batch
        }
        answer = self._ask(AskLogs(tuple(batch), inner, names, self._most_bytes))
        if answer is None:
            self.is_answered = False
            return False
        for folder in answer.folders:
            if _is_inner(folder):
                self._known.setdefault(folder, {})
        are_new = [self._take(inner, part) for part in answer.parts]
        # Of a file that grows meanwhile, the rest is for the next time.
        lacks = any(known[name] < size for name, size in self._sizes.get(inner, {}).items())
        return any(are_new) and lacks

    def _take(self, inner: str, part: Part) -> bool:
        """Write a part behind what is there; return whether it is one that was missing."""
        known = self._known[inner]
        rank, is_known = read_log_name(part.name), part.name in known
        if rank is None and not is_notes_name(part.name):
            return False
        if part.offset < known.get(part.name, 0):
            return False  # of two hosts that share a folder
        path = self._path(inner, part.name)
        if part.offset > known.get(part.name, 0):
            # The rest of a line, whose beginning stays away.
            begin = part.offset + part.data.find(b"\n") + 1
            self._begins[path] = begin
            self._logs.skip(path, begin)
            if rank is not None:
                self.cut_ranks.add(rank)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "r+b" if is_known else "wb") as file:
            file.seek(part.offset)
            file.write(part.data)
        known[part.name] = part.offset + len(part.data)
        self._sizes.setdefault(inner, {}).setdefault(part.name, part.size)
        return bool(part.data) or not is_known

    def _path(self, inner: str, name: str) -> str:
        return os.path.normpath(os.path.join(self._folder, inner, name))


def _is_inner(folder: str) -> bool:
    """Tell whether this is the name of a folder below ours, as the run makes them."""
    return folder == "." or all(
        part.startswith(("attempt_", "requeue_")) for part in folder.split("/")
    )
