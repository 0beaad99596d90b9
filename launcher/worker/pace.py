"""Tells whoever looks from outside how far this rank is: heartbeats, and how long it has waited."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from launcher.contract.files import heartbeat_file, pace_file
from launcher.contract.pace import Pace, encode, is_marked, keep_mark

# A heartbeat is written at most so often, in seconds.
_INTERVAL_S = 0.5


class Pacer:
    """Counts the steps of this rank; without an error file there is nobody to tell."""

    def __init__(self, error_file: str | None) -> None:
        self._file = heartbeat_file(error_file) if error_file else ""
        self._last_file = pace_file(error_file) if error_file else ""
        self._steps = 0
        self._waited_s = 0.0
        self._marks: dict[int, float] = {}
        self._written_at = float("-inf")

    def beat(self) -> None:
        """Count one step; tell of it, now and then."""
        if not self._file:
            return
        now = time.monotonic()
        self._steps += 1
        if is_marked(self._steps):
            keep_mark(self._marks, self._steps, now)
        if now - self._written_at >= _INTERVAL_S:
            self._written_at = now
            self._write(self._file)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block, in which this rank waits for the others."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._waited_s += time.monotonic() - began

    def close(self) -> None:
        """Leave the last figures; from now on, output and CPU time count as progress again."""
        if not self._steps:
            return
        self._write(self._last_file)
        with suppress(OSError):
            os.unlink(self._file)

    def _write(self, path: str) -> None:
        # Writing sets the time of the file. A full disk is no reason to end a training.
        with suppress(OSError), open(path, "wb") as file:
            file.write(encode(Pace(self._steps, self._waited_s, self._marks)))
