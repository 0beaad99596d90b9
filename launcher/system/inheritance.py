"""What a process has from the one that started it, besides arguments and environment.

Working folder, umask, limits, CPUs, niceness and open descriptors: read of one process, and taken
on by another that is to stand in its place.
"""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Callable, Sequence

from launcher.named import NamedTuple

# Every limit that this system knows, and its name.
_NAMES = {
    getattr(resource, name): name
    for name in dir(resource)
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}


class Inheritance(NamedTuple):
    """What a process was given, as far as numbers tell; open files travel beside it."""

    umask: int
    nice: int
    cpus: Sequence[int]
    # Of each limit: which, soft and hard.
    limits: Sequence[tuple[int, int, int]]
    # The numbers of its descriptors above 2 that a program which it executes would inherit.
    numbers: Sequence[int]


def read_inheritance(pid: int, numbers: Sequence[int]) -> Inheritance:
    """Read what a process of this user was given; OSError when it has ended.

    `numbers` are those of its descriptors, which the kernel does not tell to others.
    """
    with open(f"/proc/{pid}/status") as status:
        umask = next((line.split()[1] for line in status if line.startswith("Umask:")), "")
    return Inheritance(
        umask=int(umask, 8) if umask else _own_umask(),  # a kernel before 4.7 does not show it
        nice=os.getpriority(os.PRIO_PROCESS, pid),
        cpus=sorted(os.sched_getaffinity(pid)),
        limits=[(kind, *resource.prlimit(pid, kind)) for kind in _NAMES],
        numbers=list(numbers),
    )


def find_obstacle(inheritance: Inheritance) -> str:
    """Return what of it this process could not take on, or ""; what root may differs, so it tries.

    Nothing of this process is changed.
    """
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    if inheritance.nice < nice:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, inheritance.nice)
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        except OSError:
            return f"a niceness of {inheritance.nice}"
    for kind, _, hard in inheritance.limits:
        ours = resource.getrlimit(kind)
        if ours[1] != resource.RLIM_INFINITY and not 0 <= hard <= ours[1]:
            try:
                resource.setrlimit(kind, (ours[0], hard))
                resource.setrlimit(kind, ours)
            except (OSError, ValueError):
                return f"a higher limit than others ({_NAMES[kind]})"
    return ""


def assume(inheritance: Inheritance, descriptors: Sequence[int]) -> None:
    """Take it on. descriptors: the working folder, then what is to get the numbers; all are closed.

    Nothing of what `find_obstacle` has let pass fails.
    """
    # Out of the way of the numbers first.
    above = max((2, *inheritance.numbers)) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in descriptors]
    for fd in descriptors:
        os.close(fd)
    folder, *others = moved
    os.fchdir(folder)
    for number, fd in zip(inheritance.numbers, others, strict=True):
        os.dup2(fd, number)
    for fd in moved:
        os.close(fd)
    os.umask(inheritance.umask)
    _try(lambda: os.sched_setaffinity(0, inheritance.cpus))  # CPUs may have gone since
    if inheritance.nice != os.getpriority(os.PRIO_PROCESS, 0):
        _try(lambda: os.setpriority(os.PRIO_PROCESS, 0, inheritance.nice))
    for kind, soft, hard in inheritance.limits:
        if resource.getrlimit(kind) != (soft, hard):
            resource.setrlimit(kind, (soft, hard))


def _try(action: Callable[[], None]) -> None:
    try:
        action()
    except OSError:
        pass


def _own_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
