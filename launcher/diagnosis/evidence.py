"""Evidence for why a worker was killed: counters and log of the kernel, memory, /dev/shm.

Opened when a launch begins, so that what was there before is not taken for news. Everything is
read-only, and whatever cannot be read is left out.
"""

from __future__ import annotations

import os
import signal

from launcher.system.machine import cgroup_folders, read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


def format_bytes(count: float) -> str:
    """Return `1.9 GiB`, `200 MiB`."""
    if count >= _GIB:
        return f"{count / _GIB:.1f} GiB"
    return f"{count / _MIB:.0f} MiB" if count >= _MIB else f"{count / _KIB:.0f} KiB"


def open_kernel_log() -> int:
    """Return a descriptor that reads what the kernel will log from now on; -1 where we may not."""
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
    os.lseek(fd, 0, os.SEEK_END)
    return fd


class Evidence:
    """What the kernel says about killed processes since the launch began; a context manager.

    open_kernel_log: returns a descriptor that gives a record for each read, or -1. folders: returns
    our cgroup's folder for a controller, and those above it.
    """

    def __init__(
        self,
        open_kernel_log: Callable[[], int] = open_kernel_log,
        folders: Callable[[str], Sequence[str]] = cgroup_folders,
    ) -> None:
        self._folders = folders
        self._kernel_log = open_kernel_log()
        self._counters = _oom_counters(folders("memory"))
        self._kills: dict[int, str] = {}

    def __enter__(self) -> Evidence:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._kernel_log >= 0:
            os.close(self._kernel_log)
            self._kernel_log = -1

    def explain(self, returncode: int, pid: int, peak_kib: int | None) -> str:
        """Say what is known about a worker's death, in a sentence or two; "" for nothing."""
        if returncode == -signal.SIGBUS:
            return _shared_memory_in_words()
        if returncode != -signal.SIGKILL:
            return ""
        self._read_kernel_log()
        limit = self._take_counted_kill()
        if pid in self._kills:
            verdict = f"by the kernel's out-of-memory killer ({self._kills.pop(pid)})"
        elif limit is not None:
            verdict = f"by the kernel's out-of-memory killer{limit}"
        elif self._counters or self._kernel_log >= 0:
            verdict = f"no sign of the out-of-memory killer: somebody sent SIGKILL{_or_cpu_limit()}"
        else:
            verdict = ""
        return "; ".join(part for part in (verdict, *_memory_figures(peak_kib)) if part)

    def explain_data_worker(self, words: str) -> str:
        """Say what is known about the death of a rank's data worker, of which it says `words`."""
        self._read_kernel_log()
        limit = self._take_counted_kill()
        if self._kills:
            ended = "process {} ({})".format(*self._kills.popitem())
        elif limit is not None:
            ended = f"a process here{limit}"
        else:
            is_about_memory = "signal: Bus error" in words or _shared_memory()[1] >= 90
            return _shared_memory_in_words() if is_about_memory else ""
        verdict = f"the kernel's out-of-memory killer ended {ended}"
        return "; ".join((verdict, *_memory_figures(None)))

    def _take_counted_kill(self) -> str | None:
        """Return the limit, as text, of the cgroup that counts one kill more; None without one."""
        found: str | None = None
        for folder, count in _oom_counters(self._folders("memory")).items():
            if count > self._counters.get(folder, count):
                # One death is explained by it, and no other: an attempt later the count is no news.
                self._counters[folder] += 1
                limit = _memory_limit(folder) if found in (None, "") else 0
                found = (
                    f": the limit of its cgroup is {format_bytes(limit)}" if limit else found or ""
                )
        return found

    def _read_kernel_log(self) -> None:
        # Each read returns one record: "priority,number,microseconds,-;text".
        while self._kernel_log >= 0:
            try:
                record = os.read(self._kernel_log, 8192).decode("utf-8", "replace")
            except BlockingIOError:
                return
            except OSError:
                continue  # EPIPE: records were overwritten before we came; the next read goes on
            text = record.partition(";")[2].partition("\n")[0]
            _, found, rest = text.partition("Killed process ")
            number = rest.partition(" ")[0].rstrip(",")
            if found and number.isdigit():
                self._kills[int(number)] = _anonymous_memory(rest)


def _or_cpu_limit() -> str:
    """Name the other possibility: at the hard limit of CPU time the kernel kills without a word."""
    import resource

    _, limit_s = resource.getrlimit(resource.RLIMIT_CPU)
    if limit_s == resource.RLIM_INFINITY:
        return ""
    return f", or the kernel did at the limit of CPU time, which `ulimit -Ht` shows: {limit_s} s"


def _anonymous_memory(text: str) -> str:
    # "1234 (python) total-vm:9000kB, anon-rss:8000kB, ..."
    value = text.partition("anon-rss:")[2].partition("kB")[0]
    return f"it held {format_bytes(int(value) * _KIB)}" if value.isdigit() else "kernel log"


def _oom_counters(folders: Iterable[str]) -> dict[str, int]:
    """Return the out-of-memory kills of these memory cgroups, v1 and v2."""
    counters: dict[str, int] = {}
    for folder in folders:
        for name in ("memory.events", "memory.oom_control"):
            for line in read_text(os.path.join(folder, name)).splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill" and value.isdigit():
                    counters[folder] = int(value)
    return counters


def _memory_limit(folder: str) -> int:
    for name in ("memory.max", "memory.limit_in_bytes"):
        value = read_text(os.path.join(folder, name))
        # v1 says "no limit" with a number near 2**63.
        if value.isdigit() and int(value) < 1 << 60:
            return int(value)
    return 0


def _memory_figures(peak_kib: int | None) -> list[str]:
    figures = [f"the rank's peak was {format_bytes(peak_kib * _KIB)}"] if peak_kib else []
    values: dict[str, int] = {}
    for line in read_text("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0]) * _KIB
    if "MemTotal" in values and "MemAvailable" in values:
        used = values["MemTotal"] - values["MemAvailable"]
        figures.append(
            f"the node uses {format_bytes(used)} of {format_bytes(values['MemTotal'])} now"
        )
    return figures


def _shared_memory() -> tuple[int, int]:
    """Return the size of /dev/shm in bytes, and the percentage in use; 0 and 0 without it."""
    try:
        status = os.statvfs("/dev/shm")
    except OSError:
        return 0, 0
    size, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    return size, 100 * (size - free) // size if size else 100


def _shared_memory_in_words() -> str:
    size, used_percent = _shared_memory()
    if not size:
        return ""
    text = f"/dev/shm has {format_bytes(size)}, {used_percent} % of it in use"
    if used_percent >= 90 or size < _GIB:
        text += (
            "; data workers pass batches through it: make it larger (docker run --shm-size), or use"
            " fewer workers"
        )
    return text
