"""Who was stopped itself does not believe at once what it hears when it goes on."""

from __future__ import annotations

from launcher.nodes.doubts import DOUBT_S, Doubts


def test_who_looks_at_the_clock_often_has_no_doubts() -> None:
    doubts = Doubts(6.0, 100.0)
    for step in range(1, 20):
        now = 100.0 + 3.0 * step  # as long as half of the time that makes a node a lost one
        doubts.look_at_clock(now)
        assert not doubts.last(now)


def test_who_was_stopped_doubts_for_a_while() -> None:
    doubts = Doubts(6.0, 100.0)
    doubts.look_at_clock(103.1)
    assert doubts.last(103.1)
    doubts.look_at_clock(103.2)
    assert doubts.last(103.1 + DOUBT_S - 0.01)
    assert not doubts.last(103.1 + DOUBT_S)


def test_being_stopped_again_makes_it_longer() -> None:
    doubts = Doubts(6.0, 100.0)
    doubts.look_at_clock(104.0)
    doubts.look_at_clock(108.0)
    assert doubts.last(108.0 + DOUBT_S - 0.01)


def test_a_longer_patience_takes_longer_stops() -> None:
    doubts = Doubts(60.0, 100.0)
    doubts.look_at_clock(130.0)
    assert not doubts.last(130.0)
