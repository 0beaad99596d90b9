"""What processes and the machine use, from the kernel's files, as cheaply as Python can ask.

A supervisor asks for ever and beside the work of others, so what is read is counted: about 15 us
for each process, measured. Whatever cannot be read is left out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from launcher.named import NamedTuple
from launcher.system.machine import cgroup_folders, read_text

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# More than any of these files needs, but for `smaps_rollup` and `stat` of many CPUs.
_READ_BYTES = 4096

# A limit above this is none: cgroup v1 has no word for it.
_NO_LIMIT = 1 << 60

# Full cgroups: from here on it is asked how much of that is cache, which the kernel gives up.
_NEARLY = 0.9


class ProcessUse(NamedTuple):
    """What one process has used so far, with those of its children that it has waited for."""

    cpu_s: float
    rss: int
    threads: int
    read: int
    written: int


class Room(NamedTuple):
    """How much of something is in use, and how much there is."""

    used: int
    size: int

    @property
    def share(self) -> float:
        return self.used / self.size if self.size else 0.0


def process_use(pid: int) -> ProcessUse | None:
    """Return what a process has used; of one that has ended, its CPU time alone; or None."""
    stat = _read(f"/proc/{pid}/stat")
    # Behind the name, which may contain anything, the third field is the first.
    fields = stat[stat.rfind(b")") + 2 :].split()
    if len(fields) < 22:
        return None
    read = written = 0
    io = _read(f"/proc/{pid}/io")
    if io:
        read = int(_field_of(io, b"\nread_bytes: "))
        written = int(_field_of(io, b"\nwrite_bytes: "))
    ticks = int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
    return ProcessUse(
        ticks / _TICKS_PER_SECOND, int(fields[21]) * _PAGE_BYTES, int(fields[17]), read, written
    )


def proportional_bytes(pid: int) -> int | None:
    """Return the memory of a process, of which what several share counts in parts.

    Takes the kernel milliseconds for a process with torch: it looks at every page.
    """
    try:
        return int(_field_of(_read(f"/proc/{pid}/smaps_rollup"), b"\nPss:").split()[0]) << 10
    except (IndexError, ValueError):
        return None


def busy_cpu_seconds() -> float:
    """Return for how long the CPUs of the machine have been busy, all together."""
    fields = _read("/proc/stat").split(None, 9)
    if len(fields) < 9:
        return 0.0
    # user nice system idle iowait irq softirq steal
    ticks = [int(field) for field in fields[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / _TICKS_PER_SECOND


def shared_memory() -> Room:
    """Return how full /dev/shm is."""
    try:
        facts = os.statvfs("/dev/shm")
    except OSError:
        return Room(0, 0)
    return Room((facts.f_blocks - facts.f_bfree) * facts.f_frsize, facts.f_blocks * facts.f_frsize)


class MemoryGauge:
    """Reads how full the memory is: that of the machine, or a cgroup's of ours if it is fuller."""

    def __init__(self, folders: Sequence[str] | None = None) -> None:
        every = cgroup_folders("memory") if folders is None else folders
        limits = ((folder, _limit_of(folder)) for folder in every)
        self._limits = [(folder, limit) for folder, limit in limits if 0 < limit < _NO_LIMIT]

    def read(self) -> tuple[Room, bool]:
        """Return what is in use, and whether that is by the measure of a cgroup."""
        fullest = _memory_of_machine()
        is_cgroup = False
        for folder, limit in self._limits:
            room = Room(_used_in(folder, limit), limit)
            if room.size < fullest.size or room.share > fullest.share:
                fullest, is_cgroup = room, True
        return fullest, is_cgroup


def _memory_of_machine() -> Room:
    text = _read("/proc/meminfo")
    try:
        size = int(_field_of(text, b"MemTotal:").split()[0]) << 10
        left = int(_field_of(text, b"\nMemAvailable:").split()[0]) << 10
    except (IndexError, ValueError):
        return Room(0, 0)
    return Room(size - left, size)


def _limit_of(folder: str) -> int:
    for name in ("memory.max", "memory.limit_in_bytes"):
        text = read_text(f"{folder}/{name}")
        if text.isdecimal():
            return int(text)
    return 0


def _used_in(folder: str, limit: int) -> int:
    """Return the bytes that a cgroup cannot give back when it needs them."""
    used = 0
    for name in ("memory.current", "memory.usage_in_bytes"):
        text = _read(f"{folder}/{name}").strip()
        if text.isdigit():
            used = int(text)
            break
    if used < _NEARLY * limit:
        return used
    text = b"\n" + _read(f"{folder}/memory.stat")
    cache = _field_of(text, b"\ntotal_inactive_file ") or _field_of(text, b"\ninactive_file ")
    return max(0, used - int(cache or 0))


def _field_of(text: bytes, name: bytes) -> bytes:
    """Return the rest of the line that begins with `name`; b"" when there is none."""
    at = text.find(name)
    if at < 0:
        return b""
    begin = at + len(name)
    return text[begin : text.find(b"\n", begin)].strip()


def _read(path: str) -> bytes:
    """Return the beginning of a file of the kernel's, b"" when there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _READ_BYTES)
    except OSError:
        return b""
    finally:
        os.close(fd)
