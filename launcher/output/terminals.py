"""Pseudo-terminals: what a rank's stdout and stderr are while ours are terminals.

One for each stream, because they stay separate; without output processing, so that what arrives is
what was written. No rank is given a controlling terminal: it has a session of its own, Ctrl-C comes
to the launcher, and nothing is hung up when a rank ends. So the kernel tells nobody of a new size,
and the ranks are sent SIGWINCH. The user's keys are for keyboard.py.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable

from launcher.output.console import Console
from launcher.output.keyboard import Keyboard
from launcher.output.live import visible_width
from launcher.system.loop import Loop
from launcher.system.tty import Settings, read_settings, write_settings

# The kernel gives at most so much at a time; and so much is taken in a turn of the loop: a terminal
# holds three pages, and the kernel fills it again while others are read and ours is written.
_PAGE_BYTES = 4096
_TURN_BYTES = 4 * _PAGE_BYTES

_COOKED = termios.ICANON | termios.ECHO | termios.ECHOE | termios.ECHOK | termios.ISIG


class Terminals:
    """The pseudo-terminals of the workers of one attempt."""

    def __init__(
        self,
        loop: Loop,
        console: Console,
        send: Callable[[int, int], None],
        on_resize: Callable[[], None],
    ) -> None:
        """send: sends a signal to the worker with a local rank, if it runs."""
        self._loop = loop
        self._console = console
        self._send = send
        self._on_resize = on_resize
        # Our end of each -> local rank, stream, and the width of the prefix.
        self._open: dict[int, tuple[int, str, int]] = {}
        self._keyboard: Keyboard | None = None
        self._has_failed = False
        loop.hear(signal.SIGWINCH, self._resize)

    def open(self, local_rank: int, stream: str, prefix: bytes) -> tuple[int, int] | None:
        """Make one; return our end and the worker's. None where that is not possible, or our own
        stream is no terminal.
        """
        if not self._console.is_tty(stream):
            return None
        try:
            ours, theirs = os.openpty()
        except OSError as error:
            if not self._has_failed:
                self._console.say(f"ranks write into pipes: no terminal for them: {error.strerror}")
            self._has_failed = True
            return None
        self._open[ours] = local_rank, stream, visible_width(prefix)
        _set_up(theirs, read_settings(self._console.fd(stream)))
        self._tell_size(ours)
        return ours, theirs

    def owns(self, fd: int) -> bool:
        """Tell whether a descriptor is our end of one."""
        return fd in self._open

    def read(self, fd: int, limit: int) -> bytes:
        """Read what is there, up to a limit; b"" when nobody can write any more.

        BlockingIOError when there is nothing yet.
        """
        pages: list[bytes] = []
        limit = min(limit, _TURN_BYTES)
        while limit > 0:
            try:
                page = os.read(fd, _PAGE_BYTES)
            except OSError as error:
                if pages or error.errno == errno.EIO:
                    break  # EIO: the last one has closed the other end
                raise
            pages.append(page)
            limit -= len(page)
            if len(page) < _PAGE_BYTES - 1:
                break
        if self._keyboard is not None:
            self._keyboard.follow()
        return b"".join(pages)

    def forget(self, fd: int) -> None:
        """Let go of one, before its descriptor is closed."""
        del self._open[fd]
        if self._keyboard is not None and self._keyboard.master == fd:
            self._keyboard.close()
            self._keyboard = None

    def lend_keyboard(self, rank: int, local_rank: int) -> None:
        """Let what the user types go to a worker whose stdin is the terminal of its stdout."""
        master = self._find(local_rank, "out")
        self._keyboard = Keyboard(
            self._loop, self._console, master, rank, lambda signum: self._send(local_rank, signum)
        )

    def note_question(self, local_rank: int) -> None:
        """Take note that a rank has begun a line and stands still: it may want an answer."""
        keyboard = self._keyboard
        if keyboard is not None and keyboard.master == self._find(local_rank, "out"):
            keyboard.ask()

    def has_echo(self, fd: int) -> bool:
        """Tell whether the user has typed since the last call, and what a terminal shows now may
        be that.
        """
        keyboard = self._keyboard
        if keyboard is None or keyboard.master != fd or not keyboard.has_typed:
            return False
        keyboard.has_typed = False
        return True

    def pause(self) -> None:
        """Give the user's terminal back as it was: we are going to be stopped."""
        if self._keyboard is not None:
            self._keyboard.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._resize()
        if self._keyboard is not None:
            self._keyboard.resume()

    def close(self) -> None:
        """Hear of nothing any more; all ends have been forgotten."""
        self._loop.hear(signal.SIGWINCH, None)

    def _find(self, local_rank: int, stream: str) -> int:
        wanted = (local_rank, stream)
        return next((fd for fd, whose in self._open.items() if whose[:2] == wanted), -1)

    def _resize(self) -> None:
        for fd in self._open:
            self._tell_size(fd)
        for local_rank in {local_rank for local_rank, _, _ in self._open.values()}:
            self._send(local_rank, signal.SIGWINCH)
        self._console.resize()
        self._on_resize()

    def _tell_size(self, fd: int) -> None:
        _, stream, prefix_width = self._open[fd]
        columns, rows = self._console.size(stream)
        size = struct.pack("4H", rows, max(1, columns - prefix_width), 0, 0)
        fcntl.ioctl(fd, termios.TIOCSWINSZ, size)


def _set_up(fd: int, ours: Settings | None) -> None:
    """Set a terminal up as ours is while a shell waits, but for what becomes of output."""
    settings = read_settings(fd)
    assert settings is not None  # it is new
    if ours is not None:
        settings = settings._replace(input=ours.input, local=ours.local, chars=ours.chars)
    settings = settings._replace(
        input=settings.input | termios.ICRNL,
        output=settings.output & ~termios.OPOST,
        local=settings.local | _COOKED,
    )
    write_settings(fd, settings)
