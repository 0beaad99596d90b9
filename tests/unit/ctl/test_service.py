"""A run's answers, with a test as the caller and as the attempt that is under way."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.attempt.worker import WorkerStatus
from launcher.ctl import messages
from launcher.ctl.service import MOST_LOGS_BYTES, ControlSocket, make_name_prefix, make_socket_name
from launcher.events import Event, Signalled
from launcher.stats.figures import NodeUse, RankUse, Sample
from launcher.system.loop import Loop


class FakeGroup:
    """An attempt that has one rank."""

    plan = SimpleNamespace(attempt=2, paths=None)

    def __init__(self) -> None:
        self.signals: list[int] = []

    def status(self) -> list[WorkerStatus]:
        return [WorkerStatus(0, 18, "running", None)]

    def stacks(self) -> str:
        return "rank 0: is at train.py:3"

    def signal_all(self, signum: int) -> None:
        self.signals.append(signum)


Ask = Callable[[bytes], tuple[Any, list[Event]]]


@pytest.fixture
def control() -> Iterator[ControlSocket]:
    """The ear of a run that has no attempt yet."""
    facts: Any = SimpleNamespace(mark=os.urandom(8).hex(), run_id="20260101-a1")
    spec: Any = SimpleNamespace(script="train.py", script_args=("--lr", "0.1"))
    with Loop(()) as loop, ControlSocket(loop, facts, spec) as control:
        control.loop, control.name = loop, make_socket_name(os.getuid(), facts.mark)  # type: ignore[attr-defined]
        yield control


@pytest.fixture
def ask(control: Any) -> Ask:
    """Send this to the run; returns its answer (None: it hangs up) and the events that came."""

    def call(data: bytes) -> tuple[Any, list[Event]]:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(5)
            caller.connect("\0" + control.name)
            caller.sendall(data)
            caller.shutdown(socket.SHUT_WR)
            events: list[Event] = []
            control.loop.turn(events.append)
            answer = caller.makefile("rb").read()
        return messages.decode(answer) if answer else None, events

    return call


def test_a_little_of_the_log_files_is_given_at_a_time(
    control: Any, ask: Ask, tmp_path: Path
) -> None:
    question = messages.AskLogs((0,), ".", {}, 1 << 40)
    assert ask(messages.encode(question))[0] == messages.Logs()
    control.group = FakeGroup()
    assert ask(messages.encode(question))[0] == messages.Logs()
    control.group.plan = SimpleNamespace(paths=SimpleNamespace(logs=str(tmp_path)))
    (tmp_path / "rank_00.out").write_bytes(b"a" * (1 << 20))
    (tmp_path / "rank_01.out").write_bytes(b"of another")
    answer, _ = ask(messages.encode(question))
    (part,) = answer.parts
    assert (part.name, part.offset, answer.folders) == ("rank_00.out", 0, (".",))
    assert part.data == b"a" * MOST_LOGS_BYTES
    nonsense = messages.AskLogs((0,), "../..", {"rank_00.out": 5}, 100)
    assert ask(messages.encode(nonsense))[0].parts == ()


def test_status_tells_of_the_run_and_its_ranks(control: Any, ask: Ask) -> None:
    before, events = ask(messages.encode(messages.AskStatus()))
    assert (before.run_id, before.pid, before.script) == (
        "20260101-a1",
        os.getpid(),
        "train.py --lr 0.1",
    )
    assert (before.attempt, before.workers, events) == (0, (), [])
    control.group = FakeGroup()
    later, _ = ask(messages.encode(messages.AskStatus()))
    assert later.attempt == 2
    assert later.workers == (messages.WorkerStatus(0, 18, "running", None),)
    assert later.age_s >= before.age_s


def test_stacks_are_those_of_the_attempt(control: Any, ask: Ask) -> None:
    assert ask(messages.encode(messages.AskStacks())) == (messages.Done(""), [])
    control.group = FakeGroup()
    assert ask(messages.encode(messages.AskStacks()))[0].text == "rank 0: is at train.py:3"


def test_stop_is_a_sigterm_to_the_run(ask: Ask) -> None:
    stop = messages.encode(messages.Stop())
    assert ask(stop) == (messages.Done(), [Signalled(signal.SIGTERM)])


def test_a_signal_goes_to_the_ranks_once_there_are_any(control: Any, ask: Ask) -> None:
    send = messages.encode(messages.SendSignal(signal.SIGUSR1))
    assert ask(send) == (messages.Refused("there are no ranks yet"), [])
    control.group = FakeGroup()
    assert ask(send) == (messages.Done(), [])
    assert control.group.signals == [signal.SIGUSR1]


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"stop\n", b"[" * 60_000, b"x" * 70_000, b'{"type": "signal"}\n']
)
def test_who_says_nothing_that_makes_sense_gets_no_answer(ask: Ask, data: bytes) -> None:
    try:
        answer = ask(data)
    except ConnectionError:
        return  # the run has hung up before it was told all
    assert answer == (None, [])


def test_an_answer_is_no_request(ask: Ask) -> None:
    answer = ask(messages.encode(messages.Done()))
    assert answer == (None, [])


def test_root_sees_the_runs_of_everybody_and_others_their_own() -> None:
    assert all(make_socket_name(uid, "a1").startswith(make_name_prefix(0)) for uid in (0, 7, 70))
    assert make_socket_name(7, "a1").startswith(make_name_prefix(7))
    assert not make_socket_name(70, "a1").startswith(make_name_prefix(7))


class FakePeers:
    """Takes down what all nodes are told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, bool]] = []

    def report_signal(self, signum: int, *, is_for_all: bool = False) -> None:
        self.told.append((signum, is_for_all))


def test_orders_of_who_has_started_all_nodes_are_for_all_of_them(control: Any) -> None:
    read_end, write_end = os.pipe()
    control.take_orders(read_end)
    control.peers = peers = FakePeers()
    os.write(write_end, b"signal 10\nstop 2\n")
    events: list[Event] = []
    control.loop.turn(events.append)
    assert events == [Signalled(signal.SIGUSR1), Signalled(signal.SIGINT)]
    assert peers.told == [(signal.SIGINT, True)]
    os.close(write_end)
    control.loop.turn(events.append)  # its end is noticed, and asks for nothing
    assert len(events) == 2
    os.close(read_end)


def test_figures_are_those_of_the_ranks_of_this_node(control: Any, ask: Ask) -> None:
    node = NodeUse("here", 0.5, 2, 10, 100, 0, 50)
    ranks = tuple(
        RankUse(
            rank, 18 + rank, 1.0, 0.5, 300, None, 400, 1, 1, 0, 0, steps=9, steps_per_s=3.0 - rank
        )
        for rank in range(2)
    )
    sample = Sample(1.5, 0, node, ranks)
    control.group = FakeGroup()
    assert ask(messages.encode(messages.AskUse()))[0] == messages.Use(())
    control.sampling = SimpleNamespace(latest=lambda: sample)
    assert ask(messages.encode(messages.AskUse()))[0] == messages.Use((sample,))
    status, _ = ask(messages.encode(messages.AskStatus()))
    assert (status.memory, status.steps_per_s) == (600, 2.0)
