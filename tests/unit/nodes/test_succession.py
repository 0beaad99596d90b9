"""Who follows a coordinator that is lost, and what that one is told of the run."""

from __future__ import annotations

from launcher.nodes.losses import Loss
from launcher.nodes.messages import Assigned, Deputy
from launcher.nodes.rules import RESUME_S
from launcher.nodes.succession import Succession

DEPUTIES = tuple(Deputy(f"m{rank}", f"h{rank}", f"10.0.0.{rank}", 4000, rank) for rank in (1, 2))
PART = Assigned(3, "run", 2, 3, 2, 3, "10.0.0.0", 29500, "10.0.0.2", 0, DEPUTIES, 0, "h0")


def begin() -> Succession:
    succession = Succession()
    succession.begin(PART)
    return succession


def lose(succession: Succession, now: float = 100.0, *, is_dead: bool = True) -> None:
    succession.lose("its launcher has ended", now, is_dead=is_dead, has_left=False)


def losses(succession: Succession) -> list[tuple[int, str, bool]]:
    past = succession.make_past(PART, 1)
    return [(loss.node_rank, loss.hostname, loss.is_dead) for loss in past.losses]


def test_deputies_are_turned_to_in_order_and_once() -> None:
    succession = begin()
    assert [succession.choose_next(), succession.choose_next()] == list(DEPUTIES)
    assert not succession.has_deputies


def test_the_coordinator_that_is_lost_is_the_first_loss() -> None:
    succession = begin()
    lose(succession)
    past = succession.make_past(PART, 4)
    assert past.losses == (Loss(0, "h0", "its launcher has ended", 100.0, is_dead=True),)
    assert (past.generation, past.num_nodes, past.num_failures) == (3, 3, 4)
    assert (past.address, past.dead) == ("10.0.0.2", {0})
    assert succession.why == "its launcher has ended"


def test_a_coordinator_that_has_left_says_who_else_has_ended() -> None:
    succession = begin()
    succession.bury([5, 1])
    succession.lose("it has left", 100.0, is_dead=True, has_left=True)
    assert succession.dead == [0, 1, 5]
    [loss] = succession.make_past(PART, 0).losses
    assert loss.has_left and not loss.is_failure


def test_a_deputy_that_does_not_listen_after_a_dead_coordinator_has_ended_too() -> None:
    succession = begin()
    lose(succession)
    succession.choose_next()
    succession.note_refusal(101.0)
    assert losses(succession) == [(0, "h0", True), (1, "h1", True)]


def test_a_deputy_that_does_not_listen_may_have_ended_well_while_nobody_was_heard() -> None:
    succession = begin()
    lose(succession, is_dead=False)
    succession.choose_next()
    succession.note_refusal(101.0)
    lose(succession, 102.0)
    assert losses(succession) == [(0, "h0", False), (1, "h1", False)]
    assert succession.dead == []


def test_who_takes_over_knows_who_may_have_ended_with_the_coordinator() -> None:
    succession = begin()
    lose(succession)
    succession.choose_next()
    past = succession.make_past(PART, 0)
    # The deputy that was missed, too: it may have ended as this node turned to it.
    assert past.absent == DEPUTIES[:1]  # the other one is this node
    assert past.absent_until == 100.0 + RESUME_S
    succession.note_refusal(101.0)
    assert succession.make_past(PART, 0).absent == ()


def test_nobody_is_said_to_have_ended_with_a_coordinator_that_may_live() -> None:
    succession = begin()
    lose(succession, is_dead=False)
    assert succession.make_past(PART, 0).absent == ()


def test_a_deputy_without_a_port_cannot_be_asked() -> None:
    succession = begin()
    lose(succession)
    part = PART._replace(deputies=tuple(each._replace(port=0) for each in DEPUTIES))
    assert succession.make_past(part, 0).absent == ()


def test_nobody_is_blamed_for_a_refusal_on_the_way_back() -> None:
    succession = begin()
    lose(succession)
    succession.choose_next()
    succession.turn_back()
    succession.note_refusal(101.0)
    assert losses(succession) == [(0, "h0", True)]


def test_who_takes_over_is_the_coordinator_once_it_says_so() -> None:
    succession = begin()
    lose(succession, is_dead=False)
    succession.choose_next()
    succession.confirm()
    lose(succession, 105.0)
    assert losses(succession) == [(0, "h0", False), (1, "h1", True)]


def test_a_node_is_lost_once() -> None:
    succession = begin()
    lose(succession, is_dead=False)
    lose(succession)
    assert losses(succession) == [(0, "h0", True)]


def test_another_attempt_begins_with_all_nodes_alive() -> None:
    succession = begin()
    lose(succession)
    succession.choose_next()
    succession.confirm()
    succession.begin(PART._replace(coordinator_rank=1, coordinator_host="h1"))
    assert (succession.dead, losses(succession)) == ([], [])
    assert succession.choose_next() == DEPUTIES[0]
    succession.turn_back()
    lose(succession)
    assert losses(succession) == [(1, "h1", True)]


def test_a_node_that_waits_for_a_place_knows_whom_to_ask() -> None:
    succession = Succession()
    assert not succession.has_deputies
    succession.note_deputies(DEPUTIES[1:])
    assert succession.choose_next() == DEPUTIES[1]
