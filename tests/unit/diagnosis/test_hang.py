"""When nothing moves: decided from measurements and a clock that the test turns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from launcher.attempt.watch import HANG_TIMER, Diagnostics
from launcher.diagnosis.hang import WARN_AFTER_S, HangWatch, Progress, look_interval_s
from launcher.events import Output


def test_nothing_has_moved_since_the_last_progress() -> None:
    watch = HangWatch(100.0, 4)
    assert watch.still_for(Progress(0, 1.0, None), 101.0) == 0
    assert watch.still_for(Progress(0, 1.0, None), 105.0) == 4
    assert watch.still_for(Progress(0, 1.0, None), 111.0) == 10


def test_output_is_progress() -> None:
    watch = HangWatch(0.0, 1)
    watch.still_for(Progress(10, 1.0, None), 0.0)
    assert watch.still_for(Progress(11, 1.0, None), 5.0) == 0
    assert watch.still_for(Progress(11, 1.0, None), 6.0) == 1


def test_cpu_time_is_progress_but_the_little_that_waiting_takes_is_not() -> None:
    watch = HangWatch(0.0, 2)
    watch.still_for(Progress(0, 1.0, None), 0.0)
    assert watch.still_for(Progress(0, 1.2, None), 10.0) == 10  # 1 % of a CPU per rank
    assert watch.still_for(Progress(0, 3.0, None), 20.0) == 0


def test_process_that_has_ended_is_progress() -> None:
    watch = HangWatch(0.0, 2)
    watch.still_for(Progress(0, 9.0, None), 0.0)
    assert watch.still_for(Progress(0, 4.0, None), 10.0) == 0


def test_heartbeat_replaces_output_and_cpu_time() -> None:
    watch = HangWatch(0.0, 2)
    assert watch.still_for(Progress(0, 1.0, 2.5), 1.0) == 2.5
    assert watch.still_for(Progress(99, 9.0, 12.5), 2.0) == 12.5


def test_time_in_which_the_job_was_stopped_does_not_count() -> None:
    watch = HangWatch(0.0, 2)
    watch.still_for(Progress(0, 1.0, None), 0.0)
    watch.restart(1000.0)
    assert watch.still_for(Progress(0, 1.0, None), 1001.0) == 0


@pytest.mark.parametrize(
    ("timeout_s", "interval_s"), [(0, 60.0), (0.5, 0.1), (10, 1.0), (600, 5.0)]
)
def test_it_looks_often_enough_to_be_in_time(timeout_s: float, interval_s: float) -> None:
    assert look_interval_s(timeout_s) == interval_s


class FakeLoop:
    def __init__(self) -> None:
        self.now = 0.0
        self.timers: dict[str, float] = {}

    def clock(self) -> float:
        return self.now

    def set_timer(self, name: str, delay_s: float) -> None:
        self.timers[name] = self.now + delay_s

    def cancel_timer(self, name: str) -> None:
        self.timers.pop(name, None)

    def turn(self) -> None:
        """Go on to the moment at which the timer fires."""
        self.now = self.timers.pop(HANG_TIMER)


def make(timeout_s: float) -> tuple[Diagnostics, FakeLoop, Any, list[str]]:
    loop, pipes, said = FakeLoop(), SimpleNamespace(bytes_seen=0), []
    diagnostics = Diagnostics([], pipes, loop, timeout_s, said.append)  # type: ignore[arg-type]
    diagnostics.begin()
    return diagnostics, loop, pipes, said


def test_without_a_timeout_there_is_one_warning_after_five_minutes() -> None:
    diagnostics, loop, pipes, said = make(0.0)
    while not said:
        loop.turn()
        assert diagnostics.look() is None
    assert WARN_AFTER_S <= loop.now <= WARN_AFTER_S + 60
    assert said[0].startswith("nothing has moved for 300 s (no output, no CPU time):")
    while loop.now < 1200:
        loop.turn()
        diagnostics.look()
    assert len(said) == 1
    pipes.bytes_seen = 1  # it moved, and then stands still again
    while loop.now < 2000:
        loop.turn()
        diagnostics.look()
    assert len(said) == 2


def test_with_a_timeout_it_is_a_hang_in_time_and_never_a_warning() -> None:
    diagnostics, loop, _, said = make(600.0)
    hang = None
    while hang is None:
        loop.turn()
        hang = diagnostics.look()
    assert 600 <= hang.still_s <= 605
    assert not said


STALL = (
    b"[W horovod/common/stall_inspector.cc:107] ... are waiting for remainder of ranks for more"
    b" than 10 seconds. ... \nMissing ranks:\n1: [allreduce.loss]\n"
)


def hear_at(
    diagnostics: Diagnostics, loop: FakeLoop, now: float, stream: str = "err"
) -> float | None:
    """Return for how long the stall has lasted that is a hang."""
    loop.now = now
    hang = diagnostics.hear(Output(0, stream, STALL))
    return hang.still_s if hang else None


def test_a_stall_that_horovod_tells_of_is_a_hang_once_it_has_lasted_for_the_timeout() -> None:
    diagnostics, loop, _, said = make(30.0)
    assert [hear_at(diagnostics, loop, now) for now in (10, 20, 30)] == [None, None, 30]
    assert not said


def test_a_stall_is_warned_of_once_without_a_timeout() -> None:
    diagnostics, loop, _, said = make(0.0)
    warnings = []
    for now in (10, 20, 30, 100, 110):
        assert hear_at(diagnostics, loop, now) is None
        warnings.append(len(said))
    assert warnings == [1, 1, 1, 2, 2]
    assert said[0].startswith("Horovod has waited for 10 s for rank 1 in allreduce.loss:")


def test_the_words_of_a_stall_on_stdout_are_a_scripts_own() -> None:
    diagnostics, loop, _, said = make(1.0)
    assert hear_at(diagnostics, loop, 1.0, "out") is None
    assert not said
