"""What follows an attempt over several nodes, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.nodes.ending import Ending
from launcher.nodes.judge import Judge, Judgement
from launcher.nodes.losses import Loss, Losses
from launcher.nodes.messages import Released, Settled
from launcher.nodes.roster import Entry
from tests.unit.nodes.coming import make_account, make_join, make_rules, route_to


def end(
    *codes: int | None,
    generation: int = 0,
    seconds: float = 20.0,
    losses: tuple[Loss, ...] = (),
    is_taken_over: bool = False,
    asked: bool = False,
) -> tuple[Ending, list[Entry]]:
    """Return the end of an attempt with these exit codes, one for each node that is left."""
    ending = Ending(
        generation, Losses(len(codes) + len(losses), losses), is_taken_over=is_taken_over
    )
    nodes = []
    for rank, code in enumerate(codes):
        node = Entry(make_join(f"h{rank}"), route_to(rank), rank, 100.0)
        node.rank = rank
        nodes.append(node)
        if code is not None:
            account = make_account(rank, code, seconds, asked)
            ending.settle(rank, node, Settled(generation, account), 110.0)
    return ending, nodes


def judge(judge: Judge, *codes: int | None, **fields: Any) -> Judgement:
    return judge.judge(*end(*codes, **fields), 110.0)


def make_judge(min_nodes: int = 2, max_nodes: int | None = None, max_restarts: int = 0) -> Judge:
    return Judge(make_rules(min_nodes, max_nodes, max_restarts=max_restarts), 0, 100.0)


def lost(rank: int, *, is_dead: bool = True, **fields: bool) -> Loss:
    return Loss(rank, f"h{rank}", "it is gone", 105.0, is_dead, **fields)


def test_all_is_well_when_all_nodes_are() -> None:
    verdict, report, outcome = judge(make_judge(), 0, 0)
    assert (verdict.action, verdict.reason, report) == ("finish", "", None)
    assert outcome.succeeded


def test_a_failure_is_reported_with_its_host_and_ends_the_run() -> None:
    judgement = judge(make_judge(), 0, 7)
    verdict, report, _ = judgement
    assert report is not None
    assert (verdict.action, report.rank, report.hostname, report.exit_code) == (
        "give_up",
        1,
        "h1",
        7,
    )


def test_restarts_are_counted_until_they_are_used_up() -> None:
    judged = make_judge(max_restarts=2)
    actions = [judge(judged, 0, 7, generation=number) for number in range(3)]
    assert [one.verdict.action for one in actions] == ["restart", "restart", "give_up"]
    assert judged.num_failures == 3
    last = actions[-1].report
    assert last is not None
    assert last.verdict == actions[-1].verdict.reason == "all 2 restarts are used up"
    assert len(last.history) == 2  # a line for each attempt before


def test_a_successor_counts_what_has_failed_before_it() -> None:
    judged = Judge(make_rules(2, max_restarts=2), 1, 100.0)
    judged.learn(2, 100.0)
    judged.learn(1, 100.0)
    assert judged.num_failures == 2
    assert judge(judged, 0, 7).verdict.action == "give_up"


def test_a_lost_node_costs_an_elastic_run_no_restart() -> None:
    judged = make_judge(1, 3)
    verdict, report, _ = judge(judged, -15, -15, losses=(lost(2),), asked=True)
    assert (verdict.action, judged.num_failures) == ("restart", 0)
    assert report is not None and "node 2 (h2) was lost" in report.summary()


def test_a_node_that_is_lost_at_each_start_costs_restarts() -> None:
    judged = make_judge(1, 3)
    verdict, _, _ = judge(judged, -15, -15, losses=(lost(2),), asked=True, seconds=2.0)
    assert (verdict.action, judged.num_failures) == ("give_up", 1)


def test_a_run_of_fixed_size_pays_for_each_lost_node() -> None:
    judged = make_judge(3, max_restarts=1)
    ending = {"losses": (lost(2),), "asked": True}
    assert judge(judged, -15, -15, **ending).verdict.action == "restart"
    assert judge(judged, -15, -15, **ending).verdict.action == "give_up"


def test_a_newcomer_costs_nothing_and_is_no_failure() -> None:
    judged = make_judge(1, 3)
    ending, nodes = end(-15, -15, asked=True)
    ending.note_newcomer("h7")
    verdict, report, _ = judged.judge(ending, nodes, 110.0)
    assert (verdict.action, report, judged.num_failures) == ("restart", None, 0)
    assert verdict.reason == "h7 has come; starting all ranks again"


@pytest.mark.parametrize("num_silent", [1, 2])
def test_the_smaller_part_ends_although_restarts_are_left(num_silent: int) -> None:
    losses = tuple(lost(rank, is_dead=False) for rank in range(2, 2 + num_silent))
    codes = (-15,) * (3 - num_silent)
    verdict, report, _ = judge(make_judge(1, 3, 5), *codes, losses=losses, asked=True)
    if num_silent == 1:
        assert verdict.action == "restart"
    else:
        assert verdict.action == "give_up"
        assert "no more than half of the nodes can be reached from here" in verdict.reason
        assert report is not None and report.verdict == verdict.reason


def test_at_a_tie_the_part_of_the_coordinator_goes_on() -> None:
    losses = (lost(1, is_dead=False),)
    for is_taken_over, action in ((False, "restart"), (True, "give_up")):
        judgement = judge(make_judge(1, 2), 0, losses=losses, is_taken_over=is_taken_over)
        assert judgement.verdict.action == action


def test_between_two_attempts_the_smaller_part_ends_too() -> None:
    ending, nodes = end(None, losses=(lost(1, is_dead=False), lost(2, is_dead=False)))
    verdict, report, _ = make_judge(1, 3).judge_smaller_part(ending, nodes)
    assert verdict.action == "give_up"
    assert report is not None and "node 1 (h1) was lost" in report.summary()


def test_a_signal_is_no_failure_and_nothing_follows_it() -> None:
    judged = make_judge(max_restarts=3)
    ending, nodes = end(-15, -15, asked=True)
    ending.signum = 15
    judgement = judged.judge(ending, nodes, 110.0)
    assert (judgement.verdict.action, judgement.report) == ("give_up", None)
    assert judged.put_in_words(judgement, ending, nodes).exit_code == 143
    assert judged.num_failures == 0


def test_all_ranks_that_saved_and_ended_with_0_end_the_run_with_0() -> None:
    judged = make_judge()
    ending, nodes = end(0, 0, asked=True)
    ending.signum = 15
    judgement = judged.judge(ending, nodes, 110.0)
    assert judged.put_in_words(judgement, ending, nodes).exit_code == 0


def test_a_signal_between_two_attempts_ends_the_run() -> None:
    judged = make_judge()
    ending, nodes = end(None, None)
    judgement = judged.judge_stop(2, "node 1 (h1) received SIGINT", ending)
    assert (judgement.verdict.action, judgement.report) == ("give_up", None)
    words = judged.put_in_words(judgement, ending, nodes)
    assert (words.exit_code, words.reason) == (130, "node 1 (h1) received SIGINT")


def test_a_verdict_names_where_the_report_is_shown() -> None:
    judged = make_judge()
    ending, nodes = end(0, 7, generation=4)
    words = judged.put_in_words(judged.judge(ending, nodes, 110.0), ending, nodes)
    assert (words.generation, words.action, words.exit_code) == (4, "give_up", 7)
    assert (words.reporter, words.num_failures) == ("h0", 1)
    assert words.report is not None and words.report["rank"] == 1


@pytest.mark.parametrize(("code", "exit_code"), [(0, 0), (-15, 143), (None, 143)])
def test_who_leaves_has_its_own_ranks_exit_code(code: int | None, exit_code: int) -> None:
    ending, [node] = end(code, asked=True)
    node.leaves_for = 15
    # Who has told nothing was between two attempts, and had no rank that could end otherwise.
    assert make_judge().release(node, ending) == Released(exit_code)


def test_who_comes_late_is_told_that_its_attempt_is_over() -> None:
    judged = make_judge(max_restarts=3)
    judge(judged, 0, 7)
    told = judged.tell_latecomer(0)
    assert (told.generation, told.action, told.num_failures) == (0, "restart", 1)
    assert "without this node" in told.reason, "its user is to know why all ranks start again"
