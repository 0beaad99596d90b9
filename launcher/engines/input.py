"""Our stdin, on its way to the host whose rank reads it: lines of a terminal, a pipe, or a file.

The user's terminal edits lines and shows them. So much is under way at a time as one pipe holds:
while the rank reads nothing, neither do we.
"""

from __future__ import annotations

import os

from launcher.engines.connection import Connection
from launcher.system.loop import Loop
from launcher.system.tty import FOREGROUND_LOOK_S, is_in_foreground, not_stopped, open_stdin_again

# As much as a pipe holds.
_MOST_UNREAD_BYTES = 64 << 10

_PART_BYTES = 16 << 10


class Input:
    """The way of our stdin over one connection."""

    def __init__(self, loop: Loop, connection: Connection) -> None:
        self._loop = loop
        self._connection = connection
        connection.on_taken = self._note_taken
        self._fd = open_stdin_again()
        self._is_terminal = os.isatty(self._fd)
        self._num_unread = 0
        self._begin()

    def close(self) -> None:
        """Read no more."""
        if self._fd >= 0:
            self._pause()
            os.close(self._fd)
            self._fd = -1

    def _begin(self) -> None:
        """Read if we may; look again later while a shell has us in the background."""
        self._pause()
        if self._is_terminal and not is_in_foreground(self._fd):
            self._loop.set_timer(self._begin, FOREGROUND_LOOK_S)
            return
        try:
            self._loop.watch(self._fd, self._read)
        except PermissionError:  # a file: it can always be read
            self._loop.set_timer(self._read, 0.0)

    def _pause(self) -> None:
        self._loop.unwatch(self._fd)
        for timer in (self._begin, self._read):
            self._loop.cancel_timer(timer)

    def _read(self) -> None:
        if self._fd < 0:
            return  # since this turn of the loop began
        if self._is_terminal and not is_in_foreground(self._fd):
            self._begin()
            return
        try:
            with not_stopped():
                data = os.read(self._fd, _PART_BYTES)
        except BlockingIOError:  # another process has read it
            return
        except OSError:  # the background after all, or a terminal that has gone
            data = b""
            if self._is_terminal and not is_in_foreground(self._fd):
                self._begin()
                return
        self._connection.feed(data, is_typed=self._is_terminal and data.endswith(b"\n"))
        self._num_unread += len(data)
        if not data:
            self.close()
        elif self._is_full:
            self._pause()
        else:
            self._begin()

    @property
    def _is_full(self) -> bool:
        return self._num_unread + _PART_BYTES > _MOST_UNREAD_BYTES

    def _note_taken(self, num_bytes: int) -> None:
        """Go on when the rank has read."""
        was_full = self._is_full
        self._num_unread -= num_bytes
        if was_full and self._fd >= 0:
            self._begin()
