"""Which process is this, for ever: with its host, the start of that, and the process's own start.

A number alone is given out again, and means another process in each namespace.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from launcher.system.processes import start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def boot_id() -> str:
    """Return what is new at each start of this machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def pid_namespace() -> str:
    """Return in which namespace our process numbers have a meaning."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def whoami() -> dict[str, Any]:
    """Return what names this process for ever: host, boot, process and its start."""
    pid = os.getpid()
    return {
        "host": os.uname().nodename,
        "boot": boot_id(),
        "pid": pid,
        "began": start_time(pid),
        "namespace": pid_namespace(),
    }


def has_certainly_gone(who: Mapping[str, Any]) -> bool:
    """Tell whether a process that `whoami` named has ended; not of one that cannot be seen here."""
    here = (boot_id(), pid_namespace())
    if not all(here) or (who.get("boot"), who.get("namespace")) != here:
        return False
    pid, began = who.get("pid"), who.get("began")
    return isinstance(pid, int) and bool(began) and start_time(pid) != began
