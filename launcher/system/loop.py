"""The one selector loop of a supervisor: descriptors, signals and deadlines. The only `select`.

Whatever is ready has an owner that is called: a descriptor its reader, a timer its callback. What
concerns somebody else comes back from a reader as an event, and so do signals, which arrive over
the wake-up descriptor: no handler runs our code.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from types import FrameType

from launcher.events import ChildrenChanged, Event, Signalled
from launcher.named import NamedTuple

# Who comes to look at a timer so much later than it was due could not run, and nor could others.
_LATE_S = 0.1

# Called when its descriptor is ready; returns what concerns somebody else, None for nothing.
Reader = Callable[[], Iterable[Event] | None]


def _note_signal(signum: int, frame: FrameType | None) -> None:
    """Do nothing: the wake-up descriptor has carried the signal's number already."""


class _Timer(NamedTuple):
    at: float
    # How long others have for what it waits for; 0 where it waits for nobody.
    patience_s: float


class Loop:
    """Waits for descriptors, signals and timers, in one thread. Use as a context manager."""

    def __init__(self, signals: Sequence[int], clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._selector = selectors.DefaultSelector()
        self._timers: dict[Callable[[], None], _Timer] = {}
        self._posted: list[Event] = []
        # Signals that concern one owner, which is called.
        self._hearers: dict[int, Callable[[], None]] = {}
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

    def __exit__(self, *exc_info: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)
        signal.set_wakeup_fd(self._old_wakeup)
        for signum, handler in self._old_handlers.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._selector.close()
        os.close(self._wakeup_read)
        os.close(self._wakeup_write)

    def watch(
        self, fd: int, reader: Reader, *, for_writing: bool = False, for_both: bool = False
    ) -> None:
        """Call `reader` whenever `fd` is ready for reading, writing or either, until `unwatch`."""
        mask = selectors.EVENT_WRITE if for_writing or for_both else selectors.EVENT_READ
        self._selector.register(fd, mask | selectors.EVENT_READ if for_both else mask, reader)

    def post(self, event: Event) -> None:
        """Hand over an event in the next turn, which then does not wait for anything."""
        self._posted.append(event)

    def hear(self, signum: int, callback: Callable[[], None] | None) -> None:
        """Call `callback` whenever a signal comes, which then is no event; None to hear no more."""
        if callback is None:
            del self._hearers[signum]
            signal.signal(signum, self._old_handlers.pop(signum))  # type: ignore[arg-type]
            return
        self._hearers[signum] = callback
        self._old_handlers[signum] = signal.signal(signum, _note_signal)

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor; one that is not watched is fine."""
        try:
            self._selector.unregister(fd)
        except (KeyError, ValueError):
            pass

    def set_timer(
        self, callback: Callable[[], None], delay_s: float, *, is_patient: bool = False
    ) -> None:
        """Call `callback` once, `delay_s` seconds from now; replaces its earlier timer.

        Methods of one object are the same callback. With `is_patient` it is the end of a time that
        others have for something: should the machine stand still meanwhile, they get more.
        """
        self._timers[callback] = _Timer(self.clock() + delay_s, delay_s if is_patient else 0.0)

    def cancel_timer(self, callback: Callable[[], None]) -> None:
        """Forget a timer; one that is not set is fine."""
        self._timers.pop(callback, None)

    def postpone_timers(self, delay_s: float) -> None:
        """Let everything that is set happen so much later."""
        for callback, timer in self._timers.items():
            self._timers[callback] = timer._replace(at=timer.at + delay_s)

    def turn(self, handle: Callable[[Event], None]) -> None:
        """Block until something happens; hand over events, then call the timers that are due.

        All readers come before the first event is handled: what a worker has written is taken
        before its end is heard of.
        """
        timeout = None
        if self._timers:
            timeout = max(0.0, min(self._timers.values()).at - self.clock())
        if self._posted:
            timeout = 0.0
        events, self._posted = self._posted, []
        for key, _ in self._selector.select(timeout):
            events.extend(key.data() or ())
        for event in events:
            handle(event)
        now = self.clock()
        due = [callback for callback, timer in self._timers.items() if timer.at <= now]
        for callback in sorted(due, key=lambda callback: self._timers[callback].at):
            timer = self._timers.get(callback)
            if timer is None or timer.at > now:
                continue  # one that was called has canceled it, or set it again
            del self._timers[callback]
            late_s = now - timer.at
            if timer.patience_s and late_s > _LATE_S:
                self.set_timer(callback, min(timer.patience_s, late_s))
            else:
                callback()

    def _read_signals(self) -> list[Event]:
        try:
            numbers = os.read(self._wakeup_read, 4096)
        except BlockingIOError:
            return []
        for number in self._hearers.keys() & set(numbers):
            self._hearers[number]()
        events: list[Event] = [
            Signalled(number)
            for number in numbers
            if number != signal.SIGCHLD and number not in self._hearers
        ]
        if signal.SIGCHLD in numbers:
            events.append(ChildrenChanged())
        return events
