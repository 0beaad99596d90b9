"""What is asked of the system with nothing loaded but `os`: where many processes start at once.

Also what a process asks of the kernel for itself: to die with its parent, to inherit orphans.
"""

from __future__ import annotations

import os

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def fill_standard_descriptors() -> None:
    """Open what of 0, 1 and 2 was closed: otherwise our first pipe would get such a number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def stat_fields(path: str) -> list[bytes]:
    """Return what a `stat` file of /proc says of a process or a thread: [n] is field n of proc(5).

    OSError when it has ended.
    """
    with open(path, "rb") as file:
        text = file.read()
    # The name stands in parentheses and may itself contain anything, parentheses included.
    open_at, close_at = text.find(b"("), text.rfind(b")")
    return [b"", text[: open_at - 1], text[open_at + 1 : close_at], *text[close_at + 2 :].split()]


def die_with_parent(signum: int, parent_pid: int) -> bool:
    """Ask the kernel to send `signum` to this process when its parent dies.

    Returns False when `parent_pid` had gone before, in which case nobody would ever send it. It may
    be further above: a wrapper can have started this process, and wait for it.
    """
    call_c("prctl", _PR_SET_PDEATHSIG, signum, 0, 0, 0)
    return is_below(parent_pid)


def is_below(pid: int) -> bool:
    """Tell whether a process is our parent, or further above."""
    above = os.getppid()
    while above not in (0, 1, pid):
        try:
            above = int(stat_fields(f"/proc/{above}/stat")[4])
        except OSError:
            return False
    return above == pid


def become_subreaper() -> None:
    """Make orphaned descendants our children instead of those of pid 1."""
    call_c("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def call_c(name: str, *numbers: int) -> None:
    """Call a function of the C library that takes ints; OSError where there is none of the name."""
    import _ctypes  # what `ctypes` makes above it takes a millisecond, of each rank

    everything = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]
    _ctypes.call_function(_ctypes.dlsym(everything, name), numbers)
