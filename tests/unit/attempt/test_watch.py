"""Looking for a hang: the timer, the warning, what Horovod says, on a clock that the test turns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

from launcher.attempt.watch import Watch
from launcher.diagnosis.hang import WARN_AFTER_S, Hang
from tests.unit.attempt.fakes import FakeLoop


class Watching(NamedTuple):
    watch: Watch
    loop: FakeLoop
    pipes: Any
    said: list[str]
    hangs: list[Hang]

    def go_to(self, moment: float) -> None:
        while self.loop.now < moment:
            self.loop.turn(lambda event: None)


def watch(timeout_s: float) -> Watching:
    """Watch an attempt of which no worker is running."""
    loop, pipes = FakeLoop(), SimpleNamespace(bytes_seen=0)
    said: list[str] = []
    hangs: list[Hang] = []
    watcher = Watch([], pipes, loop, timeout_s, said.append, hangs.append)  # type: ignore[arg-type]
    watcher.begin()
    return Watching(watcher, loop, pipes, said, hangs)


def test_without_a_timeout_there_is_one_warning_after_five_minutes() -> None:
    watching = watch(0.0)
    watching.go_to(WARN_AFTER_S - 1)
    assert not watching.said
    watching.go_to(WARN_AFTER_S + 60)
    assert watching.said[0].startswith("nothing has moved for 300 s (no output, no CPU time):")
    watching.go_to(1200)
    assert len(watching.said) == 1
    watching.pipes.bytes_seen = 1  # it moved, and then stands still again
    watching.go_to(2000)
    assert len(watching.said) == 2
    assert not watching.hangs


def test_with_a_timeout_it_is_a_hang_in_time_and_never_a_warning() -> None:
    watching = watch(600.0)
    watching.go_to(605)
    assert 600 <= watching.hangs[0].still_s <= 605
    assert not watching.said


def test_time_in_which_we_were_frozen_together_with_the_workers_is_no_hang() -> None:
    watching = watch(10.0)
    watching.go_to(5)
    watching.loop.history.append(1000.0)
    watching.go_to(1014)
    assert not watching.hangs
    watching.go_to(1017)
    assert watching.hangs[0].still_s < 11


def test_once_it_has_ended_nobody_looks() -> None:
    watching = watch(10.0)
    watching.watch.end()
    assert watching.loop.timers == {}


STALL = (
    b"[W horovod/common/stall_inspector.cc:107] ... are waiting for remainder of ranks for more"
    b" than 10 seconds. ... \nMissing ranks:\n1: [allreduce.loss]\n"
)


def hear_at(watching: Watching, moment: float) -> None:
    watching.loop.now = moment
    watching.watch.hear(0, STALL)


def test_a_stall_that_horovod_tells_of_is_a_hang_once_it_has_lasted_for_the_timeout() -> None:
    watching = watch(30.0)
    for moment in (10, 20):
        hear_at(watching, moment)
        assert not watching.hangs
    hear_at(watching, 30)
    (hang,) = watching.hangs
    assert (hang.still_s, hang.odd_rank) == (30, 1)
    assert hang.summary() == "Horovod has waited for 30 s for rank 1 in allreduce.loss"
    assert not watching.said


def test_a_stall_is_warned_of_once_without_a_timeout() -> None:
    watching = watch(0.0)
    warnings = []
    for moment in (10, 20, 30, 100, 110):
        hear_at(watching, moment)
        warnings.append(len(watching.said))
    assert warnings == [1, 1, 1, 2, 2]
    assert watching.said[0].startswith("Horovod has waited for 10 s for rank 1 in allreduce.loss:")
    assert not watching.hangs
