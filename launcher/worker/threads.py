"""Let the threads of a library come to rest before the interpreter ends.

Gloo's threads report a collective as done and only then let go of its tensors. If python has begun
to end in between, the thread finds no interpreter to give the tensor back to, and the process dies
of SIGABRT ("terminate called without an active exception") with all its work done. Seen in 9 of 10
runs with each rank bound to a core.
"""

from __future__ import annotations

import os
import time

from launcher.system.bare import stat_fields

_NAME = b"pt_gloo"
_TASKS = "/proc/self/task"
_PAUSE_S = 0.001
# Threads need microseconds; a thread that computes on is not one that this is about.
_TIMEOUT_S = 0.25


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
            if thread != str(os.getpid()):
                _, _, name, state, *_ = stat_fields(f"{_TASKS}/{thread}/stat")
                states.append((name, state))
    except OSError:  # a thread has just ended
        return False
    # Older versions of torch give the threads no names.
    ours = [state for name, state in states if name.startswith(_NAME)] or [
        state for _, state in states
    ]
    return all(state == b"S" for state in ours)
