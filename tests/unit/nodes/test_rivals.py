"""A node whose rank another one has: that one may have been without power, and be the same host."""

from __future__ import annotations

from launcher.nodes.messages import Decided, Leave, Ping, Pong, Refused
from launcher.nodes.rules import LOST_CODE, USAGE_CODE
from tests.unit.nodes.coming import Story, make_rules


def begin(max_restarts: int = 1) -> Story:
    """Let two nodes start an attempt, whose ranks were given."""
    story = Story(make_rules(2, max_restarts=max_restarts))
    story.come(0, node_rank=0)
    story.come(1, node_rank=1)
    assert story.ranks() == {0: 0, 1: 1}
    return story


def come_again(story: Story, key: int = 5) -> None:
    """Let a node come a moment later that has the rank of the node 1."""
    story.now += 0.1
    story.come(key, member=f"again {key}", node_rank=1)


def test_nobody_is_refused_before_the_one_with_its_rank_was_heard_of() -> None:
    story = begin()
    come_again(story)
    assert story.said() == [(1, Pong())], "which a host that has started anew refuses at once"
    story.say(5, Ping())
    assert story.said() == [(5, Pong())], "it is not to think that nobody is here"
    story.now += 0.1
    story.say(1, Ping())
    (refused,) = story.heard(Refused).items()
    assert refused[0] == 5 and refused[1].exit_code == USAGE_CODE
    assert "node rank 1 is taken by h1; h5 has the same" in refused[1].message
    story.say(1, Ping())
    assert story.heard(Refused) == {}, "it is said once"


def test_a_node_takes_the_place_of_the_one_that_was_lost() -> None:
    story = begin()
    come_again(story)
    story.run.lose(1, "the connection broke", story.now, is_dead=True)
    story.settle(0, code=1, asked=True)
    story.ready(0)
    assert story.ranks() == {0: 0, 5: 1}
    assert story.run.news == []


def test_silence_is_awaited_where_nothing_else_tells_that_it_was_lost() -> None:
    story = begin()
    come_again(story)
    for _ in range(7):
        story.wait(1.0)
        story.say(0, Ping())
        story.say(5, Ping())
    story.settle(0, code=1, asked=True)
    story.ready(0)
    assert story.ranks() == {0: 0, 5: 1}


def test_before_the_start_it_is_the_same() -> None:
    story = Story(make_rules(3))
    story.come(0, node_rank=0)
    story.come(1, node_rank=1)
    come_again(story)
    story.run.lose(1, "its launcher has ended", story.now, is_dead=True)
    story.come(2, node_rank=2)
    assert story.ranks() == {0: 0, 5: 1, 2: 2}


def test_who_has_gone_again_is_not_taken_in() -> None:
    story = begin()
    come_again(story)
    story.run.lose(5, "its launcher has ended", story.now, is_dead=True)
    story.run.lose(1, "the connection broke", story.now, is_dead=True)
    assert sorted(story.run.keys) == [0]


def test_the_rank_of_the_coordinators_node_is_taken_for_certain() -> None:
    story = begin()
    story.now += 0.1
    story.come(5, member="again", node_rank=0)
    assert list(story.heard(Refused)) == [5]


def test_one_that_is_taken_in_while_the_attempt_ends_hears_how_the_run_has_ended() -> None:
    story = begin(max_restarts=0)
    come_again(story)
    story.run.lose(1, "the connection broke", story.now, is_dead=True)
    story.settle(0, code=1, asked=True)
    assert story.heard(Decided)[5].exit_code == LOST_CODE


def test_nobody_waits_for_a_run_that_has_ended() -> None:
    story = Story(make_rules(3))
    story.come(0, node_rank=0)
    story.come(1, node_rank=1)
    come_again(story)
    story.say(0, Leave("it has left"))
    assert "has ended already" in story.heard(Refused)[5].message
