"""The story of a run at its coordinator: nodes come, start, fail, are lost, start again, end."""

from __future__ import annotations

from launcher.nodes.losses import Loss
from launcher.nodes.messages import (
    Assigned,
    Decided,
    Deputy,
    Failing,
    Farewell,
    Forsake,
    Heard,
    Leave,
    Ping,
    Pong,
    Ready,
    Refused,
    Released,
    Relocate,
    Settled,
    Still,
    Stop,
    Stopping,
    Waiting,
)
from launcher.nodes.rules import RESUME_S, Past
from tests.unit.nodes.coming import Story, make_account, make_rules


def begin(num_nodes: int = 2, min_nodes: int = 0, **rules: object) -> Story:
    """Return a run that goes on with so many nodes; elastic if the smallest number is another."""
    story = Story(make_rules(min_nodes or num_nodes, num_nodes, **rules))
    story.come(*range(num_nodes))
    assert story.ranks() == {key: key for key in range(num_nodes)}
    return story


def actions(story: Story) -> dict[int, str]:
    """Return which node has been told which verdict since the last time."""
    return {key: decided.action for key, decided in story.heard(Decided).items()}


# --- nodes come ---------------------------------------------------------------------------------


def test_all_nodes_start_when_the_last_one_comes() -> None:
    story = Story(make_rules(3))
    story.come(0, 1)
    assert story.said() == [] and story.run.generation == -1
    story.come(2)
    assert story.ranks() == {0: 0, 1: 1, 2: 2}
    assert story.run.generation == 0


def test_a_run_of_some_nodes_starts_after_its_last_call_and_with_those_that_have_come() -> None:
    story = Story(make_rules(2, 4, last_call_s=2.0))
    story.come(0)
    story.wait(5.0)
    story.come(1)
    story.wait(1.5)
    story.come(2)
    story.say(1, Ping())
    assert story.ranks() == {}
    story.wait(0.5)
    assert story.ranks() == {0: 0, 1: 1, 2: 2}


def test_a_full_run_needs_no_last_call_and_has_no_place_for_more() -> None:
    story = Story(make_rules(2, 3, last_call_s=30.0))
    story.come(0, 1, 2)
    assert story.ranks() == {0: 0, 1: 1, 2: 2}
    story.come(3)
    waiting = story.heard(Waiting)[3]
    assert waiting.reason == "all 3 nodes are there; this one steps in when one is lost"
    assert [deputy.hostname for deputy in waiting.deputies] == ["h1", "h2"]


def test_who_waits_in_vain_is_told_who_has_come() -> None:
    story = Story(make_rules(3, join_timeout_s=2.0))
    story.come(0, 1)
    story.wait(2.0)
    refused = story.heard(Refused)
    assert {one.message for one in refused.values()} == {"In 2 s 2 of 3 nodes have come (h0, h1)."}
    assert sorted(refused) == [0, 1] and story.run.is_over


def test_who_is_refused_is_told_why_and_the_others_wait_on() -> None:
    story = Story(make_rules(2))
    story.come(0)
    story.come(7, max_nodes=3)
    [refused] = story.heard(Refused).values()
    assert refused.message == "--nnodes 2:3 on h7 contradicts --nnodes 2 on h0"
    assert story.run.news == [f"h7 was refused: {refused.message}"]
    story.come(1)
    assert story.ranks() == {0: 0, 1: 1}


def test_who_comes_to_a_run_that_has_ended_is_told_so() -> None:
    story = begin()
    story.settle(0, 1)
    story.said()
    story.come(2)
    assert story.heard(Refused)[2].message == "this run has ended already"


def test_who_goes_again_before_the_start_is_not_waited_for() -> None:
    story = Story(make_rules(3))
    story.come(0, 1)
    story.run.lose(1, "its launcher has ended", story.now, is_dead=True)
    assert story.run.news == ["h1 has gone again: its launcher has ended"]
    story.come(2, 3)
    assert story.ranks() == {0: 0, 2: 1, 3: 2}


def test_a_member_that_comes_again_is_the_same_node() -> None:
    story = Story(make_rules(2))
    story.come(0)
    story.come(1, member="one and the same", node_rank=1)
    assert story.ranks() == {0: 0, 1: 1}
    story = Story(make_rules(3))
    story.come(0)
    story.come(1, member="one and the same", node_rank=1)
    story.come(5, member="one and the same", node_rank=1)
    assert story.said() == [] and sorted(story.run.keys) == [0, 5]


