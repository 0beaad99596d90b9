"""`ctl attach`: what the first terminal shows, on another one.

After the answer come frames: one byte for the stream, four for a length, and so many bytes as they
went to the terminal. A caller that does not read misses some of it; the run never waits for one.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence

from launcher.ctl.messages import Attach, Done, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from launcher.output.console import Console
    from launcher.system.loop import Loop

_HEAD = struct.Struct("!cI")
_STREAMS = {"out": b"o", "err": b"e"}
# Leaves a terminal to others in the middle of a row: it breaks long lines again, and rows
# that were drawn below are gone.
_LEAVE = b"\x1b[?7h\n\x1b[J"
# In place of a stream: nothing follows.
_END = b"."

# So much waits for a caller that is slow; what comes then is left out.
_MOST_BYTES = 1 << 20

# How long the end of a run waits for its callers, in seconds each.
_LAST_S = 0.5


class Audience:
    """Those who hear what the consoles of a run show."""

    def __init__(self, loop: Loop, consoles: Sequence[Console]) -> None:
        self._loop = loop
        self._consoles = consoles
        self._callers: list[_Caller] = []

    def add(self, connection: socket.socket) -> None:
        """Let a caller hear everything from now on, and first the rows that are not final."""
        for console in self._consoles:
            console.hide_live()  # on its terminal there are none that could be taken away
        caller = _Caller(connection, self._loop, self._remove)
        self._callers.append(caller)
        self._listen()
        caller.send(encode(Done()))
        for console in self._consoles:
            console.resize()

    def close(self) -> None:
        """Give the callers what is left, and hang up."""
        for console in self._consoles:
            if console.fold is not None:
                console.fold.flush()
            console.set_tap(None)
        for caller in list(self._callers):
            caller.close(_LAST_S)

    def _remove(self, caller: _Caller) -> None:
        self._callers.remove(caller)
        self._listen()

    def _listen(self) -> None:
        for console in self._consoles:
            console.set_tap(self._pass_on if self._callers else None)

    def _pass_on(self, stream: str, data: bytes) -> None:
        frame = _HEAD.pack(_STREAMS[stream], len(data)) + data
        for caller in list(self._callers):
            caller.send(frame)


class _Caller:
    """One connection, which is never waited for."""

    def __init__(
        self, connection: socket.socket, loop: Loop, on_end: Callable[[_Caller], None]
    ) -> None:
        self._connection = connection
        self._loop = loop
        self._on_end = on_end
        self._pending = b""
        self._is_waiting = False
        self._num_missed = 0
        connection.setblocking(False)
        loop.watch(connection.fileno(), self._hear)

    def send(self, frame: bytes) -> None:
        """Send a frame now, or keep it; leave it out when too much waits."""
        if len(self._pending) + len(frame) > _MOST_BYTES:
            self._num_missed += len(frame)
            return
        self._pending += frame
        if len(self._pending) == len(frame):
            self._flush()

    def close(self, patience_s: float = 0.0) -> None:
        """Hang up, after what is left."""
        self._loop.unwatch(self._connection.fileno())
        if patience_s:
            note = _make_note(self._num_missed) if self._num_missed else b""
            self._connection.settimeout(patience_s)
            try:
                self._connection.sendall(self._pending + note + _HEAD.pack(_END, 0))
            except OSError:
                pass  # it does not read
        self._connection.close()
        self._on_end(self)

    def _hear(self) -> None:
        """Take note when the caller has gone; it has nothing to say."""
        try:
            has_gone = not self._connection.recv(4096)
        except BlockingIOError:
            has_gone = False
        except OSError:
            has_gone = True
        if has_gone:
            self.close()
        elif self._pending:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._pending:
                self._pending = self._pending[self._connection.send(self._pending) :]
                if not self._pending and self._num_missed:
                    self._pending = _make_note(self._num_missed)
                    self._num_missed = 0
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._wait(bool(self._pending))

    def _wait(self, is_waiting: bool) -> None:
        """Be called when the caller takes more, too; or only when it has gone."""
        if is_waiting != self._is_waiting:
            self._is_waiting = is_waiting
            self._loop.unwatch(self._connection.fileno())
            self._loop.watch(self._connection.fileno(), self._hear, for_both=is_waiting)


def _make_note(num_missed: int) -> bytes:
    text = f"\n[launcher] {num_missed} bytes were left out: this reader did not take them\n"
    return _HEAD.pack(b"e", len(text)) + text.encode()


def attach(name: str, timeout_s: float, out: BinaryIO, err: BinaryIO) -> bool:
    """Write what the run at this socket shows until it ends; return whether it has answered."""
    sink, text = out, b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect("\0" + name)
            connection.sendall(encode(Attach()))
            with connection.makefile("rb") as source:
                if not source.readline():
                    return False
                connection.settimeout(None)
                while len(head := source.read(_HEAD.size)) == _HEAD.size:
                    stream, length = _HEAD.unpack(head)
                    if stream == _END:
                        return True
                    sink = err if stream == b"e" else out
                    text = source.read(length)
                    sink.write(text)
                    sink.flush()
        except KeyboardInterrupt:
            _leave(sink, text)
            raise
        except (TimeoutError, ConnectionError):
            return False
    _leave(sink, text)
    err.write(b"[launcher] the end is missing: this reader was too slow, or the run was killed\n")
    return True


def _leave(sink: BinaryIO, text: bytes) -> None:
    """Let others write below what was written last, if that is a terminal's unfinished row."""
    if sink.isatty() and text and not text.endswith(b"\n"):
        sink.write(_LEAVE)
        sink.flush()
