"""The pipes of workers, where each worker has a console of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from launcher.output.fold import Fold
from launcher.output.pipes import WorkerPipes
from launcher.plan.plan import LaunchPlan
from launcher.plan.task import Task
from launcher.system.inheritance import Inheritance
from tests.unit.attempt import fakes


class Console(fakes.FakeConsole):
    """A console whose reader is slow when the test says so."""

    stalled_s = 0.0
    is_skipping = False

    def start_skipping(self) -> None:
        self.is_skipping = True
        self.full, self.has_room = False, True


class TerminalConsole(Console):
    """One that is a terminal, and keeps what is live on it."""

    asking_rank = -1

    def __init__(self) -> None:
        super().__init__()
        self.live: list[bytes] = []

    def is_tty(self, stream: str) -> bool:
        return True

    def size(self, stream: str) -> tuple[int, int]:
        return 80, 24

    def show_live(self, rank: int, stream: str, rows: list[bytes], cursor: object) -> None:
        self.live = rows

    def end_live(self, rank: int, stream: str) -> None:
        if stream == "err":
            self.live = []


class Desk(NamedTuple):
    loop: fakes.FakeLoop
    consoles: tuple[Console, ...]
    pipes: WorkerPipes
    # Of each worker: its stdin, stdout and stderr.
    streams: list[list[int]]

    def write(self, local_rank: int, text: bytes) -> None:
        os.write(self.streams[local_rank][1], text)

    def shown(self) -> list[bytes]:
        """Let everything be read that may be; return what each console has shown."""
        self.loop.read_all()
        return [b"".join(console.shown) for console in self.consoles]


def plan_of(num_workers: int, with_tasks: bool, **options: Any) -> LaunchPlan:
    plan = fakes.plan(num_workers, **options)
    if not with_tasks:
        return plan
    inherited = Inheritance(0o22, 0, (), (), ())
    tasks = [Task(w.place, (), {}, inherited, (0, 1, 2), ()) for w in plan.workers]
    workers = [w._replace(task=task) for w, task in zip(plan.workers, tasks, strict=True)]
    return plan._replace(workers=tuple(workers))


def open_desk(num_consoles: int, *, with_tasks: bool = True, **options: Any) -> Iterator[Desk]:
    loop: Any = fakes.FakeLoop()
    consoles: Any = tuple(Console() for _ in range(num_consoles))
    plan = plan_of(3, with_tasks, **options)
    with WorkerPipes(plan, loop, consoles) as pipes:
        streams = [pipes.open(worker) for worker in plan.workers]
        yield Desk(loop, consoles, pipes, streams)
        for fd in (fd for descriptors in streams for fd in descriptors):
            os.close(fd)
    assert loop.readers == {} and loop.timers == {}


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Three workers of an engine, each with a console."""
    yield from open_desk(3)


def test_each_worker_writes_on_its_own_console_and_without_a_prefix(desk: Desk) -> None:
    for rank in range(3):
        desk.write(rank, b"line %d\nunfinished" % rank)
    assert desk.shown() == [b"line 0\n", b"line 1\n", b"line 2\n"]


@pytest.fixture
def templated() -> Iterator[Desk]:
    """The same, with a template for the beginning of lines."""
    yield from open_desk(3, log_line_prefix_template="${rank}: ")


def test_a_prefix_that_is_asked_for_is_there(templated: Desk) -> None:
    templated.write(1, b"a\nb\n")
    assert templated.shown() == [b"", b"1: a\n1: b\n", b""]


@pytest.fixture
def shared() -> Iterator[Desk]:
    """Three workers of our own, which share one console."""
    yield from open_desk(1, with_tasks=False)


def test_one_full_console_holds_back_its_own_worker_alone(desk: Desk) -> None:
    slow = desk.consoles[1]
    slow.full, slow.has_room = True, False
    desk.write(1, b"first\n")
    assert desk.shown()[1] == b"first\n"
    for rank in range(3):
        desk.write(rank, b"then\n")
    assert desk.shown() == [b"then\n", b"first\n", b"then\n"]
    desk.pipes.resume_if_possible()
    assert desk.shown()[1] == b"first\n"
    slow.full, slow.has_room = False, True
    desk.pipes.resume_if_possible()
    assert desk.shown()[1] == b"first\nthen\n"
    assert desk.loop.timers == {}


def test_a_shared_console_that_is_full_holds_all_back(shared: Desk) -> None:
    (slow,) = shared.consoles
    slow.full, slow.has_room = True, False
    shared.write(1, b"first\n")
    shared.shown()
    for rank in range(3):
        shared.write(rank, b"then\n")
    assert shared.shown() == [b"[1] first\n"]
    slow.full, slow.has_room = False, True
    shared.pipes.resume_if_possible()
    assert shared.shown()[0].count(b"then\n") == 3


def test_two_full_consoles_are_two(desk: Desk) -> None:
    for rank in (0, 2):
        desk.consoles[rank].full, desk.consoles[rank].has_room = True, False
        desk.write(rank, b"first\n")
    desk.shown()
    for rank in (0, 2):
        desk.write(rank, b"then\n")
    desk.consoles[2].full, desk.consoles[2].has_room = False, True
    desk.pipes.resume_if_possible()
    assert desk.shown() == [b"first\n", b"", b"first\nthen\n"]
    assert desk.loop.timers != {}


