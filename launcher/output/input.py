"""Our stdin, on its way to somebody who reads it elsewhere: of a terminal, a pipe, or a file.

The user's terminal edits lines and shows them. So much is under way at a time as one pipe holds:
while the reader takes nothing, neither do we.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from launcher.system.loop import Loop
from launcher.system.tty import FOREGROUND_LOOK_S, is_in_foreground, not_stopped, open_stdin_again

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Sink(Protocol):
        """Where our stdin goes."""

        # To be told how much of it has been taken.
        on_taken: Callable[[int], None]

        def feed(self, data: bytes) -> None:
            """Take a part; an empty one is the end."""


# As much as a pipe holds.
_MOST_UNREAD_BYTES = 64 << 10

_PART_BYTES = 16 << 10


class Input:
    """The way of our stdin to one sink."""

    def __init__(self, loop: Loop, sink: Sink) -> None:
        self._loop = loop
        self._sink = sink
        sink.on_taken = self._note_taken
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
        self._num_unread += len(data)
        self._sink.feed(data)
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
        """Go on when the reader has read."""
        was_full = self._is_full
        self._num_unread -= num_bytes
        if was_full and self._fd >= 0:
            self._begin()


class Pipe:
    """A pipe that somebody else reads: what does not fit waits until it does."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        # For the reader.
        self.read_end, self._fd = os.pipe()
        os.set_blocking(self._fd, False)
        self._unsent = b""
        self._has_ended = False
        self.on_taken: Callable[[int], None] = lambda num_bytes: None

    def feed(self, data: bytes) -> None:
        """Take a part; an empty one is the end."""
        if self._fd < 0:
            return
        self._has_ended = not data
        self._unsent += data
        self._flush()

    def close(self) -> None:
        """Let the reader read the end; what it has not taken is lost."""
        if self._fd >= 0:
            self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _flush(self) -> None:
        if self._fd < 0:
            return  # since this turn of the loop began
        self._loop.unwatch(self._fd)
        while self._unsent:
            try:
                num_bytes = os.write(self._fd, self._unsent)
            except BlockingIOError:
                self._loop.watch(self._fd, self._flush, for_writing=True)
                return
            except OSError:  # nobody reads it any more
                self.close()
                return
            self._unsent = self._unsent[num_bytes:]
            self.on_taken(num_bytes)
        if self._has_ended:
            self.close()


class Answers(Pipe):
    """What somebody types at a terminal elsewhere, which comes over our stdin.

    From now on our stdin is this pipe. Before a rank can read a line, a question is known to be
    answered: what the rank says next is no part of it.
    """

    def __init__(self, loop: Loop, end_question: Callable[[], None]) -> None:
        super().__init__(loop)
        self._end_question = end_question
        self._input = Input(loop, self)
        os.dup2(self.read_end, 0)
        os.close(self.read_end)

    def feed(self, data: bytes) -> None:
        """Take a part; an empty one is the end."""
        if data.endswith(b"\n"):
            self._end_question()
        super().feed(data)

    def close(self) -> None:
        """Let the reader read the end; what it has not taken is lost."""
        self._input.close()
        super().close()