def test_heartbeats_are_answered_and_strangers_are_not_talked_to() -> None:
    story = begin()
    story.say(1, Ping())
    assert story.said() == [(1, Pong())]
    story.say(9, Ping(), Settled(0, {}), Failing(0), Stopping(0, 15))
    assert story.said() == []
    story.say(9, Leave("by mistake"), Heard())
    assert story.said() == [(9, Farewell()), (9, Farewell())]


def test_what_only_a_coordinator_says_changes_nothing() -> None:
    story = begin()
    for message in (Pong(), Farewell(), Stop(0, ""), Released(0), Relocate("h", 1)):
        story.say(1, message)
    assert story.said() == []


# --- an attempt ends ----------------------------------------------------------------------------


def test_a_run_that_succeeds_ends_when_all_have_heard_it() -> None:
    story = begin()
    story.settle(0)
    assert story.said() == []
    story.settle(1)
    assert actions(story) == {0: "finish", 1: "finish"}
    assert story.run.is_over and story.run.has_listeners
    story.hear(0)
    assert story.said() == []
    story.hear(1)
    assert story.said() == [(0, Farewell()), (1, Farewell())]


def test_the_first_word_of_a_failure_ends_the_ranks_of_all() -> None:
    story = begin(3)
    story.say(1, Failing(0))
    stops = story.heard(Stop)
    assert {key: stop.reason for key, stop in stops.items()} == dict.fromkeys(
        range(3), "a rank has failed on node 1 (h1)"
    )
    story.say(2, Failing(0))
    assert story.said() == []
    story.settle(0, 2, code=-15, asked=True)
    story.settle(1, code=7)
    decided = story.heard(Decided)
    assert {one.exit_code for one in decided.values()} == {7}
    assert [decided[key].is_reporter for key in range(3)] == [True, False, False]
    assert decided[2].reporter == "h0"
    report = decided[0].report
    assert report is not None and (report["rank"], report["hostname"]) == (1, "h1")


def test_an_account_of_a_failure_ends_the_ranks_of_all_too() -> None:
    story = begin(2)
    story.settle(1, code=7)
    assert {key: stop.reason for key, stop in story.heard(Stop).items()} == dict.fromkeys(
        range(2), "a rank has failed on node 1 (h1)"
    )


def test_what_is_said_of_another_attempt_ends_none() -> None:
    story = begin()
    story.say(1, Failing(1), Failing(-1), Settled(3, make_account(1, 7, 1.0, False)))
    assert story.said() == []


def test_after_a_failure_all_start_again_when_all_are_ready() -> None:
    story = begin(2, max_restarts=1)
    story.settle(1, code=7)
    story.settle(0, code=-15, asked=True)
    assert actions(story) == {0: "restart", 1: "restart"}
    story.ready(1)
    assert story.said() == []
    story.ready(0)
    assigned = story.heard(Assigned)
    assert {key: (part.generation, part.node_rank) for key, part in assigned.items()} == {
        0: (1, 0),
        1: (1, 1),
    }
    assert {part.num_failures for part in assigned.values()} == {1}
    assert {part.master_port for part in assigned.values()} == {29501}
    story.settle(0, code=7)
    story.settle(1, code=-15, asked=True)
    assert actions(story) == {0: "give_up", 1: "give_up"}


def test_who_is_ready_for_another_attempt_is_not_ready_for_this_one() -> None:
    story = begin(2, max_restarts=1)
    story.settle(1, code=7)
    story.settle(0, code=-15, asked=True)
    story.said()
    story.ready(0)
    story.say(1, Ready(0, 29501), Ready(2, 29501))
    assert story.ranks() == {}
    story.ready(1)
    assert story.ranks() == {0: 0, 1: 1}


def test_who_stands_still_alone_waits_for_the_others() -> None:
    story = begin(2)
    story.say(0, Still(0, is_still=True))
    assert story.said() == []
    story.say(0, Still(0, is_still=False))
    story.say(1, Still(0, is_still=True))
    assert story.said() == []
    story.say(0, Still(0, is_still=True))
    stops = story.heard(Stop)
    assert sorted(stops) == [0, 1] and all(stop.is_hang for stop in stops.values())


def test_who_has_ended_is_not_waited_for_where_all_others_stand_still() -> None:
    story = begin(2)
    story.settle(0)
    story.say(1, Still(0, is_still=True))
    assert story.heard(Stop)[1].is_hang


