"""Notes when lines came into the log files, which have only what the ranks wrote.

Each note is a line, `1764000000.123456 5120 rank_03.out`: what stands in that file behind byte 5120
came at this time or later. A line's time is that of the last note before its end. Every read that
ends a line is noted, up to 50 at once and 10 in a second for each stream; so the time is exact but
for a rank that writes more than that, of which it is right to a tenth of a second. After ten
minutes that is one second. `launcher.ctl logs` shows the lines of all ranks in their order by it;
ranks of two nodes can answer each other within a millisecond, so there are six digits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

# Notes about one stream: at once, in a second, and in a second of a run that goes on for long.
_MOST_AT_ONCE = 50.0
_PER_SECOND = 10.0
_PER_SECOND_LATER = 1.0
_LATER_S = 600.0


class LineTimes:
    """The notes about the log files of one attempt on this node."""

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._later_at = clock() + _LATER_S
        # Log file -> how many notes it may have now, and when that was so.
        self._budgets: dict[str, tuple[float, float]] = {}
        self._fd = -1
        self._is_lost = False

    def note(self, name: str, offset: int) -> None:
        """Note that something with a line's end comes now, to this offset of a file.

        A full disk is told of by the log files themselves.
        """
        if self._is_lost or not self._has_budget(name):
            return
        try:
            if self._fd < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, 0o644)
            os.write(self._fd, f"{time.time():.6f} {offset} {name}\n".encode())
        except OSError:
            self.close()
            self._is_lost = True

    def _has_budget(self, name: str) -> bool:
        """Tell whether there may be one more note about this file, and count it."""
        now = self._clock()
        budget, then = self._budgets.get(name, (_MOST_AT_ONCE, now))
        rate = _PER_SECOND if now < self._later_at else _PER_SECOND_LATER
        budget = min(_MOST_AT_ONCE, budget + (now - then) * rate)
        is_enough = budget >= 1.0
        self._budgets[name] = (budget - is_enough, now)
        return is_enough

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
