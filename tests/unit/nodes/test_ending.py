"""How an attempt ends: who must still tell it, what it was, and whether others may go on, too."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.nodes.ending import Ending
from launcher.nodes.losses import Loss, Losses
from launcher.nodes.messages import Decided, Settled
from launcher.nodes.roster import Entry
from tests.unit.nodes.coming import make_account, make_join, route_to


def make_node(rank: int, **join: Any) -> Entry:
    node = Entry(make_join(f"h{rank}", **join), route_to(rank), rank, 100.0)
    node.rank = rank
    return node


def begin(num_nodes: int) -> tuple[Ending, list[Entry]]:
    ending = Ending(0, Losses(num_nodes), range(num_nodes), is_taken_over=False)
    return ending, [make_node(rank) for rank in range(num_nodes)]


def settle(ending: Ending, node: Entry, code: int = 0, *, asked: bool = False) -> None:
    ending.settle(node.rank, node, Settled(0, make_account(node.rank, code, 20.0, asked)), 110.0)


def decided(action: str, *, is_reporter: bool = False) -> Decided:
    return Decided(0, action, "", 0.0, 0, None, is_reporter)


def test_it_is_known_when_all_nodes_have_told_it() -> None:
    ending, nodes = begin(2)
    settle(ending, nodes[0])
    assert not ending.is_known(2)
    settle(ending, nodes[1])
    assert ending.is_known(2)
    outcome = ending.merge(nodes, may_go_on=True)
    assert outcome.succeeded
    assert [worker.rank for worker in outcome.workers] == [0, 1]


def test_who_is_lost_is_not_waited_for() -> None:
    ending, nodes = begin(3)
    settle(ending, nodes[0])
    settle(ending, nodes[1])
    ending.part_with(2, nodes[2])
    assert not ending.is_known(2)  # it may be on its way to another coordinator
    loss = ending.lose(nodes[2], "it is silent", 120.0, is_dead=False)
    assert ending.is_known(2)
    assert (loss.node_rank, loss.at, loss.is_failure) == (2, 100.0, True)
    outcome = ending.merge(nodes[:2], may_go_on=True)
    assert outcome.node_failure == "node 2 (h2) was lost: it is silent"


def test_an_end_of_a_connection_is_heard_of_a_little_late() -> None:
    ending, nodes = begin(2)
    assert ending.lose(nodes[1], "it is dead", 120.0, is_dead=True).at == pytest.approx(119.9)


def test_a_rank_that_failed_before_a_node_was_lost_is_the_cause() -> None:
    ending, nodes = begin(2)
    settle(ending, nodes[0], 7)  # half a second before 110
    ending.part_with(1, nodes[1])
    ending.lose(nodes[1], "it is dead", 112.0, is_dead=True)
    assert ending.merge(nodes[:1], may_go_on=True).node_failure == ""


def test_a_rank_that_failed_after_a_node_was_lost_has_missed_it() -> None:
    ending, nodes = begin(2)
    ending.part_with(1, nodes[1])
    ending.lose(nodes[1], "it is dead", 109.0, is_dead=True)
    settle(ending, nodes[0], 7)
    assert "node 1 (h1) was lost" in ending.merge(nodes[:1], may_go_on=True).node_failure


def test_what_a_node_has_told_before_it_went_counts() -> None:
    ending, nodes = begin(2)
    settle(ending, nodes[1])
    ending.part_with(1, nodes[1])
    loss = ending.lose(nodes[1], "it is dead", 120.0, is_dead=True)
    assert loss.is_done and not loss.is_failure
    settle(ending, nodes[0])
    outcome = ending.merge(nodes[:1], may_go_on=True)
    assert outcome.succeeded
    assert [worker.rank for worker in outcome.workers] == [0, 1]


def test_a_node_that_comes_again_tells_it_once_more() -> None:
    ending, nodes = begin(2)
    settle(ending, nodes[1])
    ending.part_with(1, nodes[1])
    ending.lose(nodes[1], "the connection broke", 120.0, is_dead=False)
    again = make_node(1, generation=0, dead=[5])
    assert ending.take_back(9, again, is_takeover=False)
    assert ending.losses.dead == [5]
    settle(ending, nodes[0])
    assert not ending.is_known(2)
    ending.settle(9, again, Settled(0, make_account(1, 0, 20.0, False)), 121.0)
    assert ending.is_known(2)
    workers = ending.merge([nodes[0], again], may_go_on=True).workers
    assert [worker.rank for worker in workers] == [0, 1]


def test_who_was_not_lost_and_comes_from_an_older_attempt_has_no_part() -> None:
    ending, _ = begin(2)
    stranger = make_node(1, generation=0)
    assert not ending.take_back(9, stranger, is_takeover=False)
    ending.turn_down(9, stranger)
    assert ending.next_generation == 1
    ending.turn_down(9, make_node(1, generation=4))
    assert (ending.generation, ending.next_generation) == (0, 5)


def test_nothing_moves_when_all_stand_still_that_have_not_ended() -> None:
    ending, nodes = begin(3)
    assert not ending.note_still(0, is_still=True)
    ending.part_with(2, nodes[2])
    assert not ending.note_still(0, is_still=False)
    assert not ending.note_still(1, is_still=True)
    assert ending.note_still(0, is_still=True)


def test_a_successor_hears_of_an_attempt_that_it_has_not_seen_begin() -> None:
    losses = Losses(2, [Loss(0, "h0", "gone", 100.0, is_dead=True)])
    ending = Ending(0, losses, is_taken_over=True)
    ending.bring(1, decided("restart"))
    ending.wait_for_nobody()
    assert ending.take_back(1, make_node(1, generation=1, num_nodes=3), is_takeover=True)
    assert (ending.generation, ending.losses.num_nodes, ending.brought) == (1, 3, None)
    assert not ending.is_known(1)
    assert ending.take_back(2, make_node(2, generation=0), is_takeover=True)  # it is still behind


def test_whoever_is_not_heard_of_has_not_ended_well() -> None:
    ending, nodes = begin(2)
    settle(ending, nodes[0])
    ending.wait_for_nobody()
    assert ending.is_known(2)
    outcome = ending.merge(nodes, may_go_on=True)
    assert outcome.node_failure == "node 1 (h1) has not told how its ranks ended"


def test_a_success_of_the_smaller_part_is_none() -> None:
    ending, nodes = begin(3)
    settle(ending, nodes[0])
    loss = Loss(1, "h1", "it is silent", 100.0, is_dead=False, is_done=True)
    ending.losses.add(loss)
    outcome = ending.merge(nodes[:1], may_go_on=False)
    assert outcome.node_failure == "the others were lost: node 1 (h1) was lost: it is silent"


@pytest.mark.parametrize("account", [{}, {"latency": "x"}, {"latency": None}, {"latency": []}])
def test_an_account_that_is_none_is_a_failure_of_its_node(account: dict[str, Any]) -> None:
    ending, nodes = begin(1)
    outcome = ending.settle(0, nodes[0], Settled(0, account), 110.0)
    assert outcome.node_failure == "node 0 (h0) has told what is no account of an attempt"
    assert not outcome.succeeded and ending.is_known(1)


def test_what_was_told_is_dated_by_how_long_it_was_under_way() -> None:
    ending, nodes = begin(1)
    account = {**make_account(0, 7, 20.0, False), "latency": 0.25}
    outcome = ending.settle(0, nodes[0], Settled(0, account), 110.0)
    assert outcome.workers[0].ended_at == pytest.approx(110.0 - 0.25 - 0.5)


# --- why it was ended ---------------------------------------------------------------------------


def test_newcomers_and_leavers_are_named() -> None:
    ending, nodes = begin(3)
    assert ending.changes(nodes) == []
    ending.note_newcomer("h7")
    ending.note_newcomer("h8")
    nodes[1].leaves_for = 15
    ending.losses.add(Loss(2, "h2", "", 100.0, is_dead=True, has_left=True))
    assert ending.changes(nodes[:2]) == ["h7, h8 has come", "node 1 (h1), node 2 (h2) has left"]


@pytest.mark.parametrize(
    ("code", "asked", "is_rescale"), [(0, True, True), (0, False, False), (7, False, False)]
)
def test_an_attempt_that_was_over_or_had_failed_was_not_ended_for_a_newcomer(
    code: int, asked: bool, is_rescale: bool
) -> None:
    ending, nodes = begin(1)
    settle(ending, nodes[0], code, asked=asked)
    ending.note_newcomer("h7")
    assert ending.is_rescale(ending.merge(nodes, may_go_on=True), nodes) is is_rescale


def test_without_a_change_an_end_that_was_asked_for_is_no_rescale() -> None:
    ending, nodes = begin(1)
    settle(ending, nodes[0], -15, asked=True)
    assert not ending.is_rescale(ending.merge(nodes, may_go_on=True), nodes)


def test_what_a_lost_coordinator_had_decided_holds_and_the_end_before_a_restart() -> None:
    ending, _ = begin(3)
    ending.bring(0, decided("restart"))
    assert ending.brought == decided("restart")
    ending.bring(1, decided("finish", is_reporter=True))
    ending.bring(2, decided("finish"))
    assert ending.brought == decided("finish", is_reporter=True)  # who shows the report is here
    assert ending.is_known(3)


@pytest.mark.parametrize(
    ("num_here", "num_dead", "is_taken_over", "may_go_on"),
    [
        (2, 0, False, True),  # of three
        (1, 0, False, False),
        (1, 1, False, True),  # one against one, at a tie the coordinator's part
        (1, 1, True, False),
        (1, 2, True, True),
    ],
)
def test_only_the_larger_part_goes_on(
    num_here: int, num_dead: int, is_taken_over: bool, may_go_on: bool
) -> None:
    losses = Losses(3, [Loss(rank, "", "", 0.0, is_dead=True) for rank in range(num_dead)])
    ending = Ending(0, losses, is_taken_over=is_taken_over)
    assert ending.may_go_on(num_here) is may_go_on
