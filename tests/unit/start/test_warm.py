"""The supervisor's end of the fork server, with a test in place of the server."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from launcher.contract import messages
from launcher.events import Event, Exited, ForkServerLost, ForkServerUnsafe, Started, StartFailed
from launcher.plan.plan import WorkerPlan
from launcher.ranks import Place
from launcher.start import warm
from launcher.start.server import make_pair
from launcher.start.warm import WarmStarter
from launcher.system.loop import Loop


class FakeServer:
    """A fork server that is no process: the test speaks in its place, and says when it has died."""

    pid = 4711

    def __init__(self) -> None:
        self.socket, self.theirs = make_pair()
        read_end, self.writes = os.pipe()
        os.set_blocking(read_end, False)
        self.output = open(read_end, "rb", buffering=0)  # noqa: SIM115
        self.answers: socket.socket | None = None  # which comes with the first message
        self.returncode: int | None = None
        self.num_closed = 0

    def collect_exit(self) -> int | None:
        return self.returncode

    def close(self) -> None:
        self.num_closed += 1
        self.socket.close()
        self.output.close()

    def say(self, *said: messages.Message) -> None:
        for message in said:
            messages.send(self.theirs, message)

    def hear(self) -> tuple[messages.Message, list[int]]:
        received = messages.receive(self.theirs)
        assert received is not None
        return received

    def die(self, returncode: int) -> None:
        self.theirs.close()
        if self.answers is not None:
            self.answers.close()
        self.returncode = returncode

    def end(self) -> None:
        self.close()
        self.die(0)
        os.close(self.writes)


class Warm(NamedTuple):
    """A starter, its loop, and the server that is the test."""

    starter: WarmStarter
    loop: Loop
    server: FakeServer
    said: list[str]


def plan_of(rank: int) -> WorkerPlan:
    return WorkerPlan(
        place=Place("launcher", rank, rank, 2, 2),
        kind="script",
        target="train.py",
        args=("--lr", "0.1"),
        common_env={"WORLD_SIZE": "2"},
        env={"RANK": str(rank)},
        unset=("LEFT",),
        error_file=None,
        logs={},
        shown={},
        title=f"[rank {rank}/2]",
        cpus=frozenset({3, 1}),
    )


def events_of(loop: Loop) -> list[Event]:
    """Return what one turn of the loop hands over."""
    events: list[Event] = []
    loop.turn(events.append)
    return events


@pytest.fixture
def warmed() -> Iterator[Warm]:
    """A starter whose server has been told what to import, and has answered nothing yet."""
    server: Any = FakeServer()
    said: list[str] = []
    with Loop(()) as loop:
        starter = WarmStarter(loop, "mark", said.append, server)
        starter.open(plan_of(0), ["numpy"], forced=True)
        config, (fd,) = server.hear()
        assert config == messages.Configure(
            "script", "train.py", ["numpy"], True, {"WORLD_SIZE": "2"}, ["LEFT"]
        )
        server.answers = socket.socket(fileno=fd)
        yield Warm(starter, loop, server, said)
        starter.close()
    server.end()


def test_the_server_says_when_workers_may_be_started(warmed: Warm) -> None:
    assert not warmed.starter.is_ready
    warmed.server.say(messages.Ready())
    assert events_of(warmed.loop) == []
    assert warmed.starter.is_ready
    assert warmed.starter.pid == 4711


def test_the_server_says_that_it_must_not_fork(warmed: Warm) -> None:
    warmed.server.say(messages.Unsafe("a preloaded module has opened a GPU"))
    assert events_of(warmed.loop) == [ForkServerUnsafe("a preloaded module has opened a GPU")]
    assert not warmed.starter.is_ready


def test_a_worker_is_asked_for_with_its_plan_and_its_descriptors(warmed: Warm) -> None:
    assert list(warmed.starter.start(plan_of(1), (0, 1, 2))) == []
    request, descriptors = warmed.server.hear()
    assert request == messages.Start(
        local_rank=1,
        kind="script",
        target="train.py",
        args=["--lr", "0.1"],
        env={"RANK": "1"},
        unset=["LEFT"],
        error_file=None,
        title="[rank 1/2]",
        cpus=[1, 3],
    )
    assert [os.path.sameopenfile(*pair) for pair in zip(descriptors, (0, 1, 2), strict=True)] == [
        True
    ] * 3
    for descriptor in descriptors:
        os.close(descriptor)


def test_what_happens_while_an_answer_is_awaited_is_heard_at_the_next_turn(warmed: Warm) -> None:
    warmed.server.say(messages.Started(0, 70), messages.Started(1, 71))
    assert events_of(warmed.loop) == [Started(0, 70), Started(1, 71)]
    warmed.server.say(messages.Exited(70, 2, 9), messages.Exited(71, 1, 3))
    messages.send(warmed.server.answers, messages.Reaped(70, 512))
    assert warmed.starter.reap(70) == 512
    assert warmed.server.hear() == (messages.Reap(70), [])
    assert events_of(warmed.loop) == [Exited(0, -9), Exited(1, 3)]


def test_the_end_of_a_worker_that_was_given_up_is_no_event(warmed: Warm) -> None:
    """An attempt later it would be taken for the end of that attempt's worker."""
    warmed.server.say(messages.Started(0, 70), messages.Started(1, 71))
    events_of(warmed.loop)
    warmed.starter.forget(70)
    warmed.server.say(messages.Exited(70, 2, 9), messages.Exited(71, 1, 3))
    assert events_of(warmed.loop) == [Exited(1, 3)]


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(
    warmed: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "_REAP_S", 0.001)
    assert warmed.starter.reap(70) is None
    monkeypatch.undo()
    for answer in (messages.Reaped(70, 512), messages.Reaped(71, 256)):
        messages.send(warmed.server.answers, answer)
    assert warmed.starter.reap(71) == 256


