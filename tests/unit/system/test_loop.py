"""The event loop: descriptors, signals, and timers with a clock that the test moves."""

from __future__ import annotations

import os
import signal

from launcher.events import ChildrenChanged, Output, Signalled, TimerFired
from launcher.system.loop import Loop


def test_bytes_in_a_pipe_become_an_event() -> None:
    read_end, write_end = os.pipe()
    with Loop([]) as loop:
        loop.watch(read_end, lambda: [Output(0, "out", os.read(read_end, 10))])
        os.write(write_end, b"x")
        assert loop.wait_events() == [Output(0, "out", b"x")]
        loop.unwatch(read_end)
        loop.unwatch(read_end)  # again: no error
    os.close(read_end)
    os.close(write_end)


def test_signals_become_events_in_their_order_and_no_handler_stays() -> None:
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGCHLD)
    with Loop([signal.SIGUSR1, signal.SIGUSR2]) as loop:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert loop.wait_events() == [Signalled(signal.SIGUSR2)]
        os.kill(os.getpid(), signal.SIGUSR1)
        assert loop.wait_events() == [Signalled(signal.SIGUSR1)]
        os.kill(os.getpid(), signal.SIGCHLD)
        os.kill(os.getpid(), signal.SIGCHLD)
        assert loop.wait_events() == [ChildrenChanged()]
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGCHLD)) == before


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with Loop([signal.SIGUSR1]):
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_timers_fire_once_when_their_time_has_come() -> None:
    now = [100.0]
    with Loop([], clock=lambda: now[0]) as loop:
        loop.set_timer("late", 5.0)
        loop.set_timer("early", 1.0)
        loop.set_timer("cancelled", 1.0)
        loop.cancel_timer("cancelled")
        loop.cancel_timer("unknown")
        now[0] += 1.0
        assert loop.wait_events() == [TimerFired("early")]
        loop.set_timer("late", 2.0)  # replaces the earlier one
        now[0] += 2.0
        assert loop.wait_events() == [TimerFired("late")]
        loop.set_timer("now", 0.0)
        assert loop.wait_events() == [TimerFired("now")]
