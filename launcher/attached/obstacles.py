"""Whether one supervisor may start the ranks of several processes: what these have that differs.

A rank is forked elsewhere than in the process that the engine has started for it. Most of what that
process was given can be handed over; what cannot, a container or a limit of its own, stands here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from launcher.named import NamedTuple
from launcher.ranks import format_ranks
from launcher.system.machine import read_text

_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")

# Libraries read these when they are loaded, which happens once for all ranks that are forked.
_READ_BY_LIBRARIES = ("LD_", "PYTHON", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "MALLOC_")

# Files of a cgroup that limit it, and what each one holds where it does not.
_NO_LIMIT = {
    "memory.max": ("max",),
    "memory.high": ("max",),
    "memory.limit_in_bytes": ("9223372036854771712", "9223372036854775807"),
    "cpu.max": ("max 100000",),
    "cpu.cfs_quota_us": ("-1",),
    "pids.max": ("max",),
}


class Facts(NamedTuple):
    """A process that an engine has started, as far as it decides who may start its rank."""

    # 0 where it is in a process namespace that is not ours.
    pid: int
    # How its interpreter was called, up to the launcher's name, and what came behind.
    interpreter: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    environ: Mapping[str, str] = {}
    # User and groups, as the kernel lists them.
    users: tuple[str, ...] = ()
    namespaces: Mapping[str, int] = {}
    root: tuple[int, int] = (0, 0)
    folder: str = ""
    # The lines of its cgroup file: number, controllers, path.
    cgroups: tuple[str, ...] = ()
    # The GPUs that it may open.
    gpus: str = ""
    # Whether all its open files have been handed over.
    is_complete: bool = True


def read_facts(pid: int, num_arguments: int) -> Facts:
    """Read what /proc tells of a process; OSError where it has ended or is not ours to look at.

    num_arguments: how many of its arguments are the launcher's own.
    """
    command = _read_texts(f"/proc/{pid}/cmdline")
    at = len(command) - num_arguments
    pairs = (entry.partition("=") for entry in _read_texts(f"/proc/{pid}/environ"))
    with open(f"/proc/{pid}/status") as status:
        users = tuple(line for line in status if line.startswith(("Uid:", "Gid:", "Groups:")))
    root = os.stat(f"/proc/{pid}/root")
    return Facts(
        pid=pid,
        interpreter=(os.readlink(f"/proc/{pid}/exe"), *command[1:at]),
        arguments=tuple(command[at:]),
        environ={name: value for name, equals, value in pairs if equals},
        users=users,
        namespaces={
            name: os.stat(f"/proc/{pid}/ns/{name}").st_ino
            for name in os.listdir(f"/proc/{pid}/ns")
            if name in _NAMESPACES
        },
        root=(root.st_dev, root.st_ino),
        folder=os.readlink(f"/proc/{pid}/cwd"),
        cgroups=tuple(read_text(f"/proc/{pid}/cgroup").splitlines()),
    )


def _read_texts(path: str) -> list[str]:
    """Return the texts of a file in which each one ends with a zero byte."""
    with open(path, "rb") as file:
        return [os.fsdecode(text) for text in file.read().split(b"\0")[:-1]]


def find_obstacle(found: Mapping[int, Facts]) -> str:
    """Return why one supervisor cannot start the ranks of all these, or "".

    found: by rank; the supervisor has been made by one of them, and is where that is.
    """
    first_rank, first = next(iter(found.items()))
    for rank, facts in found.items():
        if facts.pid == 0:
            return f"rank {rank} is in a process namespace of its own"
        if not facts.is_complete:
            return f"rank {rank} has more open files than can be handed over"
        if facts.users != first.users:
            return f"rank {rank} has another user or other groups than rank {first_rank}"
        for name, number in facts.namespaces.items():
            if number != first.namespaces.get(name):
                return f"rank {rank} is in a container of its own (another {name} namespace)"
        if facts.root != first.root:
            return f"rank {rank} has another root folder than rank {first_rank}"
        if facts.interpreter != first.interpreter:
            return f"rank {rank} has another interpreter than rank {first_rank}, or other flags"
        if facts.gpus != first.gpus:
            return f"rank {rank} may use other GPUs than rank {first_rank}"
        # Either may be the one in whose cgroup all ranks would run.
        for owner, its, others in ((rank, facts, first), (first_rank, first, facts)):
            limit = _limit_of_its_own(its, others)
            if limit:
                return f"rank {owner} has a cgroup of its own with a limit ({limit})"
    return ""


def find_import_obstacle(found: Mapping[int, Facts]) -> str:
    """Return why the ranks of all these cannot share one import of their modules, or ""."""
    first_rank, first = next(iter(found.items()))
    for rank, facts in found.items():
        for name in sorted(facts.environ.keys() | first.environ.keys()):
            here, there = facts.environ.get(name), first.environ.get(name)
            if here != there and name.startswith(_READ_BY_LIBRARIES):
                ranks = format_ranks([first_rank, rank])
                return f"{name} is not the same on {ranks}, and libraries read it once"
    return ""


def _limit_of_its_own(facts: Facts, other: Facts) -> str:
    """Return what limits a process in a cgroup that the other one is not in, or ""."""
    theirs = set(other.cgroups)
    for line in facts.cgroups:
        if line in theirs:
            continue
        _, controllers, path = line.split(":", 2)
        root = "/sys/fs/cgroup" + (f"/{controllers}" if controllers else "")
        for file, none in _NO_LIMIT.items():
            text = read_text(f"{root}{path}/{file}")
            if text and text not in none:
                return file
    return ""
