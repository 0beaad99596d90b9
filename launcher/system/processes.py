"""The edge to the operating system: death signals, sub-reaping, /proc, usable CPUs, GPU counts.

Everything that differs between Linux and other systems stands here, behind functions that do the best the system allows.
Knows nothing of ranks or workers. Layer 1.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> bool:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.prctl(option, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False  # not Linux: the keeper still cleans up


def fill_standard_descriptors() -> None:
    """Open what of 0, 1 and 2 was closed when we were started: otherwise our first pipe would get such a number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def die_with_parent(signum: int, parent_pid: int) -> bool:
    """Ask the kernel to send `signum` to this process when its parent dies.

    Returns False when the parent `parent_pid` had gone before, in which case nobody would ever send it.
    """
    _prctl(_PR_SET_PDEATHSIG, signum)
    return os.getppid() == parent_pid


def become_subreaper() -> bool:
    """Make orphaned descendants our children instead of those of pid 1. False where the system cannot."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


class ProcessInfo(NamedTuple):
    """One line of /proc/<pid>/stat, as far as we need it."""

    pid: int
    name: str
    state: str  # R, S, D (uninterruptible), T (stopped), Z (zombie) ...
    parent_pid: int
    session_id: int
    began: str  # in the kernel's ticks since boot


def process_info(pid: int) -> ProcessInfo | None:
    """Return what the kernel says of a process, or None when it does not exist."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The name stands in parentheses and may itself contain anything, parentheses included.
    open_at, close_at = text.find(b"("), text.rfind(b")")
    fields = text[close_at + 2 :].split()
    return ProcessInfo(
        pid=pid,
        name=text[open_at + 1 : close_at].decode(errors="replace"),
        state=fields[0].decode(),
        parent_pid=int(fields[1]),
        session_id=int(fields[3]),
        began=fields[19].decode(),
    )


def start_time(pid: int) -> str:
    """Return when a process began, in the kernel's ticks since boot; "" when it does not exist or has ended.

    With its number it names one process for ever: numbers are given out again.
    """
    info = process_info(pid)
    return "" if info is None or info.state in ("Z", "X") else info.began


def all_processes() -> list[ProcessInfo]:
    """Return every process that /proc shows; processes that end meanwhile are left out."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    return [info for info in map(process_info, pids) if info is not None]


def child_pids(pid: int) -> list[int]:
    """Return the direct children of a process, zombies included."""
    pids: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                pids.extend(int(child) for child in file.read().split())
    except FileNotFoundError:
        # A kernel without CONFIG_PROC_CHILDREN, or the process has ended.
        return [info.pid for info in all_processes() if info.parent_pid == pid]
    except OSError:
        return []
    return pids


def descendants(pid: int) -> list[int]:
    """Return all processes below `pid`, parents before their children."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = child_pids(waiting.pop())
        found.extend(children)
        waiting.extend(children)
    return found


def environment_marks(pid: int, mark: bytes) -> bool:
    """Tell whether the environment with which a process was started contains `mark` (`NAME=value`)."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False


def send_signal(pid: int, signum: int) -> bool:
    """Send a signal; False when the process does not exist or is not ours."""
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def signal_group(pgid: int, signum: int) -> bool:
    """Send a signal to a process group; False when there is none."""
    try:
        os.killpg(pgid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_sessions(session_ids: Iterable[int]) -> None:
    """SIGKILL every process of these sessions, also those that have made process groups of their own."""
    wanted = set(session_ids)
    if not wanted:
        return
    for session_id in wanted:
        signal_group(session_id, signal.SIGKILL)
    for info in all_processes():
        if info.session_id in wanted and info.state != "Z":
            send_signal(info.pid, signal.SIGKILL)


def num_threads() -> int:
    """Return how many threads this process has; 1 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def usable_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, and the CPU quota of its cgroup (v1 and v2)."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    quota = _cgroup_cpus()
    return max(1, min(count, quota) if quota else count)


def read_text(path: str) -> str:
    """Return a small file of the kernel's, stripped; "" when it cannot be read."""
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def cgroup_folders(controller: str) -> list[str]:
    """Return our cgroup's folder for a controller and those above it, from the inside out, for v1 and v2."""
    folders: list[str] = []
    for line in read_text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = "/sys/fs/cgroup"
        elif controller in controllers.split(","):
            root = f"/sys/fs/cgroup/{controller}"
        else:
            continue
        parts = path.strip("/").split("/") if path != "/" else []
        folders.extend("/".join([root, *parts[:depth]]) for depth in range(len(parts), -1, -1))
    return folders


def _cgroup_cpus() -> int:
    """Return the smallest CPU quota on the way up from our cgroup, rounded up to whole CPUs; 0 for none."""
    quotas = [quota for folder in cgroup_folders("cpu") for quota in _quota_of(folder) if quota > 0]
    return max(1, int(min(quotas) + 0.999)) if quotas else 0


def _quota_of(folder: str) -> list[float]:
    v2 = read_text(f"{folder}/cpu.max").split()
    if len(v2) == 2 and v2[0] != "max":
        return [int(v2[0]) / int(v2[1])]
    quota, period = read_text(f"{folder}/cpu.cfs_quota_us"), read_text(f"{folder}/cpu.cfs_period_us")
    if quota and period and int(quota) > 0:
        return [int(quota) / int(period)]
    return []


# NVIDIA's driver has a folder here for each GPU, named by its PCI address.
GPU_FOLDER = "/proc/driver/nvidia/gpus"


def visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """Return the GPUs that a worker would see, as CUDA_VISIBLE_DEVICES would name them, without importing torch."""
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        # CUDA itself stops reading at the first entry that is not a device ("-1" hides all).
        devices: list[str] = []
        for entry in (piece.strip() for piece in chosen.split(",")):
            if not entry or entry.startswith("-"):
                break
            devices.append(entry)
        return devices
    try:
        return [str(index) for index in range(len(os.listdir(GPU_FOLDER)))]
    except OSError:
        pass
    try:
        nodes = [name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit()]
    except OSError:
        return []
    return [str(index) for index in range(len(nodes))]