def test_lines_are_skipped_on_the_console_alone_that_has_long_been_full(desk: Desk) -> None:
    for rank, stalled_s in ((0, 100.0), (1, 0.0)):
        console = desk.consoles[rank]
        console.full, console.has_room, console.stalled_s = True, False, stalled_s
        desk.write(rank, b"first\n")
    desk.shown()
    desk.loop.turn(lambda event: None)  # time passes until somebody looks
    assert [console.is_skipping for console in desk.consoles] == [True, False, False]
    desk.write(0, b"then\n")
    desk.pipes.resume_if_possible()
    assert desk.shown()[0] == b"first\nthen\n"


def test_what_a_held_back_worker_has_left_is_taken_when_it_has_ended(desk: Desk) -> None:
    desk.consoles[1].full, desk.consoles[1].has_room = True, False
    desk.write(1, b"first\n")
    desk.shown()
    desk.write(1, b"last\n")
    desk.pipes.drain(1)
    assert desk.shown()[1] == b"first\nlast\n"


def test_while_one_writes_a_long_line_nobody_else_is_read(shared: Desk) -> None:
    part = b"x" * 100_000
    while shared.consoles[0].claimant is None:
        shared.write(1, part)
        shared.shown()
    for rank in (0, 2):
        shared.write(rank, b"short\n")
    shared.write(1, part)
    assert b"short" not in shared.shown()[0]
    shared.write(1, b"end\n")
    (shown,) = shared.shown()
    (shown,) = shared.shown()
    assert shown.startswith(b"[1] xxx")
    assert shown.index(b"end\n") < shown.index(b"] short\n")
    assert shown.count(b"short\n") == 2


def test_a_long_line_that_stands_still_lets_the_others_go_on(
    shared: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    while shared.consoles[0].claimant is None:
        shared.write(1, b"x" * 100_000)
        shared.shown()
    shared.write(0, b"short\n")
    assert b"short" not in shared.shown()[0]
    later = time.monotonic() + 5
    monkeypatch.setattr(time, "monotonic", lambda: later)
    shared.loop.turn(lambda event: None)
    shared.loop.turn(lambda event: None)
    assert shared.shown()[0].endswith(b"[0] short\n")


def test_a_worker_reads_what_its_engine_has_given_to_its_process() -> None:
    read_end, write_end = os.pipe()
    plan = plan_of(1, True)
    (worker,) = plan.workers
    assert worker.task is not None
    worker = worker._replace(task=worker.task._replace(streams=(read_end, 1, 2)))
    loop: Any = fakes.FakeLoop()
    console: Any = Console()
    with WorkerPipes(plan, loop, (console,)) as pipes:
        descriptors = pipes.open(worker)
        os.write(write_end, b"typed\n")
        assert os.read(descriptors[0], 100) == b"typed\n"
        for fd in (*descriptors, read_end, write_end):
            os.close(fd)


@pytest.mark.parametrize("rest", [b"", b"\n"])
def test_bars_go_when_the_other_stream_is_written_unless_the_cursor_comes_back(rest: bytes) -> None:
    """A read may end between a newline and what leads the cursor back."""
    loop: Any = fakes.FakeLoop()
    console: Any = TerminalConsole()
    plan = plan_of(1, False)
    with WorkerPipes(plan, loop, (console,)) as pipes:
        descriptors = pipes.open(plan.workers[0])
        _, out, err = descriptors
        os.write(err, b"\router 50%\n")
        loop.read_all()
        assert console.live == [b"[0] outer 50%", b"[0] "]
        os.write(err, b"\rinner 10%" + (rest or b"\x1b[A"))
        os.write(out, b"saved\n")
        loop.read_all()  # stdout comes first
        bars = [b"[0] outer 50%", b"[0] inner 10%"]
        shown = b"".join(console.shown).splitlines()
        assert (shown, console.live) == (
            (bars + [b"[0] saved"], []) if rest else ([b"[0] saved"], bars)
        )
        for fd in descriptors:
            os.close(fd)


@pytest.mark.parametrize(
    ("options", "hostname_width", "prefix"),
    [
        ({}, 0, b"[0-1] "),
        ({}, 6, b"[  here:0-1] "),
        ({"log_line_prefix_template": "$hostname/$rank/$local_rank> "}, 6, b"here/0-1/0-1> "),
    ],
)
def test_a_line_of_several_ranks_begins_as_their_own_do(
    options: dict[str, Any], hostname_width: int, prefix: bytes
) -> None:
    plan = plan_of(3, False, **options)
    plan = plan._replace(assignment=plan.assignment._replace(hostname_width=hostname_width))
    loop: Any = fakes.FakeLoop()
    console: Any = Console()
    console.fold = Fold(loop, console.show, 3)
    with WorkerPipes(plan, loop, (console,)):
        for rank in range(2):
            console.fold.take(rank, "out", b"a prefix", b"text\n")
        console.fold.flush()
    assert console.shown == [prefix + b"text\n"]
