"""Who may take part, when there are enough nodes, and what is said when there are not."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.nodes.gathering import Gathering
from launcher.nodes.messages import Refused
from launcher.nodes.roster import Roster
from tests.unit.nodes.coming import make_join, make_rules, route_to, seat


def gather(*names: str, **rules: Any) -> tuple[Gathering, Roster]:
    """Return what is known when these nodes have come, at 100 s; the first is the coordinator."""
    roster = Roster(6.0, 100.0)
    for key, name in enumerate(names):
        roster.add(key, make_join(name), route_to(key), 100.0)
    return Gathering(make_rules(**rules), roster), roster


def chosen(gathering: Gathering, now: float, *, is_first: bool = True) -> list[int]:
    return [key for key, _ in gathering.choose(now, is_first=is_first)]


def test_nobody_starts_before_there_are_enough() -> None:
    gathering, roster = gather("a", min_nodes=2)
    assert chosen(gathering, 100.0) == []
    roster.add(1, make_join("b"), route_to(1), 100.1)
    assert chosen(gathering, 100.1) == [0, 1]


def test_an_elastic_run_gives_those_a_last_call_who_may_still_come() -> None:
    gathering, roster = gather("a", "b", min_nodes=2, max_nodes=4, last_call_s=2.0)
    for now in (100.0, 101.0, 101.9):
        assert chosen(gathering, now) == []
    roster[1].heard_at = 102.0
    assert chosen(gathering, 102.0) == [0, 1]


def test_at_most_so_many_are_waited_for_and_start() -> None:
    gathering, _ = gather("a", "b", "c", "d", min_nodes=2, max_nodes=3, last_call_s=30.0)
    assert chosen(gathering, 100.0) == [0, 1, 2]


def test_the_last_call_begins_again_when_there_were_too_few_meanwhile() -> None:
    gathering, roster = gather("a", "b", min_nodes=2, max_nodes=4, last_call_s=2.0)
    assert chosen(gathering, 100.0) == []
    roster.forget(1)
    assert chosen(gathering, 101.0) == []
    roster.add(2, make_join("c"), route_to(2), 101.5)
    assert chosen(gathering, 101.5) == []
    assert chosen(gathering, 102.5) == []
    assert chosen(gathering, 103.5) == [0, 2]


def test_a_restart_needs_no_last_call_but_that_all_are_ready() -> None:
    gathering, roster = gather("a", "b", min_nodes=2, max_nodes=4)
    seat(roster)
    gathering.wait_for(0)
    gathering.wait_for(1)
    gathering.note_ready(1)
    assert chosen(gathering, 100.0, is_first=False) == []
    gathering.note_ready(0)
    assert chosen(gathering, 100.0, is_first=False) == [0, 1]


def test_who_has_started_is_not_ready_for_the_next_attempt() -> None:
    gathering, _ = gather("a", "b", min_nodes=2)
    assert chosen(gathering, 100.0) == [0, 1]
    assert chosen(gathering, 100.0, is_first=False) == []
    gathering.note_ready(0)
    gathering.note_ready(1)
    assert chosen(gathering, 100.0, is_first=False) == [0, 1]


def test_nobody_starts_while_it_is_not_known_who_is_left() -> None:
    gathering, roster = gather("a", "b", min_nodes=2)
    roster.expect("member c", 103.0)
    assert chosen(gathering, 102.0) == []
    roster.welcome("member c")
    assert chosen(gathering, 102.0) == [0, 1]


def test_nobody_starts_with_a_node_that_has_fallen_silent() -> None:
    gathering, roster = gather("a", "b", min_nodes=2)
    assert chosen(gathering, 102.6) == []
    roster[1].heard_at = 102.6
    assert chosen(gathering, 102.6) == [0, 1]  # the coordinator's own is not heard of, but here


# --- refusals -----------------------------------------------------------------------------------


def refuse(gathering: Gathering, **fields: Any) -> Refused:
    refused = gathering.find_refusal(make_join("b", **fields))
    assert refused is not None
    return refused


def test_who_fits_is_not_refused() -> None:
    gathering, _ = gather("a", min_nodes=2)
    assert gathering.find_refusal(make_join("b")) is None


def test_another_number_of_nodes_is_refused() -> None:
    gathering, _ = gather("a", min_nodes=2)
    refused = refuse(gathering, min_nodes=1, max_nodes=3)
    assert refused.message == "--nnodes 1:3 on b contradicts --nnodes 2 on h0"
    assert refused.hint == "Type the same number on all nodes."
    assert refused.exit_code == 2


def test_what_must_be_alike_is_compared_with_the_coordinators() -> None:
    gathering, roster = gather(min_nodes=2)
    alike = {"the script": "train.py", "the version of torch": "2.14.1"}
    roster.add(0, make_join("a", alike=alike), route_to(0), 100.0)
    assert gathering.find_refusal(make_join("b", alike=alike)) is None
    refused = refuse(gathering, alike={**alike, "the version of torch": "2.13.0"})
    assert refused.message == (
        "the version of torch differs between the nodes: 2.13.0 on b, 2.14.1 on h0"
    )
    refused = refuse(gathering, alike={"the script": "train.py"})
    assert "none on b, 2.14.1 on h0" in refused.message
    assert refused.exit_code == 2


def test_a_node_rank_is_given_once() -> None:
    gathering, roster = gather("a", min_nodes=2)
    roster.add(1, make_join("c", node_rank=1), route_to(1), 100.0)
    refused = refuse(gathering, node_rank=1)
    assert refused.message == "node rank 1 is taken by c; b has the same"
    assert refused.hint == "Give each node another --node-rank."
    roster.forget(1)
    assert gathering.find_refusal(make_join("b", node_rank=1)) is None


def test_nodes_without_a_given_rank_never_have_the_same() -> None:
    gathering, _ = gather("a", "c", min_nodes=2)
    assert gathering.find_refusal(make_join("b")) is None


# --- in vain ------------------------------------------------------------------------------------


def test_who_has_come_is_named_when_others_have_not() -> None:
    gathering, _ = gather("a", "b", min_nodes=3, join_timeout_s=60.0)
    refused = gathering.explain_failure()
    assert refused.message == "In 60 s 2 of 3 nodes have come (a, b)."
    assert refused.hint.startswith("Start the launcher on the others")
    assert refused.exit_code == 3


def test_a_node_rank_that_is_missing_is_named() -> None:
    gathering, roster = gather(min_nodes=4)
    for key, rank in enumerate((0, 2)):
        roster.add(key, make_join(f"h{rank}", node_rank=rank), route_to(key), 100.0)
    text = gathering.explain_failure().message
    assert text == "In 600 s 2 of 4 nodes have come (h0, h2); node rank 1, 3 is missing."


def test_an_elastic_run_misses_nobody_by_number() -> None:
    gathering, roster = gather(min_nodes=2, max_nodes=4)
    roster.add(0, make_join("a", node_rank=0), route_to(0), 100.0)
    assert gathering.explain_failure().message == "In 600 s 1 of 2:4 nodes have come (a)."


def test_a_doubt_about_the_endpoint_is_the_better_hint() -> None:
    gathering, _ = gather("a", min_nodes=2, doubt="h0 means 127.0.1.1 here")
    assert gathering.explain_failure().hint == "h0 means 127.0.1.1 here"


# --- who waits ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_active", "is_running", "rescales_now", "reason"),
    [
        (2, True, True, "all ranks start again, so that this node can take part"),
        (2, True, False, "this node takes part after the next restart"),
        (2, False, True, "this node takes part after the next restart"),
        (3, False, True, "this node takes part after the next restart"),
        (3, True, True, "all 3 nodes are there; this one steps in when one is lost"),
        (3, True, False, "all 3 nodes are there; this one steps in when one is lost"),
    ],
)
def test_who_waits_is_told_for_what(
    num_active: int, is_running: bool, rescales_now: bool, reason: str
) -> None:
    names = ["a", "b", "c"][:num_active]
    gathering, roster = gather(*names, min_nodes=1, max_nodes=3, rescales_now=rescales_now)
    seat(roster)
    assert gathering.explain_waiting(is_running=is_running) == reason
    assert gathering.has_place is (num_active < 3)