def test_a_node_that_does_not_tell_how_it_ended_is_waited_for_half_a_minute() -> None:
    story = begin(2)
    story.say(1, Failing(0))
    story.settle(1, code=7)
    story.said()
    for _ in range(29):
        story.say(1, Ping())
        story.wait(1.0)
    assert actions(story) == {}
    story.say(1, Ping())
    story.wait(1.0)
    assert actions(story) == {0: "give_up", 1: "give_up"}


# --- nodes are lost -----------------------------------------------------------------------------


def test_a_silent_node_is_lost_after_the_stated_time() -> None:
    story = begin(2, node_timeout_s=6.0)
    story.wait(6.0)
    assert story.said() == []
    story.wait(0.5)
    told = story.said()
    goodbye = next(message for key, message in told if key == 1)
    assert isinstance(goodbye, Refused)
    assert goodbye.message.startswith("nothing was heard of this node for 6.5 s")
    stop = next(message for key, message in told if key == 0)
    assert isinstance(stop, Stop) and "node 1 (h1) was lost" in stop.reason


def test_a_lost_node_ends_the_run_with_one_report() -> None:
    story = begin(3)
    story.run.lose(2, "its launcher has ended", story.now, is_dead=True)
    assert sorted(story.heard(Stop)) == [0, 1]
    story.settle(0, 1, code=-15, asked=True)
    decided = story.heard(Decided)
    assert {one.action for one in decided.values()} == {"give_up"}
    report = decided[0].report
    assert report is not None
    assert report["what"] == "node 2 (h2) was lost: its launcher has ended"


def test_an_elastic_run_goes_on_without_a_lost_node_and_ranks_are_stable() -> None:
    story = begin(3, min_nodes=1)
    story.run.lose(1, "its launcher has ended", story.now, is_dead=True)
    story.settle(0, 2, code=-15, asked=True)
    assert actions(story) == {0: "restart", 2: "restart"}
    story.come(4)
    assert list(story.heard(Waiting)) == [4]
    story.ready(0, 2)
    assert story.ranks() == {0: 0, 4: 1, 2: 2}


def test_a_spare_steps_in_for_a_lost_node() -> None:
    story = begin(2, min_nodes=1)
    story.come(5)
    story.run.lose(1, "its launcher has ended", story.now, is_dead=True)
    story.settle(0, code=-15, asked=True)
    story.ready(0)
    assert story.ranks() == {0: 0, 5: 1}


def test_a_node_that_was_lost_with_all_its_ranks_well_is_no_failure() -> None:
    story = begin(2)
    story.settle(1)
    story.run.lose(1, "its launcher has ended", story.now, is_dead=True)
    assert story.heard(Stop) == {}
    story.settle(0)
    assert actions(story) == {0: "finish"}


def test_who_forsakes_this_coordinator_may_go_on_elsewhere() -> None:
    story = begin(3, min_nodes=1)
    story.say(1, Forsake())
    story.say(2, Forsake())
    story.settle(0, code=-15, asked=True)
    [decided] = story.heard(Decided).values()
    assert decided.action == "give_up"
    assert "no more than half of the nodes can be reached from here" in decided.reason


def test_a_connection_that_broke_is_waited_for_before_all_is_judged() -> None:
    story = begin(2, min_nodes=1)
    story.run.lose(1, "the connection to it broke", story.now, is_dead=False)
    story.settle(0, code=-15, asked=True)
    assert actions(story) == {}
    story.come(8, member="member h1", hostname="h1", generation=0, old_rank=1, num_nodes=2)
    assert [type(message) for key, message in story.said() if key == 8] == [Pong]
    story.say(8, Settled(0, make_account(1, 0, 20.0, True)))
    decided = story.heard(Decided)
    assert sorted(decided) == [0, 8]


def test_a_connection_that_broke_before_the_restart_is_waited_for() -> None:
    story = begin(3, min_nodes=1, max_restarts=3)
    story.settle(0, code=7)
    story.settle(1, 2, code=-15, asked=True)
    story.said()
    story.ready(0, 1)
    story.run.lose(2, "the connection to it broke", story.now, is_dead=False)
    assert story.said() == []
    resume(story, 8, 2)
    told = [message for key, message in story.said() if key == 8]
    assert [type(message) for message in told] == [Pong, Decided]
    assert isinstance(told[1], Decided) and told[1].action == "restart"
    story.say(8, Ready(1, 29501))
    assert story.ranks() == {0: 0, 1: 1, 8: 2}


