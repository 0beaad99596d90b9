"""A node of an elastic run that is asked to stop leaves it, and the others go on."""

from __future__ import annotations

from typing import Any

from launcher.nodes.losses import Loss
from launcher.nodes.messages import (
    Assigned,
    Decided,
    Join,
    Leave,
    Ready,
    Released,
    Settled,
    Stop,
    Stopping,
)
from launcher.nodes.rendezvous import Rendezvous
from launcher.nodes.restart import RestartPolicy
from launcher.nodes.rules import OWN, Past, Route, Rules

ENDED = {"duration": 20.0, "ranks": [0], "asked": True}


def join(name: str, **fields: Any) -> Join:
    return Join(
        member=name,
        hostname=name,
        num_workers=1,
        node_rank=-1,
        max_restarts=0,
        alike={},
        address="",
        port=1,
        master_port=2,
        **{"min_nodes": 1, "max_nodes": 3, **fields},
    )


def make_run(num_nodes: int, min_nodes: int = 1, past: Past | None = None) -> Rendezvous:
    """Return a run whose nodes have all started, under the keys 0, 1, ..."""
    rules = Rules("run", min_nodes, num_nodes, RestartPolicy(), hostname="h0")
    run = Rendezvous(rules, 0.0, past)
    for key in range(num_nodes):
        node = join(f"h{key}", min_nodes=min_nodes, max_nodes=num_nodes)
        run.handle(key, node, 0.0, Route(f"10.0.0.{key}", "10.0.0.9") if key else Route())
    said(run)
    return run


def said(run: Rendezvous) -> list[tuple[int, Any]]:
    outbox, run.outbox = run.outbox, []
    return outbox


def of_kind(outbox: list[tuple[int, Any]], kind: type) -> dict[int, Any]:
    return {key: message for key, message in outbox if isinstance(message, kind)}


def settle(run: Rendezvous, *keys: int, account: dict[str, Any] = ENDED) -> None:
    for key in keys:
        run.handle(key, Settled(0, {**account, "ranks": [key]}), 1.0)


def test_the_others_start_again_without_it_and_no_restart_is_needed_for_that() -> None:
    run = make_run(3)
    run.handle(2, Stopping(0, 15), 1.0)
    stops = of_kind(said(run), Stop)
    assert sorted(stops) == [0, 1, 2]
    assert {stop.signum for stop in stops.values()} == {0}
    settle(run, 0, 1, 2)
    outbox = said(run)
    decided = of_kind(outbox, Decided)
    # All ranks have ended with 0 when they were asked to: that does not mean that all is done.
    assert [decided[key].action for key in sorted(decided)] == ["restart", "restart"]
    assert decided[0].reason == "node 2 (h2) has left; starting all ranks again"
    assert of_kind(outbox, Released) == {2: Released(0)}
    for key in (0, 1):
        run.handle(key, Ready(1, 2), 1.0)
    assigned = of_kind(said(run), Assigned)
    assert {key: part.world_size for key, part in assigned.items()} == {0: 2, 1: 2}


def test_its_own_ranks_decide_its_exit_code() -> None:
    run = make_run(2)
    run.handle(1, Stopping(0, 2), 1.0)
    settle(run, 0)
    told = {"rank": 1, "pid": 1, "code": -15, "ended": 0.0, "order": 1, "asked": 0.1}
    account = {"duration": 1.0, "workers": [told], "node_failure": "", "obstacle": ""}
    run.handle(1, Settled(0, {**account, "replaced": []}), 1.0)
    assert of_kind(said(run), Released) == {1: Released(130)}


def test_who_coordinates_tells_its_judgement_and_leaves_the_run_to_the_others() -> None:
    run = make_run(3)
    run.handle(OWN, Stopping(0, 15), 1.0)
    settle(run, 0, 1, 2)
    outbox = said(run)
    decided = of_kind(outbox, Decided)
    assert {key: verdict.action for key, verdict in decided.items()} == {1: "restart", 2: "restart"}
    assert sorted(of_kind(outbox, Released)) == [OWN]
    assert sorted(of_kind(outbox, Leave)) == [1, 2]
    assert run.is_over


def test_who_takes_over_from_one_that_has_left_counts_no_failure() -> None:
    loss = Loss(0, "h0", "it received SIGTERM", 1.0, is_dead=True, has_left=True)
    past = Past(generation=0, num_nodes=2, num_failures=0, losses=(loss,))
    run = Rendezvous(Rules("run", 1, 2, RestartPolicy(), hostname="h1"), 1.0, past)
    run.handle(OWN, join("h1", max_nodes=2, generation=0, old_rank=1), 1.0, Route())
    settle(run, OWN)
    decided = of_kind(said(run), Decided)[OWN]
    assert (decided.action, decided.report) == ("restart", None)


def test_where_too_few_would_be_left_all_stop() -> None:
    run = make_run(3, min_nodes=2)
    run.handle(1, Stopping(0, 15), 1.0)
    run.handle(2, Stopping(0, 15), 1.0)
    stops = [message.signum for key, message in said(run) if isinstance(message, Stop)]
    assert stops == [0, 0, 0, 15, 15, 15]


def test_a_stop_that_was_meant_for_the_run_ends_it() -> None:
    run = make_run(3)
    run.handle(1, Stopping(0, 15, is_for_all=True), 1.0)
    assert {stop.signum for stop in of_kind(said(run), Stop).values()} == {15}


def test_a_run_of_a_fixed_number_of_nodes_stops_as_a_whole() -> None:
    run = make_run(2, min_nodes=2)
    run.handle(1, Stopping(0, 15), 1.0)
    assert {stop.signum for stop in of_kind(said(run), Stop).values()} == {15}


def test_between_two_attempts_it_is_let_go_at_once() -> None:
    run = make_run(3)
    run.handle(2, Stopping(0, 15), 1.0)
    settle(run, 0, 1, 2)
    run.handle(0, Ready(1, 2), 1.0)
    said(run)
    run.handle(1, Stopping(0, 15), 1.0)
    outbox = said(run)
    assert of_kind(outbox, Released) == {1: Released(0)}
    assert of_kind(outbox, Assigned)[0].world_size == 1
