"""The one selector loop of a supervisor: pipes, signals and deadlines in, typed events out. The
only `select`.

A source is anything that can be read without blocking when its descriptor is ready; it returns
events. Signals arrive over the wake-up descriptor, so that a signal is an event like any other and
no handler runs our code.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from types import FrameType, TracebackType

from launcher.events import ChildrenChanged, Event, Signalled, TimerFired

# A source's reader: called when its descriptor is ready, returns what happened.
Reader = Callable[[], Iterable[Event]]


def _note_signal(signum: int, frame: FrameType | None) -> None:
    """Do nothing: the wake-up descriptor has carried the signal's number already."""


class Loop:
    """Collects events from descriptors, signals and timers, in one thread. Use as a context
    manager.
    """

    def __init__(self, signals: Sequence[int], clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._selector = selectors.DefaultSelector()
        self._timers: dict[str, float] = {}
        self._signals = tuple(signals)
        self._old_handlers: dict[int, object] = {}
        self._wakeup_read, self._wakeup_write = os.pipe()
        os.set_blocking(self._wakeup_read, False)
        os.set_blocking(self._wakeup_write, False)

    def __enter__(self) -> Loop:
        self._old_wakeup = signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        # What was ignored when we were started stays so, here and in the workers: SIGHUP under
        # nohup, SIGINT behind `&`.
        heeded = [
            signum for signum in self._signals if signal.getsignal(signum) is not signal.SIG_IGN
        ]
        for signum in (*heeded, signal.SIGCHLD):
            self._old_handlers[signum] = signal.signal(signum, _note_signal)
        # Whoever started us may have blocked them; a blocked SIGCHLD would hide every exit from us.
        self._old_mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, (*heeded, signal.SIGCHLD))
        self.watch(self._wakeup_read, self._read_signals)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)
        signal.set_wakeup_fd(self._old_wakeup)
        for signum, handler in self._old_handlers.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._selector.close()
        os.close(self._wakeup_read)
        os.close(self._wakeup_write)

    def watch(self, fd: int, reader: Reader, *, for_writing: bool = False) -> None:
        """Call `reader` whenever `fd` is ready, until `unwatch`."""
        mask = selectors.EVENT_WRITE if for_writing else selectors.EVENT_READ
        self._selector.register(fd, mask, reader)

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor; one that is not watched is fine."""
        try:
            self._selector.unregister(fd)
        except (KeyError, ValueError):
            pass

    def set_timer(self, name: str, delay_s: float) -> None:
        """Fire `TimerFired(name)` once, `delay_s` seconds from now; replaces an earlier timer of
        that name.
        """
        self._timers[name] = self.clock() + delay_s

    def cancel_timer(self, name: str) -> None:
        self._timers.pop(name, None)

    def wait_events(self) -> list[Event]:
        """Block until something happens and return it. Never empty-handed for long: readers may
        return nothing.
        """
        timeout = None
        if self._timers:
            timeout = max(0.0, min(self._timers.values()) - self.clock())
        events: list[Event] = []
        for key, _ in self._selector.select(timeout):
            events.extend(key.data())
        now = self.clock()
        for name in [name for name, deadline in self._timers.items() if deadline <= now]:
            del self._timers[name]
            events.append(TimerFired(name))
        return events

    def _read_signals(self) -> list[Event]:
        try:
            numbers = os.read(self._wakeup_read, 4096)
        except BlockingIOError:
            return []
        events: list[Event] = [Signalled(number) for number in numbers if number != signal.SIGCHLD]
        if signal.SIGCHLD in numbers:
            events.append(ChildrenChanged())
        return events
