"""Lines of several ranks that are shown once; the loop and its clock are the test's."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.output.fold import WAIT_S, Fold
from tests.unit.attempt.fakes import FakeLoop


class Screen:
    """A fold, and what it has shown."""

    def __init__(self, num_ranks: int) -> None:
        self.loop = FakeLoop()
        loop: Any = self.loop
        self.blocks: list[tuple[str, bytes]] = []
        self.fold = Fold(loop, lambda stream, block: self.blocks.append((stream, block)), num_ranks)

    def take(self, rank: int, text: bytes, stream: str = "out") -> None:
        self.fold.take(rank, stream, b"[%d] " % rank, text)

    def shown(self) -> bytes:
        """Return what was shown by now, both streams."""
        return b"".join(block for _, block in self.blocks)


@pytest.fixture
def screen() -> Screen:
    return Screen(4)


def test_a_line_of_all_ranks_is_shown_once_and_at_once(screen: Screen) -> None:
    for rank in range(4):
        assert screen.shown() == b""
        screen.take(rank, b"epoch 1\n")
    assert screen.shown() == b"[0-3] epoch 1\n"
    assert screen.loop.timers == {}


def test_a_line_of_some_ranks_waits_for_the_others_but_not_long(screen: Screen) -> None:
    for rank in (0, 1, 3):
        screen.take(rank, b"epoch 1\n")
    (wait_s,) = screen.loop.timers.values()
    assert wait_s == WAIT_S
    screen.loop.turn(lambda event: None)
    assert screen.shown() == b"[0-1,3] epoch 1\n"


def test_a_line_of_one_rank_has_its_own_prefix(screen: Screen) -> None:
    screen.take(2, b"loss 0.5\n")
    screen.fold.flush()
    assert screen.shown() == b"[2] loss 0.5\n"


def test_the_order_within_a_rank_is_kept(screen: Screen) -> None:
    screen.take(0, b"a\nb\n")
    screen.take(1, b"b\na\nb\n")
    screen.fold.flush()
    assert screen.shown() == b"[0] a\n[0-1] b\n[1] a\n[1] b\n"


def test_the_same_line_twice_is_shown_twice(screen: Screen) -> None:
    for rank in range(4):
        screen.take(rank, b"same\nsame\n")
    assert screen.shown() == b"[0-3] same\n[0-3] same\n"


def test_a_whole_line_waits_for_the_one_before_it(screen: Screen) -> None:
    screen.take(0, b"alone\nall\n")
    for rank in (1, 2, 3):
        screen.take(rank, b"all\n")
    assert screen.shown() == b""
    screen.fold.flush()
    assert screen.shown() == b"[0] alone\n[0-3] all\n"


def test_the_streams_stay_apart_and_in_order(screen: Screen) -> None:
    for rank in range(4):
        screen.take(rank, b"x\n")
        screen.take(rank, b"x\n", "err")
    assert screen.blocks == [("out", b"[0-3] x\n"), ("err", b"[0-3] x\n")]


def test_who_wants_no_prefix_gets_none(screen: Screen) -> None:
    for rank in range(4):
        screen.fold.take(rank, "out", b"", b"x\n")
    assert screen.shown() == b"x\n"


def test_a_flood_waits_for_nobody(screen: Screen) -> None:
    screen.take(0, b"".join(b"%d\n" % number for number in range(20_000)))
    assert screen.shown().count(b"\n") == 20_000
    assert screen.loop.timers == {}


def test_lines_that_come_later_get_their_own_time(screen: Screen) -> None:
    screen.take(0, b"first\n")
    screen.loop.now = 0.1
    screen.take(1, b"second\n")
    screen.loop.turn(lambda event: None)
    assert screen.shown() == b"[0] first\n"
    screen.loop.turn(lambda event: None)
    assert screen.shown() == b"[0] first\n[1] second\n"
    assert screen.loop.now == pytest.approx(0.1 + WAIT_S)


def test_thousands_of_equal_lines_are_paired_in_their_order(screen: Screen) -> None:
    block = b"\n" * 9000
    for rank in range(3):
        screen.take(rank, block)
    screen.take(3, b"\nend\n")
    screen.fold.flush()
    expected = b"[0-3] \n" + b"[0-2] \n" * 8999 + b"[3] end\n"
    assert screen.shown() == expected
