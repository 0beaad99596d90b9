"""Who is here, and which rank each of them would have."""

from __future__ import annotations

import pytest

from launcher.diagnosis.outcome import AttemptOutcome
from launcher.nodes.messages import Join
from launcher.nodes.roster import Roster
from launcher.nodes.rules import Route
from tests.unit.nodes.coming import make_join, make_roster, route_to, seat


def add(roster: Roster, key: int, name: str = "", **fields: object) -> None:
    roster.add(key, make_join(name or f"h{key}", **fields), route_to(key), 0.0)


def next_ranks(roster: Roster) -> list[int]:
    """Return the keys in the order of the next ranks."""
    return [key for key, _ in roster.rank_next()]


def test_nodes_have_ranks_in_the_order_in_which_they_come() -> None:
    roster, _ = make_roster("a", "b", "c")
    assert next_ranks(roster) == [0, 1, 2]


def test_ranks_that_are_given_hold_and_the_others_fill_the_gaps() -> None:
    roster = Roster(6.0, 0.0)
    add(roster, 0, node_rank=2)
    add(roster, 1)
    add(roster, 2, node_rank=0)
    add(roster, 3)
    assert next_ranks(roster) == [2, 1, 0, 3]


def test_a_given_rank_beyond_the_nodes_that_are_here_comes_last() -> None:
    roster = Roster(6.0, 0.0)
    add(roster, 0, node_rank=7)
    add(roster, 1, node_rank=5)
    add(roster, 2)
    assert next_ranks(roster) == [2, 1, 0]


def test_who_stays_keeps_its_rank_and_who_comes_fills_the_gap() -> None:
    roster, _ = make_roster("a", "b", "c", "d")
    seat(roster)
    roster.forget(1)
    add(roster, 4)
    add(roster, 5)
    assert next_ranks(roster) == [0, 4, 2, 3, 5]


def test_without_newcomers_those_that_stay_move_up_in_order() -> None:
    roster, _ = make_roster("a", "b", "c", "d")
    seat(roster)
    roster.forget(0)
    roster.forget(2)
    assert next_ranks(roster) == [1, 3]
    seat(roster, 1)
    assert [node.rank for node in roster.nodes] == [0, 1]


def test_spares_have_no_rank_and_are_told_apart() -> None:
    roster, nodes = make_roster("a", "b", "c")
    roster.seat(roster.rank_next()[:2], 0)
    assert [key for key, _ in roster.active] == [0, 1]
    assert roster.spares == [2] and nodes[2].is_spare
    assert roster.num_active == 2 and sorted(roster.active_ranks) == [0, 1]


def test_a_new_attempt_forgets_how_the_last_one_ended() -> None:
    roster, nodes = make_roster("a", "b")
    seat(roster)
    nodes[0].outcome = AttemptOutcome(0, ())
    seat(roster, 1)
    assert nodes[0].outcome is None
    assert [node.generation for node in nodes] == [1, 1]


def test_who_has_gone_is_known_by_nothing() -> None:
    roster, _ = make_roster("a")
    add(roster, 7, "b", node_rank=3)
    seat(roster)
    assert roster.find_key("member b") == 7
    given = roster.find_given(3)
    assert given is not None and given.join.hostname == "b"
    gone = roster.forget(7)
    assert gone is given
    assert (7 in roster, len(roster), roster.num_active) == (False, 1, 1)
    assert roster.find_key("member b") is None and roster.find_given(3) is None
    assert roster.forget(7) is None
    assert roster.num_active == 1


def test_a_spare_that_goes_leaves_the_attempt_as_it_is() -> None:
    roster, _ = make_roster("a", "b", "c")
    roster.seat(roster.rank_next()[:2], 0)
    roster.forget(2)
    assert roster.num_active == 2


@pytest.mark.parametrize(
    ("num_leaving", "num_more", "is_enough"), [(0, 1, True), (1, 1, False), (1, 0, True)]
)
def test_nodes_can_be_spared_while_enough_stay(
    num_leaving: int, num_more: int, is_enough: bool
) -> None:
    roster, nodes = make_roster("a", "b", "c")
    for key in range(num_leaving):
        roster.let_leave(key, 15)
    assert roster.can_spare(num_more, 2) is is_enough
    assert roster.leavers == [*enumerate(nodes[:num_leaving])]
    roster.let_stay()
    assert roster.can_spare(1, 2) and not any(node.leaves_for for node in nodes)


def test_who_may_come_again_makes_unsure_until_it_has_come_or_is_too_late() -> None:
    roster, _ = make_roster("a", now=100.0)
    assert not roster.is_unsure(100.0)
    roster.expect("member b", 103.0)
    roster.expect("member c", 102.0)
    assert roster.is_unsure(102.5)
    roster.welcome("member b")
    assert not roster.is_unsure(102.5)
    roster.welcome("member never heard of")
    roster.expect("member d", 104.0)
    assert roster.is_unsure(103.9)
    assert not roster.is_unsure(104.0)


def test_a_coordinator_that_was_stopped_is_unsure_too() -> None:
    roster, _ = make_roster("a", now=100.0)
    roster.doubts.look_at_clock(105.0)
    assert roster.is_unsure(105.0)


@pytest.mark.parametrize(
    ("address", "is_near"), [("", True), ("127.0.0.1", True), ("::1", True), ("10.0.0.1", False)]
)
def test_who_came_over_loopback_is_on_the_coordinators_host(address: str, is_near: bool) -> None:
    roster = Roster(6.0, 0.0)
    join: Join = make_join("a")
    assert roster.add(0, join, Route(address, address), 0.0).is_near is is_near