def test_a_server_that_dies_over_a_question_is_not_waited_for(warmed: Warm) -> None:
    assert warmed.server.answers is not None
    warmed.server.answers.close()
    assert warmed.starter.reap(70) is None


def test_a_fork_that_the_system_refuses_is_a_failed_start_of_that_rank_only(warmed: Warm) -> None:
    warmed.server.say(messages.Started(0, 70), messages.Refused(1, errno.EAGAIN))
    started, failed = events_of(warmed.loop)
    assert started == Started(0, 70)
    assert isinstance(failed, StartFailed)
    assert (failed.local_rank, failed.exit_code, "ulimit -u" in failed.message) == (1, 126, True)


def test_what_the_server_said_before_it_died_counts(warmed: Warm) -> None:
    warmed.server.say(messages.Ready(), messages.Started(0, 70), messages.Exited(70, 1, 3))
    os.write(warmed.server.writes, b"a last word\n")
    assert warmed.starter.collect_exits() == []
    warmed.server.die(-9)
    assert warmed.starter.collect_exits() == [Started(0, 70), Exited(0, 3), ForkServerLost(-9)]
    assert warmed.said == ["a last word"]
    assert (warmed.starter.pid, warmed.starter.is_ready) == (0, False)
    assert warmed.starter.collect_exits() == []
    assert warmed.starter.reap(70) is None
    assert warmed.starter.start(plan_of(0), ()) == [StartFailed(0, "the fork server has gone", 1)]


def test_a_server_that_has_gone_does_not_wake_the_loop_again_and_again(warmed: Warm) -> None:
    warmed.server.theirs.close()
    assert events_of(warmed.loop) == []
    is_later: list[bool] = []
    warmed.loop.set_timer(lambda: is_later.append(True), 0.001)
    assert events_of(warmed.loop) == []
    assert is_later
    assert warmed.starter.reap(70) is None


def test_the_output_of_an_import_is_said_line_by_line(warmed: Warm) -> None:
    os.write(warmed.server.writes, b"a warning\nand ")
    assert events_of(warmed.loop) == []
    assert warmed.said == ["a warning"]


def test_a_server_that_died_before_it_was_asked_for_anything_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dead: Any = FakeServer()
    made: list[FakeServer] = []
    dead.die(1)
    monkeypatch.setattr(warm, "ServerProcess", lambda mark: made.append(FakeServer()) or made[-1])
    with Loop(()) as loop:
        starter = WarmStarter(loop, "mark", [].append, dead)
        starter.open(plan_of(0), [], forced=False)
        assert isinstance(made[0].hear()[0], messages.Configure)
        starter.close()
        starter.close()
    assert made[0].num_closed == 1
    for server in (dead, *made):
        server.end()
