"""The notes that attached ranks of one host leave for each other: who came, who failed, who told.

Nobody supervises these ranks, and one that fails must not be alone in knowing it. They share one
small file, a JSON object per line, which each of them keeps open. Its name is removed as soon as
all have come: then nothing can be left behind, however they end, and the kernel takes the rest with
the last of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from launcher.contract.error_file import WorkerError
from launcher.system.files import move_out_of_the_way
from launcher.system.processes import start_time

# How long to wait for a rank that is just writing, in seconds; it takes a millisecond unless
# somebody has stopped it.
_LOCK_S = 1.0
_POLL_S = 0.002


class Peer(NamedTuple):
    """One rank of this host, as far as the notes say."""

    rank: int
    pid: int
    began: str  # see start_time
    # "came", "ended" or "failed"
    state: str = "came"
    # When it failed, in monotonic seconds of this host, and what its exit code would be.
    failed_at: float = 0.0
    returncode: int = 0
    error: WorkerError | None = None

    @property
    def is_alive(self) -> bool:
        return start_time(self.pid) == self.began

    @property
    def has_gone(self) -> bool:
        """Whether it has ended without a word: by a signal, say."""
        return self.state == "came" and not self.is_alive


class Page(NamedTuple):
    """All notes at one moment."""

    peers: Mapping[int, Peer] = {}
    # The rank that collects the failures and prints the report.
    reporter: int | None = None
    # The rank that the report has named, the exit code of all (None before the report), and the
    # monotonic seconds of it.
    cause: int = -1
    exit_code: int | None = None
    told_at: float = 0.0

    @property
    def failed(self) -> list[Peer]:
        """Those that failed, the first one first."""
        return sorted(
            (peer for peer in self.peers.values() if peer.state == "failed"),
            key=lambda peer: peer.failed_at,
        )


def read_page(lines: Iterable[bytes]) -> Page:
    """Put the notes together. A line that is cut off, because the disk was full, is left out."""
    peers: dict[int, Peer] = {}
    rest: dict[str, Any] = {}
    for line in lines:
        try:
            note = json.loads(line)
            rank, state = int(note["rank"]), str(note["state"])
            if state == "came":
                peers[rank] = Peer(rank, int(note["pid"]), str(note["began"]))
            elif state == "ended":
                peers[rank] = peers[rank]._replace(state=state)
            elif state == "failed":
                error, moment, code = (
                    WorkerError(**note["error"]),
                    float(note["at"]),
                    int(note["returncode"]),
                )
                peers[rank] = peers[rank]._replace(
                    state=state, failed_at=moment, returncode=code, error=error
                )
            elif state == "reports":
                rest["reporter"] = rank
            elif state == "told":
                rest.update(
                    cause=int(note["cause"]),
                    exit_code=int(note["exit_code"]),
                    told_at=float(note["at"]),
                )
        except (ValueError, KeyError, TypeError):
            continue
    return Page(peers, **rest)


class PeerNotes:
    """The notes of one job on this host, as one of its ranks sees them. Make it with `open_notes`.

    All methods do nothing, or see nothing, when the file cannot be written or read any more.
    """

    def __init__(self, fd: int, path: str, rank: int, expected: int) -> None:
        self._fd = fd
        self._file = os.fstat(fd)
        self._path = path
        self.rank = rank
        # How many ranks this host has.
        self.expected = expected

    def come(self) -> None:
        """Say that this rank is there; the last one takes the file's name away. Needs the lock."""
        if not any(peer.is_alive for peer in self.read().peers.values()):
            os.ftruncate(self._fd, 0)  # notes of a job that was killed while it started
        self._write("came", pid=os.getpid(), began=start_time(os.getpid()))
        if len(self.read().peers) >= self.expected:
            self._remove_name()

    def end(self) -> None:
        """Say that this rank ends as it should."""
        if self._lock():
            self._write("ended")
            self._remove_name_if_last()
            _unlock(self._fd)

    def fail(self, returncode: int, error: WorkerError) -> None:
        """Say why this rank fails."""
        if self._lock():
            moment = error.monotonic_ns / 1e9
            self._write("failed", returncode=returncode, at=moment, error=error._asdict())
            _unlock(self._fd)

    def claim_report(self) -> bool:
        """Take on the report; False when another rank, which lives, has done so."""
        if not self._lock():
            return True
        page = self.read()
        holder = page.peers.get(page.reporter) if page.reporter is not None else None
        is_mine = holder is None or holder.rank == self.rank or not holder.is_alive
        if is_mine:
            self._write("reports")
        _unlock(self._fd)
        return is_mine

    def tell(self, cause: int, exit_code: int) -> None:
        """Say that the user has been told."""
        if self._lock():
            self._write("told", cause=cause, exit_code=exit_code, at=time.monotonic())
            self._remove_name_if_last()
            _unlock(self._fd)

    def read(self) -> Page:
        """Return what the notes say now."""
        if not self._is_open():
            return Page()
        try:
            return read_page(os.pread(self._fd, os.fstat(self._fd).st_size, 0).split(b"\n"))
        except OSError:
            return Page()

    def _is_open(self) -> bool:
        """Tell whether the file is still open: a script may close what is not its own."""
        try:
            return os.path.samestat(os.fstat(self._fd), self._file)
        except OSError:
            return False

    def _lock(self) -> bool:
        return self._is_open() and _lock(self._fd)

    def _write(self, state: str, **facts: Any) -> None:
        try:
            # A line break on both sides: one note that did not fit must not spoil the next.
            os.write(
                self._fd,
                b"\n%s\n" % json.dumps({"rank": self.rank, "state": state, **facts}).encode(),
            )
        except OSError:
            pass  # a full disk

    def _remove_name_if_last(self) -> None:
        """Tidy up as the last that is left: a rank that never came cannot be waited for."""
        others = [peer for peer in self.read().peers.values() if peer.rank != self.rank]
        # One that has said its last word here may still be alive for a moment.
        if not any(peer.state == "came" and peer.is_alive for peer in others):
            self._remove_name()

    def _remove_name(self) -> None:
        if _is_at(self._fd, self._path):
            os.unlink(self._path)


