"""The end of the process that has started us, as an event of the loop.

The kernel's death signal comes when the thread ends that has started us, which may be long before
its process does: where there are descriptors of processes, one is watched instead.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from launcher.errors import LauncherError
from launcher.events import Event, Signalled
from launcher.system.bare import die_with_parent, is_below
from launcher.system.loop import Loop


def watch_parent(pid: int, loop: Loop, say: Callable[[str], None]) -> None:
    """Stop as by SIGTERM when a process above us ends; LauncherError when it has ended already."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        fd = -1  # an old kernel, or a process outside of our namespace
    if fd < 0 or not is_below(pid):
        # Asked only now: a number that was given out again is no process above us.
        if fd >= 0 or not die_with_parent(signal.SIGTERM, pid):
            raise LauncherError(f"The process that started the launcher (pid {pid}) has ended.")
        return

    def end() -> list[Event]:
        loop.unwatch(fd)
        os.close(fd)
        say(f"the process that started the launcher (pid {pid}) has ended")
        return [Signalled(signal.SIGTERM)]

    loop.watch(fd, end)
