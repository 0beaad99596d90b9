"""Who looks after a run, and whether that process still lives.

It holds a lock of the kernel's on the run's folder, which goes with it however it dies. The same
lock is how others wait for its end without asking again and again. A process on another host is
known by its sign of life, the time of its journal.
"""

from __future__ import annotations

import fcntl
import os
import time

from launcher.jobs.store import RunFolder, read_json, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    Life = Literal["alive", "gone", "rebooted", "silent"]

# How often a process gives a sign of life, and after how long without one it counts as silent.
SIGN_OF_LIFE_S = 10.0
_SILENT_S = 60.0


def boot_id() -> str:
    """Return what is new at each start of this machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def whoami() -> dict[str, Any]:
    """Return what names this process for ever: host, boot, process and its start."""
    from launcher.system.processes import start_time

    pid = os.getpid()
    return {
        "host": os.uname().nodename,
        "boot": boot_id(),
        "pid": pid,
        "began": start_time(pid),
        "namespace": _pid_namespace(),
    }


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def take_lock(run: RunFolder) -> int:
    """Take the lock of a new run; return the descriptor that holds it."""
    fd = os.open(run.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def write_agent(run: RunFolder, **more: object) -> None:
    """Record that this process looks after the run."""
    write_json(run.agent, {**whoami(), **more})


def holder(run: RunFolder, asked: dict[str, Any]) -> dict[str, Any]:
    """Return who looks after a run: the agent, or until it has begun, who submitted the run."""
    found: dict[str, Any] = read_json(run.agent) or asked.get("submitter") or {}
    return found


def life_of(run: RunFolder, who: dict[str, Any]) -> Life:
    """Tell whether the process that looks after a run lives, as far as can be known from here."""
    if who.get("boot") == boot_id():
        return "gone" if is_free(run) else "alive"
    if who.get("host") == os.uname().nodename:
        return "rebooted"
    return "silent" if time.time() - last_sign(run) > _SILENT_S else "alive"


def is_free(run: RunFolder) -> bool:
    """Tell whether nobody holds the lock of a run."""
    return not is_held(run.lock)


def is_held(path: str) -> bool:
    """Tell whether a process holds the lock of this file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def last_sign(run: RunFolder) -> float:
    """Return when the run last gave a sign of life."""
    latest = 0.0
    for path in (os.path.join(run.journal, "agent.jsonl"), run.agent, run.asked):
        try:
            latest = max(latest, os.stat(path).st_mtime)
        except OSError:
            continue
    return latest


class Burial:
    """The right to write the end of a run whose process has gone: one reader at a time has it.

    Who may not write in the store has it, too, and keeps the end to itself.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._fd = -1

    def __enter__(self) -> bool:
        try:
            self._fd = os.open(self._run.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            # Others who wait for the end hold it for a moment, shared.
            deadline = time.monotonic() + 1.0
            while True:
                try:
                    fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        return False
                    time.sleep(0.002)
        except OSError:
            return True
        return not os.path.exists(self._run.end)

    def __exit__(self, *exc_info: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def wait_free(run: RunFolder, who: dict[str, Any]) -> bool:
    """Sleep until the process that looks after a run has gone, and the kernel wakes us.

    Returns False at once where the kernel cannot know it.
    """
    if who.get("boot") != boot_id() or is_free(run):
        return False
    fd = os.open(run.lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)
    return True


def send_signal_to(who: dict[str, Any], signum: int) -> bool:
    """Signal the process that looks after a run; return whether it was reached.

    A number that another process has by now is left alone.
    """
    from launcher.system.processes import start_time

    pid = who.get("pid", 0)
    is_here = who.get("boot") == boot_id() and who.get("namespace") == _pid_namespace()
    if not pid or not is_here or start_time(pid) != who.get("began"):
        return False
    try:
        os.kill(pid, signum)
    except OSError:
        return False
    return True
