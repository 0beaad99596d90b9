"""Reading many pipes, each into its stream; those are held back whose console is full.

Owns the read ends that it is given, and the streams behind them. Whose pipes they are is for others
to know: workers', or those of connections to other hosts.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable

from launcher.output.console import STALL_S, Console
from launcher.output.streams import RankStream
from launcher.system.loop import Loop

# One read takes at most this much, so that a chatty writer cannot keep the others waiting.
_READ_BYTES = 1 << 18

# How soon text without a newline is looked at, and who writes a long line that stands still.
_PROMPT_S = 0.1
_CLAIM_S = 1.0

# A writer, by number, and "out" or "err".
Key = tuple[int, str]

# A key, and what was written.
Listener = Callable[[int, str, bytes], None]


class Intake:
    """All pipes that are read here, and the consoles that their text goes to."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.fds: dict[Key, int] = {}
        self._consoles_of: dict[Key, Console] = {}
        self.streams: dict[Key, RankStream] = {}
        # Consoles that have not caught up: who writes there is not read.
        self._full: list[Console] = []
        # Whether unfinished lines are going to be looked at.
        self._has_prompts = False
        # Consoles on which one stream writes a line that is too long to be kept.
        self._claimed: dict[Console, object] = {}

    # --- what whoever reads workers does in another way -----------------------------------------

    def hear(self, key: Key, data: bytes) -> None:
        """Take what was read of a pipe whose writer is there."""
        self.take(key, data)

    def take(self, key: Key, data: bytes) -> None:
        """Take what was read."""
        self.streams[key].take(data)

    def read_some(self, fd: int, limit: int) -> bytes:
        """Read what is there, up to a limit; b"" at the end. BlockingIOError for nothing yet."""
        return os.read(fd, limit)

    def let_go(self, fd: int) -> None:
        """Forget a descriptor that is going to be closed."""

    def look_at_prompts(self) -> None:
        """See what writers have left unfinished, which is on the console by now."""

    # --- pipes come and go ----------------------------------------------------------------------

    def close(self) -> None:
        """Close all pipes, show unfinished lines, forget the timers."""
        for key in list(self.fds):
            self._close(key)
        for stream in self.streams.values():
            stream.close()
        for timer in (self._check_stall, self._show_prompts, self._check_claims):
            self._loop.cancel_timer(timer)

    def add(self, key: Key, fd: int, stream: RankStream, console: Console) -> None:
        """Read a pipe from now on; its descriptor is ours."""
        os.set_blocking(fd, False)
        self.fds[key], self.streams[key], self._consoles_of[key] = fd, stream, console
        if self._may_read(key):
            self._watch(key)

    def drop(self, key: Key) -> None:
        """Close a pipe and its stream: another may get the key."""
        if key in self.fds:
            self._close(key)
        stream = self.streams.pop(key, None)
        if stream is not None:
            stream.close()
            self._note_claim(self._consoles_of[key])

    def is_open(self, key: Key) -> bool:
        """Tell whether a pipe has not come to its end."""
        return key in self.fds

    def drain_pipe(self, key: Key) -> None:
        """Take what stands in a pipe. At most what a pipe holds: others may still be writing."""
        fd = self.fds.get(key)
        if fd is None:
            return
        try:
            remaining = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
        except OSError:  # our end of a terminal
            remaining = _READ_BYTES
        while remaining > 0:
            try:
                data = self.read_some(fd, min(_READ_BYTES, remaining))
            except BlockingIOError:
                break
            if not data:
                self._close(key)
                break
            self.take(key, data)
            remaining -= len(data)
        self._note_claim(self._consoles_of[key])

    def resume_if_possible(self) -> None:
        """Let those write again whose console has caught up."""
        for console in [console for console in self._full if console.has_room]:
            self._full.remove(console)
            self._watch_again(console)
            if not self._full:
                self._loop.cancel_timer(self._check_stall)

    def _watch(self, key: Key) -> None:
        self._loop.watch(self.fds[key], lambda: self._read(key))

    def _read(self, key: Key) -> None:
        if key not in self.fds or not self._is_free(key):
            return  # since this turn of the loop began
        try:
            data = self.read_some(self.fds[key], _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._pass_on(key, data)
        else:
            self._close(key)

    def _pass_on(self, key: Key, data: bytes) -> None:
        """Pass on what was written; hold all back that share a console which is full."""
        stream, console = self.streams[key], self._consoles_of[key]
        self.hear(key, data)
        if not self._has_prompts and stream.has_prompt:
            self._has_prompts = True
            self._loop.set_timer(self._show_prompts, _PROMPT_S, is_patient=True)
        self._note_claim(console)
        if console.full and console not in self._full:
            self._full.append(console)
            self._watch_again(console)
            self._loop.set_timer(self._check_stall, STALL_S)

    def _close(self, key: Key) -> None:
        fd = self.fds.pop(key)
        self._loop.unwatch(fd)
        self.let_go(fd)
        os.close(fd)

    def _may_read(self, key: Key) -> bool:
        return self._is_free(key) and self._consoles_of[key] not in self._full

    def _is_free(self, key: Key) -> bool:
        """Tell whether nobody else writes a long line on its console."""
        return self._claimed.get(self._consoles_of[key]) in (None, self.streams[key])

    def _watch_again(self, console: Console) -> None:
        """Watch those who write on a console, as far as they may be read now."""
        for key in [key for key in self.fds if self._consoles_of[key] is console]:
            self._loop.unwatch(self.fds[key])
            if self._may_read(key):
                self._watch(key)

    def _note_claim(self, console: Console) -> None:
        """Read only the one who writes a long line, so that it arrives whole; or all again."""
        if console.claimant is self._claimed.get(console):
            return
        if console.claimant is None:
            del self._claimed[console]
        else:
            self._claimed[console] = console.claimant
            self._loop.set_timer(self._check_claims, _CLAIM_S)
        self._watch_again(console)

    def _check_claims(self) -> None:
        """Take the console from a long line that stands still."""
        for stream in self.streams.values():
            if time.monotonic() - stream.last_output_at >= _CLAIM_S:
                stream.let_go()
        for console in list(self._claimed):
            self._note_claim(console)
        if self._claimed:
            self._loop.set_timer(self._check_claims, _CLAIM_S)

    def _check_stall(self) -> None:
        """Skip lines where a console has long been full: its reader must not stop the job."""
        for console in self._full:
            if console.stalled_s >= STALL_S:
                console.start_skipping()
            else:
                self._loop.set_timer(self._check_stall, STALL_S)

    def _show_prompts(self) -> None:
        """Show what writers have left unfinished."""
        waits = [stream.show_prompt() for stream in self.streams.values()]
        self.look_at_prompts()
        delays_s = [wait_s for wait_s in waits if wait_s is not None]
        self._has_prompts = bool(delays_s)
        if delays_s:
            delay_s = max(_PROMPT_S, min(delays_s))
            self._loop.set_timer(self._show_prompts, delay_s, is_patient=True)