def test_a_coordinator_that_was_stopped_itself_buries_nobody() -> None:
    story = begin(3, min_nodes=1)
    story.now += 5.0  # in one step: it had no time in between
    for key in (1, 2):
        story.run.lose(key, "its launcher has ended", story.now, is_dead=True)
    story.settle(0, code=-15, asked=True)
    story.wait(3.5)
    [decided] = story.heard(Decided).values()
    assert decided.action == "give_up"


def test_a_newcomer_ends_the_attempt_so_that_it_can_take_part() -> None:
    story = Story(make_rules(1, 2, last_call_s=0.0))
    story.come(0)
    assert story.ranks() == {0: 0}
    story.come(1)
    told = story.said()
    assert [(key, type(message)) for key, message in told] == [(1, Waiting), (0, Stop)]
    story.settle(0, code=-15, asked=True)
    assert story.heard(Decided)[0].reason == "h1 has come; starting all ranks again"
    story.ready(0)
    assert story.ranks() == {0: 0, 1: 1}


def test_a_newcomer_waits_for_the_next_restart_where_it_is_to() -> None:
    story = Story(make_rules(1, 2, last_call_s=0.0, rescales_now=False))
    story.come(0)
    story.said()
    story.come(1)
    assert [(key, type(message)) for key, message in story.said()] == [(1, Waiting)]


# --- signals ------------------------------------------------------------------------------------


def test_a_signal_at_one_node_stops_all_and_a_second_one_hurries_them() -> None:
    story = begin(2)
    story.say(1, Stopping(0, 15))
    stops = story.heard(Stop)
    assert {(stop.signum, stop.reason, stop.is_forced) for stop in stops.values()} == {
        (15, "node 1 (h1) received SIGTERM", False)
    }
    story.say(0, Stopping(0, 15))
    assert story.said() == []
    story.say(0, Stopping(0, 2, is_forced=True))
    assert {(stop.signum, stop.is_forced) for stop in story.heard(Stop).values()} == {(2, True)}
    story.settle(0, 1, code=-15, asked=True)
    assert {one.exit_code for one in story.heard(Decided).values()} == {143}


def test_after_a_signal_ranks_have_all_the_time_that_they_need_to_save() -> None:
    story = begin(2)
    story.say(1, Stopping(0, 15))
    story.settle(1, asked=True)
    for _ in range(60):
        story.say(1, Ping())
        story.wait(1.0)
    assert actions(story) == {}
    story.settle(0, asked=True)
    assert {one.exit_code for one in story.heard(Decided).values()} == {0}


def test_a_spare_that_is_stopped_stops_nobody() -> None:
    story = begin(2)
    story.come(5)
    story.said()
    story.say(5, Stopping(0, 15))
    assert story.said() == []


# --- a coordinator was lost ---------------------------------------------------------------------


ABSENT = Deputy("member h2", "h2", "10.0.0.2", 4002, 2)


def take_over(
    num_nodes: int = 3,
    min_nodes: int = 1,
    *,
    is_dead: bool = True,
    absent: tuple[Deputy, ...] = (),
    **rules: object,
) -> Story:
    """Return the story of a successor, which was node 1: node 0 had coordinated, under it."""
    dead = frozenset((0,)) if is_dead else frozenset()
    loss = Loss(0, "h0", "its launcher has ended", 99.0, is_dead)
    past = Past(0, num_nodes, 0, (loss,), dead, "10.0.0.1", absent, 99.0 + RESUME_S)
    story = Story(make_rules(min_nodes, num_nodes, hostname="h1", **rules), past)
    resume(story, 0, 1)
    return story


def resume(story: Story, key: int, rank: int, **fields: object) -> None:
    numbers = {"generation": 0, "old_rank": rank, "num_nodes": 3}
    names = {"hostname": f"h{rank}", "member": f"member h{rank}"}
    story.come(key, **{**numbers, **names, **fields})


def test_a_successor_waits_for_those_that_are_on_their_way() -> None:
    story = take_over()
    story.settle(0, code=-15, asked=True)
    assert actions(story) == {}
    resume(story, 4, 2)
    story.say(4, Settled(0, make_account(2, -15, 20.0, True)))
    assert actions(story) == {0: "restart", 4: "restart"}
    story.ready(0, 4)
    assert story.ranks() == {0: 0, 4: 1}


