"""Before an attempt: the pause after a failure, and the fork server that imports its modules."""

from __future__ import annotations

import signal

import pytest

from launcher.attempt.waiting import WaitingRoom
from launcher.events import (
    ChildrenChanged,
    Event,
    ForkServerLost,
    ForkServerUnsafe,
    Signalled,
    TaskLost,
    TaskSignalled,
)
from launcher.start.spawn import SpawnStarter
from launcher.start.starter import Starter
from tests.unit.attempt.fakes import Stage, Step, plan

PAUSE_S = 10.0


def wait(stage: Stage, pause_s: float = 0.0) -> Starter:
    starter = WaitingRoom(plan(), stage.starter, stage.node).wait(pause_s)
    assert stage.loop.timers == {}
    return starter


def become_ready(stage: Stage) -> Step:
    """A turn of the loop in which the fork server says that it is ready."""

    def ready() -> None:
        stage.starter.is_ready = True

    return ready


def test_with_nothing_to_wait_for_no_time_passes_and_no_event_is_taken() -> None:
    stage = Stage([Signalled(signal.SIGTERM)])
    assert wait(stage) is stage.starter
    assert stage.loop.history and stage.loop.now == 0


def test_it_waits_for_the_pause_and_for_the_fork_server_whichever_is_longer() -> None:
    stage = Stage(is_ready=False)
    stage.loop.history = [3.0, become_ready(stage)]
    assert wait(stage, PAUSE_S) is stage.starter
    assert stage.loop.now == PAUSE_S
    stage = Stage(is_ready=False)
    stage.loop.history = [30.0, become_ready(stage)]
    assert wait(stage, PAUSE_S) is stage.starter
    assert stage.loop.now == 30.0


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([ForkServerUnsafe("a module has started threads")], "a module has started threads"),
        (
            [ForkServerLost(-11)],
            "the fork server died while it imported modules, killed by SIGSEGV",
        ),
        ([ForkServerUnsafe("threads"), ForkServerLost(0)], "threads"),
    ],
)
def test_without_a_fork_server_each_rank_gets_an_interpreter(
    events: list[Event], reason: str
) -> None:
    stage = Stage([lambda: events], is_ready=False)
    starter = wait(stage)
    assert isinstance(starter, SpawnStarter)
    assert stage.starter.calls == ["close"]
    (said,) = stage.console.said
    assert said.startswith(f"starting each rank with its own interpreter (--start spawn): {reason}")


def test_a_fork_server_that_cannot_be_used_does_not_shorten_the_pause() -> None:
    stage = Stage([ForkServerUnsafe("threads")], is_ready=False)
    wait(stage, PAUSE_S)
    assert stage.loop.now == PAUSE_S


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("pause_s", [0.0, PAUSE_S], ids=["importing", "pausing"])
def test_a_signal_is_said_and_ends_the_wait(signum: signal.Signals, pause_s: float) -> None:
    stage = Stage([Signalled(signum)], is_ready=bool(pause_s))
    wait(stage, pause_s)
    assert stage.stop_request.signum == signum
    assert stage.console.said == [f"received {signum.name}; stopping, a second one forces"]
    assert stage.loop.now == 0


@pytest.mark.parametrize(
    ("event", "calls"),
    [
        (Signalled(signal.SIGUSR1), []),
        (Signalled(signal.SIGUSR2), []),
        (Signalled(signal.SIGTSTP), ["stop ourselves"]),
        (ChildrenChanged(), []),
    ],
)
def test_nothing_else_ends_it(event: Event, calls: list[str]) -> None:
    stage = Stage([event])
    wait(stage, PAUSE_S)
    assert stage.loop.now == PAUSE_S
    assert stage.kernel.calls == calls
    assert stage.stop_request.signum is None
    assert not stage.console.said


@pytest.mark.parametrize("pause_s", [0.0, PAUSE_S], ids=["importing", "pausing"])
def test_a_stop_that_an_engine_sends_to_all_its_processes_is_one(pause_s: float) -> None:
    told = [TaskSignalled(local_rank, signal.SIGTERM) for local_rank in (0, 1)]
    stage = Stage([lambda: told], is_ready=bool(pause_s), tasks=2)
    wait(stage, pause_s)
    assert stage.stop_request.signum == signal.SIGTERM
    assert stage.console.said == ["received SIGTERM; stopping, a second one forces"]
    assert stage.loop.now == 0


def test_without_any_process_of_the_engine_nobody_needs_the_ranks() -> None:
    stage = Stage(is_ready=False, tasks=2)
    stage.loop.history = [lambda: stage.crew.lose(1), lambda: stage.crew.lose(0)]
    wait(stage)
    assert stage.stop_request.signum == signal.SIGTERM


@pytest.mark.parametrize("event", [TaskSignalled(0, signal.SIGUSR1), TaskLost(0)])
def test_what_concerns_one_rank_alone_does_not_end_the_wait_of_all(event: Event) -> None:
    stage = Stage([event], tasks=2)
    wait(stage, PAUSE_S)
    assert stage.loop.now == PAUSE_S
    assert stage.stop_request.signum is None


def test_the_end_of_a_fork_server_is_heard_of_when_children_change() -> None:
    stage = Stage([ChildrenChanged()], is_ready=False)
    stage.starter.exits = [ForkServerLost(-signal.SIGKILL)]
    assert isinstance(wait(stage), SpawnStarter)


def test_meanwhile_the_workers_are_shown_as_starting() -> None:
    stage = Stage()
    room = WaitingRoom(plan(2), stage.starter, stage.node)
    assert [row.state for row in room.status()] == ["starting", "starting"]
    assert room.stacks() == ""
