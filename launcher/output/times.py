"""Notes when lines came into the log files, which have only what the ranks wrote.

Each note is a line, `1764000000.123 5120 rank_03.out`: what stands in that file behind byte 5120
came at this time or later. A line's time is that of the last note before its end, so it is right to
`interval_s`, and to the millisecond for the first line after a pause. `launcher.ctl logs` needs it,
to show the lines of all ranks in their order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

# How often the lines of one stream are noted; after a while more rarely, because a run can go on
# for weeks.
_INTERVAL_S = 0.1
_LATER_INTERVAL_S = 1.0
_LATER_S = 600.0


class LineTimes:
    """The notes about the log files of one attempt on this node."""

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._later_at = clock() + _LATER_S
        self._fd = -1
        self._is_lost = False

    @property
    def interval_s(self) -> float:
        """How much time is to lie between two notes about one stream."""
        return _INTERVAL_S if self._clock() < self._later_at else _LATER_INTERVAL_S

    def note(self, name: str, offset: int) -> None:
        """Note that something with a line's end comes now, to this offset of a file.

        A full disk is told of by the log files themselves.
        """
        if self._is_lost:
            return
        try:
            if self._fd < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, 0o644)
            os.write(self._fd, f"{time.time():.3f} {offset} {name}\n".encode())
        except OSError:
            self.close()
            self._is_lost = True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
