"""Let the threads of a library come to rest before the interpreter ends.

Gloo's threads report a collective as done and only then let go of its tensors. If python has begun
to end in between, the thread finds no interpreter to give the tensor back to, and the process dies
of SIGABRT ("terminate called without an active exception") with all its work done. Seen in 9 of 10
runs with each rank bound to a core.
"""

from __future__ import annotations

import os
import time

_NAME = "pt_gloo"
_TASKS = "/proc/self/task"
_PAUSE_S = 0.001
_TIMEOUT_S = 0.25
"""Threads need microseconds; a thread that computes on is not one that this is about."""


def wait_until_idle() -> None:
    """Return when Gloo's threads have been asleep twice in a row, or after 0.25 s."""
    deadline = time.monotonic() + _TIMEOUT_S
    times_idle = 0
    while times_idle < 2 and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)  # lets go of the interpreter, for which such a thread may be waiting
        times_idle = times_idle + 1 if _are_asleep() else 0


def _are_asleep() -> bool:
    states = []
    try:
        for thread in os.listdir(_TASKS):
            with open(f"{_TASKS}/{thread}/stat", encoding="utf-8", errors="replace") as file:
                name, _, rest = file.read().partition("(")[2].rpartition(")")
            if thread != str(os.getpid()):
                states.append((name, rest.split()[0]))
    except OSError:  # a thread has just ended, or this is not Linux
        return False
    # Older versions of torch give the threads no names.
    ours = [state for name, state in states if name.startswith(_NAME)] or [
        state for _, state in states
    ]
    return all(state == "S" for state in ours)