def open_notes(job: str, rank: int, expected: int) -> PeerNotes | None:
    """Open the notes of a job on this host, and say that `rank` has come; None where that fails.

    job: the same for all ranks of the job, and for no other job of this user that runs. expected:
    ranks on this host.
    """
    try:
        path = os.path.join(os.environ.get("TMPDIR") or "/tmp", _file_name(job))
        fd = _open_locked(path)
        if fd < 0:
            return None
        notes = PeerNotes(fd, path, rank, expected)
        notes.come()
        _unlock(fd)
    except OSError:
        return None
    return notes


def _file_name(job: str) -> str:
    # With the host's name, because the folder may be one that several hosts share.
    text = f"launcher-ranks-{os.getuid()}-{os.uname().nodename}-{job}"
    return "".join(
        char if char.isascii() and (char.isalnum() or char in "-.") else "_" for char in text
    )[:200]


def _open_locked(path: str) -> int:
    """Open the file at `path`, made if need be, and lock it; -1 when it is somebody else's."""
    deadline = time.monotonic() + _LOCK_S
    while time.monotonic() < deadline:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = move_out_of_the_way(os.open(path, flags, 0o600))
        if os.fstat(fd).st_uid != os.getuid():
            os.close(fd)
            return -1
        # Between opening and locking, another rank may have taken the name away.
        if _lock(fd) and _is_at(fd, path):
            return fd
        os.close(fd)
    return -1


def _is_at(fd: int, path: str) -> bool:
    """Tell whether `path` still names this open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False


def _lock(fd: int) -> bool:
    """Lock the file against the other ranks; not for ever: one that is stopped may hold it."""
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        except OSError:
            return False
        else:
            return True


def _unlock(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_UN)
