"""The user's keys, for the one rank that reads them.

The user's terminal stays as it is until that rank seems to ask for something: it has begun a line
and stands still, or has changed the mode of its terminal. From then on every key goes at once to
the rank's pseudo-terminal, which edits lines and echoes; or the rank does so itself, as pdb does
with readline. Nothing is read while a shell has us in the background: that would stop us.
"""

from __future__ import annotations

import os
import select
import signal
import termios
import time
from collections.abc import Callable

from launcher.output.console import Console
from launcher.system.loop import Loop
from launcher.system.tty import (
    FOREGROUND_LOOK_S,
    Settings,
    is_in_foreground,
    not_stopped,
    open_stdin_again,
    read_settings,
    write_settings,
)

# Ctrl-C twice within so long is for the launcher, also where a rank edits its lines itself.
_TWICE_S = 1.0

_KEYS_BYTES = 4096

# More lines than this nobody types ahead.
_MOST_LINES = 100

# What the rank's terminal decides for ours.
_FOLLOWED = termios.ICANON | termios.ECHO | termios.ISIG
_WITH_SIGNALS = termios.ICANON | termios.ISIG


class Keyboard:
    """The user's terminal as the source of a rank's input."""

    def __init__(
        self, loop: Loop, console: Console, master: int, rank: int, send: Callable[[int], None]
    ) -> None:
        """master: our end of the rank's terminal. send: sends it a signal."""
        self._loop = loop
        self._console = console
        self.master = master
        self._rank = rank
        self._send = send
        self._fd = open_stdin_again()
        # A second descriptor, because the loop watches the first for reading.
        self._writing = os.dup(master)
        os.set_blocking(self._writing, False)
        self._unsent = b""
        # Whether the rank has been sent anything since somebody has looked.
        self.has_typed = False
        self._is_asked = False
        # The user's terminal as it was; and which mode of the rank's terminal it follows now.
        self._saved: Settings | None = None
        self._followed: tuple[int, int] | None = None
        self._interrupted_at = float("-inf")
        self._is_closed = False
        self._begin()

    def ask(self) -> None:
        """Let the user answer: from now on the rank's terminal sees every key at once."""
        if not self._is_asked:
            self._is_asked = True
            self._console.asking_rank = self._rank
        self.follow()

    def follow(self) -> None:
        """Take on the mode of the rank's terminal, if that has asked or has changed it."""
        mode = self._read_mode()
        if not self._is_asked:
            if mode[0] & _FOLLOWED == _FOLLOWED:
                return
            self._is_asked = True
            self._console.asking_rank = self._rank
        if mode != self._followed and is_in_foreground(0):
            self._apply(mode)

    def pause(self) -> None:
        """Give the terminal back as it was."""
        self._loop.unwatch(self._fd)
        self._loop.cancel_timer(self._begin)
        self._restore()

    def resume(self) -> None:
        """Go on after `pause`, once we are in the foreground."""
        self._begin()

    def close(self) -> None:
        """Give the terminal back for good: the rank reads no more."""
        self._is_closed = True
        self.pause()
        self._loop.unwatch(self._writing)
        os.close(self._writing)
        os.close(self._fd)
        self._console.asking_rank = -1

    def _begin(self) -> None:
        """Read keys if we are in the foreground; else look again."""
        if not is_in_foreground(0):
            self._loop.set_timer(self._begin, FOREGROUND_LOOK_S)
            return
        if not self._unsent:
            self._loop.unwatch(self._fd)
            self._loop.watch(self._fd, self._read)
        self.follow()

    def _read(self, nul: bytes = b"\0") -> None:
        """Pass on what has been typed; nul: what takes the place of zero bytes in it."""
        if self._is_closed:
            return  # since this turn of the loop began
        if self._has_ended():
            self._loop.unwatch(self._fd)  # what is typed now is for the shell
            return
        if not is_in_foreground(0):
            self._step_back()
            return
        if not select.select([self._fd], [], [], 0)[0]:
            return  # another process has read it
        try:
            with not_stopped():
                keys = os.read(self._fd, _KEYS_BYTES)
        except BlockingIOError:
            return
        except OSError:  # the background after all, or a terminal that has gone
            self._step_back()
            return
        if not keys:
            keys = self._end_of_input()
        self._pass_on(keys.replace(b"\0", nul))

    def _has_ended(self) -> bool:
        """Tell whether nobody can read from the rank's terminal any more."""
        poller = select.poll()
        poller.register(self.master, 0)
        return bool(poller.poll(0))

    def _step_back(self) -> None:
        self._loop.unwatch(self._fd)
        self._followed = None
        self._loop.set_timer(self._begin, FOREGROUND_LOOK_S)

    def _end_of_input(self) -> bytes:
        """Return what means the end of the input; a terminal that has gone gives no more."""
        if read_settings(self._fd) is None:
            self._loop.unwatch(self._fd)
        theirs = read_settings(self.master)
        return theirs.char(termios.VEOF) if theirs else b""

    def _pass_on(self, keys: bytes) -> None:
        if self._followed is not None:
            keys = self._take_signals(keys)
        self._unsent += keys
        self._flush()

    def _take_signals(self, keys: bytes) -> bytes:
        """Do what the keys mean that the kernel would have taken, and return the others."""
        theirs = read_settings(self.master)
        if theirs is None or not theirs.local & termios.ISIG:
            return keys
        actions = {
            theirs.char(termios.VINTR): signal.SIGINT,
            theirs.char(termios.VQUIT): signal.SIGQUIT,
            theirs.char(termios.VSUSP): signal.SIGTSTP,
        }
        edits_itself = not theirs.local & termios.ICANON
        others = bytearray()
        for number in keys:
            signum = actions.get(bytes([number]))
            if signum is None or number == 0:
                others.append(number)
                continue
            others.clear()  # what was typed before is void, as a terminal has it
            self._unsent = b""
            if signum == signal.SIGINT and edits_itself and not self._is_second_interrupt():
                self._send(signum)
            else:
                os.kill(0, signum)  # to all processes of our job, as the terminal does
        return bytes(others)

    def _is_second_interrupt(self) -> bool:
        before, self._interrupted_at = self._interrupted_at, time.monotonic()
        return self._interrupted_at - before < _TWICE_S

    def _flush(self) -> None:
        """Write what fits; while the rank reads nothing, neither do we."""
        while self._unsent:
            try:
                written = os.write(self._writing, self._unsent)
            except BlockingIOError:
                self._loop.unwatch(self._fd)
                self._loop.unwatch(self._writing)
                self._loop.watch(self._writing, self._go_on, for_writing=True)
                return
            self._unsent = self._unsent[written:]
            self.has_typed = True

    def _go_on(self) -> None:
        if self._is_closed:
            return  # since this turn of the loop began
        self._loop.unwatch(self._writing)
        self._flush()
        if not self._unsent:
            self._begin()

    def _read_mode(self) -> tuple[int, int]:
        theirs = read_settings(self.master)
        return (theirs.local & _FOLLOWED, theirs.input & termios.IXON) if theirs else (_FOLLOWED, 0)

    def _apply(self, mode: tuple[int, int]) -> None:
        """Give us every key at once and unchanged; the rank's terminal does the rest."""
        if self._followed is None:
            # Lines that were typed before: the kernel would give their ends out as other keys.
            for _ in range(_MOST_LINES):
                if not select.select([self._fd], [], [], 0)[0]:
                    break
                self._read()
        self._saved = self._saved or read_settings(self._fd)
        if self._saved is None:
            return
        off = termios.ICANON | termios.ECHO | termios.IEXTEN
        if mode[0] & _WITH_SIGNALS != _WITH_SIGNALS:
            # Ctrl-C is for who edits lines, or only a key: we look at each.
            off |= termios.ISIG
        changed = termios.ICRNL | termios.INLCR | termios.IGNCR | termios.IXON & ~mode[1]
        chars = list(self._saved.chars)
        chars[termios.VMIN], chars[termios.VTIME] = 1, 0
        settings = self._saved._replace(
            input=self._saved.input & ~changed, local=self._saved.local & ~off, chars=chars
        )
        write_settings(self._fd, settings)
        if self._followed is None and select.select([self._fd], [], [], 0)[0]:
            # Typed since, as part of a line: the kernel has put a zero in place of Ctrl-D.
            self._read(nul=self._end_of_input())
        self._followed = mode

    def _restore(self) -> None:
        if self._followed is not None and self._saved is not None and is_in_foreground(0):
            write_settings(self._fd, self._saved)
        self._followed = self._saved = None
