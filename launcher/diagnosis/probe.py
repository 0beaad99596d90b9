"""Asks running workers where they are, and looks at them from outside: state, CPU time, stacks.

Bounded: a worker that cannot answer (stopped, in uninterruptible sleep, no Python) is described
from /proc. What the stacks mean is in stacks.py.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence

from launcher.contract.files import STACK_SIGNAL, stack_file
from launcher.diagnosis.stacks import RankStack, parse_dump
from launcher.named import NamedTuple
from launcher.system.bare import stat_fields
from launcher.system.machine import read_text
from launcher.system.processes import descendants, process_info, send_signal

# How long workers may take to write their stacks; a file that stands still so long is complete.
_ANSWER_S = 0.6
_QUIET_S = 0.03

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Target(NamedTuple):
    """A worker to ask."""

    rank: int
    pid: int
    error_file: str | None


def collect_stacks(targets: Sequence[Target]) -> list[RankStack]:
    """Return where each worker is. Takes at most 0.6 s, usually a tenth of one."""
    asked: dict[int, tuple[str, int]] = {}
    for target in targets:
        if (
            target.error_file is not None
            and _handles_stack_signal(target.pid)
            and not _cannot_run(target.pid)
        ):
            path = stack_file(target.error_file)
            asked[target.pid] = (path, _size(path))
            send_signal(target.pid, STACK_SIGNAL)
    _wait_for_answers(list(asked.values()))
    return [_answer(target, asked.get(target.pid)) for target in targets]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and everything below it have used."""
    return sum(_cpu_seconds_of(each) for each in (pid, *descendants(pid)))


def _cpu_seconds_of(pid: int) -> float:
    try:
        fields = stat_fields(f"/proc/{pid}/stat")
    except OSError:
        return 0.0
    # utime, stime, and those of children that were waited for.
    return sum(int(value) for value in fields[14:18]) / _TICKS_PER_SECOND


def _handles_stack_signal(pid: int) -> bool:
    """Tell whether a process catches the private signal: anyone who does not would die of it."""
    caught = read_text(f"/proc/{pid}/status").partition("SigCgt:")[2].split()
    return bool(caught and int(caught[0], 16) >> (STACK_SIGNAL - 1) & 1)


def _cannot_run(pid: int) -> bool:
    info = process_info(pid)
    return info is None or info.state in "TtDZX"


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _wait_for_answers(files: list[tuple[str, int]]) -> None:
    deadline = time.monotonic() + _ANSWER_S
    waiting = dict(files)
    last: dict[str, int] = {}
    while waiting and time.monotonic() < deadline:
        select.select([], [], [], _QUIET_S)
        for path, before in list(waiting.items()):
            size = _size(path)
            if size > before and size == last.get(path):
                del waiting[path]
            last[path] = size


def _answer(target: Target, asked: tuple[str, int] | None) -> RankStack:
    text = ""
    if asked is not None:
        path, before = asked
        try:
            with open(path, encoding="utf-8", errors="backslashreplace") as file:
                file.seek(before)
                text = file.read()
        except OSError:
            pass
    frames = parse_dump(text)
    return RankStack(target.rank, frames, "" if frames else _condition(target.pid))


def _condition(pid: int) -> str:
    info = process_info(pid)
    if info is None or info.state in "ZX":
        return "has ended"
    if info.state in "Tt":
        return "is stopped by a signal (SIGSTOP, or Ctrl-Z)"
    if info.state == "D":
        return f"is in uninterruptible sleep in the kernel ({_wchan(pid)}) and cannot be killed"
    if info.state == "R":
        return "runs, outside Python"
    return f"sleeps in {_wchan(pid)}, outside Python"


def _wchan(pid: int) -> str:
    name = read_text(f"/proc/{pid}/wchan")
    return name if name not in ("", "0") else "the kernel"