def test_who_does_not_come_to_a_successor_may_go_on_elsewhere() -> None:
    story = take_over(is_dead=False)
    story.settle(0, code=-15, asked=True)
    story.wait(3.5)
    [decided] = story.heard(Decided).values()
    assert decided.action == "give_up"
    assert "no more than half" in decided.reason


def test_who_has_ended_with_the_coordinator_is_not_waited_for() -> None:
    story = take_over(absent=(ABSENT,))
    story.settle(0, code=-15, asked=True)
    assert story.run.find_absent(story.now) == [ABSENT]
    story.run.bury(ABSENT, "its launcher has ended", story.now)
    assert story.run.find_absent(story.now) == []
    assert actions(story) == {0: "restart"}
    story.ready(0)
    assert story.ranks() == {0: 0}


def test_who_has_come_to_a_successor_has_not_ended_with_the_coordinator() -> None:
    story = take_over(absent=(ABSENT,))
    resume(story, 4, 2)
    assert story.run.find_absent(story.now) == []
    story.run.bury(ABSENT, "its launcher has ended", story.now)
    story.settle(0, code=-15, asked=True)
    assert actions(story) == {}


def test_who_ends_later_may_have_gone_on_without_this_node() -> None:
    story = take_over(absent=(ABSENT,))
    story.now = 99.0 + RESUME_S
    assert story.run.find_absent(story.now) == []


def test_a_successor_that_was_stopped_itself_does_not_believe_that_others_have_ended() -> None:
    story = take_over(absent=(ABSENT,), node_timeout_s=3.0)
    story.settle(0, code=-15, asked=True)
    story.now += 1.6
    assert story.run.find_absent(story.now) == [ABSENT]
    story.run.bury(ABSENT, "its launcher has ended", story.now)
    assert actions(story) == {}


def test_what_the_lost_coordinator_had_decided_holds() -> None:
    story = take_over()
    resume(story, 4, 2)
    story.said()
    story.say(4, Decided(0, "give_up", "a reason", 0.0, 9, None, False, "h0"))
    story.settle(0, code=-15, asked=True)
    decided = story.heard(Decided)
    assert (decided[0].action, decided[0].exit_code) == ("give_up", 9)
    assert 4 not in decided  # it knows it


def test_who_comes_late_to_a_successor_takes_part_in_the_next_attempt() -> None:
    story = take_over(4)
    resume(story, 4, 2, num_nodes=4)
    story.settle(0, code=-15, asked=True)
    story.say(4, Settled(0, make_account(2, -15, 20.0, True)))
    story.say(4, Ping())
    story.wait(3.0)
    story.say(4, Ping())
    assert actions(story) == {0: "restart", 4: "restart"}
    story.ready(0, 4)
    assert story.ranks() == {0: 0, 4: 1}
    resume(story, 5, 3, num_nodes=4)
    told = [message for key, message in story.said() if key == 5]
    assert [type(message) for message in told] == [Pong, Decided, Waiting]
    story.settle(0, code=-15, asked=True)
    story.say(4, Settled(1, make_account(1, -15, 20.0, True)))
    story.ready(0, 4)
    assert story.ranks() == {}
    story.say(5, Ready(1, 29501))
    assert story.ranks() == {0: 0, 4: 1, 5: 2}


def test_who_comes_late_hears_how_the_run_has_ended() -> None:
    story = take_over()
    story.say(0, Decided(0, "finish", "", 0.0, 0, None, False, "h1"))
    story.wait(3.5)
    story.said()
    assert story.run.is_over
    resume(story, 4, 2)
    assert {key: one.action for key, one in story.heard(Decided).items()} == {4: "finish"}
    story.hear(4)
    assert story.said() == [(0, Farewell()), (4, Farewell())]


def test_where_the_coordinators_own_node_goes_before_the_start_the_others_look_elsewhere() -> None:
    story = Story(make_rules(3))
    story.come(0, 1)
    story.say(0, Leave("it has left"))
    assert story.run.is_over and len(story.run.keys) == 0
    story.come(2)
    assert story.heard(Refused)[2].exit_code == 1


def test_who_has_not_heard_the_end_is_waited_for() -> None:
    story = begin(2)
    story.settle(0, 1)
    assert story.run.waits_for(1) and not story.run.waits_for(9)
    story.hear(0, 1)
    assert not story.run.waits_for(1)
