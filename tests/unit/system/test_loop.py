"""The event loop: descriptors, signals, and timers with a clock that the test moves."""

from __future__ import annotations

import os
import signal
import socket

from launcher.events import ChildrenChanged, Event, Exited, Signalled, Started
from launcher.system.loop import Loop


def events_of(loop: Loop) -> list[Event]:
    """Return what one turn of the loop hands over."""
    events: list[Event] = []
    loop.turn(events.append)
    return events


def test_a_reader_is_called_and_what_it_returns_is_handed_over() -> None:
    read_end, write_end = os.pipe()
    with Loop([]) as loop:
        loop.watch(read_end, lambda: [Exited(0, int(os.read(read_end, 10)))])
        os.write(write_end, b"7")
        assert events_of(loop) == [Exited(0, 7)]
        loop.unwatch(read_end)
        loop.unwatch(read_end)  # again: no error
    os.close(read_end)
    os.close(write_end)


def test_signals_become_events_in_their_order_and_no_handler_stays() -> None:
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGCHLD)
    with Loop([signal.SIGUSR1, signal.SIGUSR2]) as loop:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert events_of(loop) == [Signalled(signal.SIGUSR2)]
        os.kill(os.getpid(), signal.SIGUSR1)
        assert events_of(loop) == [Signalled(signal.SIGUSR1)]
        os.kill(os.getpid(), signal.SIGCHLD)
        os.kill(os.getpid(), signal.SIGCHLD)
        assert events_of(loop) == [ChildrenChanged()]
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGCHLD)) == before


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with Loop([signal.SIGUSR1]):
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


class Timers:
    """Owners of timers, which note that they were called."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.calls: list[str] = []

    def early(self) -> None:
        self.calls.append("early")

    def late(self) -> None:
        self.calls.append("late")

    def cancels_late(self) -> None:
        self.calls.append("cancels late")
        self.loop.cancel_timer(self.late)


def test_timers_call_their_owner_once_when_their_time_has_come() -> None:
    now = [100.0]
    with Loop([], clock=lambda: now[0]) as loop:
        timers = Timers(loop)
        loop.set_timer(timers.late, 5.0)
        loop.set_timer(timers.early, 1.0)
        loop.set_timer(timers.cancels_late, 1.0)
        loop.cancel_timer(timers.cancels_late)
        loop.cancel_timer(Timers(loop).early)  # of another owner
        now[0] += 1.0
        assert events_of(loop) == []
        assert timers.calls == ["early"]
        loop.set_timer(timers.late, 2.0)  # replaces the earlier one
        now[0] += 2.0
        events_of(loop)
        assert timers.calls == ["early", "late"]
        loop.set_timer(timers.early, 0.0)
        events_of(loop)
        assert timers.calls == ["early", "late", "early"]


def test_timers_that_are_due_together_come_in_their_order_and_may_cancel_each_other() -> None:
    now = [0.0]
    with Loop([], clock=lambda: now[0]) as loop:
        timers = Timers(loop)
        loop.set_timer(timers.late, 3.0)
        loop.set_timer(timers.early, 1.0)
        loop.set_timer(timers.cancels_late, 2.0)
        now[0] += 9.0
        events_of(loop)
        assert timers.calls == ["early", "cancels late"]


def test_who_waits_for_others_gives_them_more_time_when_all_have_stood_still() -> None:
    now = [0.0]
    with Loop([], clock=lambda: now[0]) as loop:
        timers = Timers(loop)
        loop.set_timer(timers.early, 1.0)
        loop.set_timer(timers.late, 1.0, is_patient=True)
        now[0] += 1.5
        events_of(loop)
        assert timers.calls == ["early"]
        now[0] += 1.0  # however late we are now: once is enough
        events_of(loop)
        assert timers.calls == ["early", "late"]
        for in_time in (0.0, 0.05):
            loop.set_timer(timers.late, 1.0, is_patient=True)
            now[0] += 1.0 + in_time
            events_of(loop)
        assert timers.calls == ["early", "late", "late", "late"]
        loop.set_timer(timers.late, 1.0, is_patient=True)
        loop.set_timer(timers.late, 1.0)  # no longer
        now[0] += 600.0
        events_of(loop)
        assert timers.calls == ["early", "late", "late", "late", "late"]
        loop.set_timer(timers.late, 1.0, is_patient=True)
        loop.cancel_timer(timers.late)
        now[0] += 600.0
        loop.set_timer(timers.early, 0.0)
        events_of(loop)
        assert timers.calls[-2:] == ["late", "early"]


def test_timers_can_be_postponed_together() -> None:
    now = [0.0]
    with Loop([], clock=lambda: now[0]) as loop:
        timers = Timers(loop)
        loop.set_timer(timers.late, 3.0)
        loop.set_timer(timers.early, 1.0)
        loop.postpone_timers(10.0)
        now[0] += 11.0
        events_of(loop)
        assert timers.calls == ["early"]


def test_all_readers_come_before_the_first_event_and_events_before_timers() -> None:
    calls: list[object] = []
    ends = [os.pipe() for _ in range(2)]
    with Loop([]) as loop:
        for number, (read_end, write_end) in enumerate(ends):
            os.write(write_end, b"x")

            def reader(number: int = number, fd: int = read_end) -> list[Event]:
                calls.append(os.read(fd, 1))
                return [Started(number, 1)]

            loop.watch(read_end, reader)
        loop.set_timer(lambda: calls.append("timer"), 0.0)
        loop.turn(calls.append)
        assert calls[:2] == [b"x", b"x"]
        assert set(calls[2:4]) == {Started(0, 1), Started(1, 1)}
        assert calls[4:] == ["timer"]
    for fd in (fd for pair in ends for fd in pair):
        os.close(fd)


def test_a_posted_event_is_handed_over_without_waiting() -> None:
    with Loop([]) as loop:
        loop.set_timer(lambda: None, 3600.0)
        loop.post(Started(0, 17))
        loop.post(Exited(0, 0))
        assert events_of(loop) == [Started(0, 17), Exited(0, 0)]


def test_a_descriptor_can_be_watched_for_reading_and_writing() -> None:
    one, other = socket.socketpair()
    seen: list[str] = []
    with Loop([]) as loop, one, other:
        loop.watch(one.fileno(), lambda: seen.append("ready"), for_both=True)
        events_of(loop)  # it can be written to
        loop.unwatch(one.fileno())
        other.send(b"x")
        loop.watch(one.fileno(), lambda: seen.append(one.recv(9).decode()))
        events_of(loop)
    assert seen == ["ready", "x"]
