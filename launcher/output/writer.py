"""Writing to one descriptor without ever blocking: the rest waits until the reader is ready.

A closed stream is dropped. Also what a terminal says of its size.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import time

from launcher.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# How long the end of a launch waits for a reader that does not move.
DRAIN_S = 2.0

# A closed pipe, and a terminal that has hung up.
_READER_HAS_GONE = (errno.EPIPE, errno.EIO)

# Of a terminal that does not say how large it is.
_COLUMNS, _ROWS = 80, 24


class StreamWriter:
    """Writes to one descriptor without ever blocking."""

    def __init__(self, fd: int, loop: Loop, beside: StreamWriter | None = None) -> None:
        """beside: who writes to the same place through another descriptor.

        What both write stays in its order then, and neither breaks a line of the other, also when
        the reader is slow.
        """
        self.given_fd = fd
        self._outlet: _Outlet = beside._outlet if beside is not None else _Outlet(fd, loop)
        self.is_tty = os.isatty(fd)
        # Of the terminal on which somebody else shows what is written here.
        self.far_size: tuple[int, int] | None = None
        # Hears all that is to be written, also when nobody reads it here.
        self.tap: Callable[[bytes], None] | None = None

    def write(self, data: bytes) -> None:
        """Write now what fits, keep the rest for when the reader is ready."""
        if self.tap is not None:
            self.tap(data)
        self._outlet.write(data)

    def on_caught_up(self, callback: Callable[[], None]) -> None:
        """Have this called whenever the reader has taken all that had to wait for it."""
        self._outlet.on_caught_up = callback

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of a terminal; 80 and 24 where it does not say."""
        if self.far_size is not None:
            return self.far_size
        try:
            columns, rows = os.get_terminal_size(self.given_fd)
        except OSError:
            return _COLUMNS, _ROWS
        # Some terminals, in containers above all, say 0.
        return columns or _COLUMNS, rows or _ROWS

    @property
    def pending_bytes(self) -> int:
        """How much waits for the reader."""
        return self._outlet.pending_bytes

    @property
    def closed(self) -> bool:
        """Whether nothing is written any more."""
        return self._outlet.closed

    @property
    def failure(self) -> str:
        """Why it was closed, where the user should know: a full disk, not a reader that has gone;
        else "".
        """
        return self._outlet.failure

    @property
    def last_progress(self) -> float:
        """When the reader has last taken something."""
        return self._outlet.last_progress

    def drain(self) -> None:
        """Wait until everything is written, or until the reader has stood still for `DRAIN_S`."""
        self._outlet.drain()

    def close(self) -> None:
        """Write no more, and drop what waits."""
        self._outlet.close()


class _Outlet:
    """An open file, and what is still to be written to it."""

    def __init__(self, fd: int, loop: Loop) -> None:
        self._loop = loop
        self._fd, self._owned, self._piecewise = _open_nonblocking(fd)
        self._pending: list[bytes | memoryview] = []
        self.pending_bytes = 0
        self._waiting = False
        self.closed = self._fd < 0
        self.failure = ""
        self.last_progress = time.monotonic()
        self.on_caught_up: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        if self.closed or not data:
            return
        self._pending.append(data)
        self.pending_bytes += len(data)
        if not self._waiting:
            self._flush()

    def _flush(self) -> None:
        has_waited = self._waiting
        while self._pending:
            # A terminal takes 4 KiB at a time: what is left of a block is not copied each time.
            if len(self._pending) > 1 and isinstance(self._pending[0], bytes):
                self._pending = [b"".join(self._pending)]
            data = self._pending[0]
            try:
                written = self._write_some(data)
            except BlockingIOError:
                if not self._waiting:
                    self._loop.watch(self._fd, self._flush, for_writing=True)
                    self._waiting = True
                return
            except OSError as error:
                if error.errno not in _READER_HAS_GONE:
                    self.failure = os.strerror(error.errno or 0)
                self.close()
                return
            self.last_progress = time.monotonic()
            self.pending_bytes -= written
            if written < len(data):
                self._pending[0] = memoryview(data)[written:]
            else:
                del self._pending[0]
        self._stop_waiting()
        if has_waited:
            self.on_caught_up()

    def _write_some(self, data: bytes | memoryview) -> int:
        if not self._piecewise:
            return os.write(self._fd, data)
        # A descriptor that could not be reopened may block on a long write; one that polls as
        # writable takes PIPE_BUF bytes.
        if not _wait_until_writable(self._fd, 0):
            raise BlockingIOError(errno.EAGAIN, "not writable")
        return os.write(self._fd, data[: select.PIPE_BUF])

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._loop.unwatch(self._fd)
            self._waiting = False

    def drain(self) -> None:
        self.last_progress = time.monotonic()
        while self._pending and not self.closed:
            patience = self.last_progress + DRAIN_S - time.monotonic()
            if patience <= 0:
                return
            _wait_until_writable(self._fd, patience)
            self._flush()

    def close(self) -> None:
        self._stop_waiting()
        self._pending, self.pending_bytes = [], 0
        self.closed = True
        if self._owned:
            os.close(self._fd)
            self._owned = False


def _wait_until_writable(fd: int, patience_s: float) -> bool:
    """Wait until a descriptor takes something, for so long at most; return whether it does."""
    poller = select.poll()  # `select` takes no number above 1023, and of ranks there may be many
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(patience_s * 1000))


def _open_nonblocking(fd: int) -> tuple[int, bool, bool]:
    """Return (descriptor, whether it is ours to close, whether it may block on long writes).

    O_NONBLOCK belongs to the open file, which we share with the shell and everyone else: setting it
    there would break them. A terminal or a pipe can be opened once more, for ourselves. A regular
    file is not opened again, because that would start at offset 0; writing to it does not wait for
    a reader anyway.
    """
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return -1, False, False
    if stat.S_ISREG(mode) or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK:
        return fd, False, False
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{fd}", flags), True, False
    except OSError:
        return fd, False, True  # a socket, or a terminal that belongs to another user
