"""Terminals: their settings, typed, and whether this process may read the one that it was given."""

from __future__ import annotations

import os
import signal
import stat
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from launcher.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


# How often to see whether a job has come to the foreground: a shell does not tell.
FOREGROUND_LOOK_S = 1.0


class Settings(NamedTuple):
    """The settings of a terminal, in the order of the list that `termios` has for them."""

    input: int
    output: int
    control: int
    local: int
    input_speed: int
    output_speed: int
    # The special characters; in raw mode numbers stand in two places.
    chars: Any

    def char(self, which: int) -> bytes:
        """Return a special character, by its place."""
        return bytes(self.chars[which])


def read_settings(fd: int) -> Settings | None:
    """Return the settings of a terminal; None when it has gone."""
    try:
        return Settings(*termios.tcgetattr(fd))
    except termios.error:
        return None


def write_settings(fd: int, settings: Settings) -> None:
    """Change the settings of a terminal; nothing happens when it has gone."""
    try:
        with not_stopped():
            termios.tcsetattr(fd, termios.TCSANOW, [*settings])
    except termios.error:
        pass


def is_in_foreground(fd: int) -> bool:
    """Tell whether a terminal is ours to read; one that controls no job of ours always is."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True


def open_stdin_again() -> int:
    """Open our stdin once more, so that reading never waits, whoever else reads it."""
    if not stat.S_ISREG(os.fstat(0).st_mode):  # which would be read from its beginning
        try:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open("/proc/self/fd/0", flags)
        except OSError:
            pass  # it belongs to another user, or is a socket
    return os.dup(0)


@contextmanager
def not_stopped() -> Iterator[None]:
    """Get an error instead of being stopped, if a shell takes us to the background just now."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTIN, signal.SIGTTOU))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
