"""A node is lost at every step of a run: each of its nodes, after each message that is delivered.

A story is told once to count its steps, and then again for each of them and each node. What must
hold then is what holds for random schedules.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from launcher.ranks import Assignment
from tests.unit.nodes.simulation.attempt import Fate
from tests.unit.nodes.simulation.network import simulated
from tests.unit.nodes.simulation.promises import broken_promises
from tests.unit.nodes.simulation.story import Story
from tests.unit.nodes.simulation.supervisor import Setting, Supervisor
from tests.unit.nodes.simulation.world import World

# How long the workers live, and nodes and signals come one after the other.
LIFE_S = 0.3

NUM_NODES = 3

FIXED = Setting(3, 3, max_restarts=1, join_timeout_s=4.0, node_timeout_s=3.0)
ELASTIC = FIXED._replace(min_nodes=1, last_call_s=0.1)


def succeed(supervisor: Supervisor, assignment: Assignment) -> list[Fate]:
    return [Fate(LIFE_S)]


def fail_first(supervisor: Supervisor, assignment: Assignment) -> list[Fate]:
    is_failing = assignment.attempt == 0 and assignment.places[0].rank == 1
    return [Fate(LIFE_S / 2, code=7) if is_failing else Fate(LIFE_S)]


def run_through() -> tuple[Story, list[Supervisor]]:
    return tell(FIXED, succeed)


def start_again() -> tuple[Story, list[Supervisor]]:
    return tell(FIXED, fail_first)


def let_one_in() -> tuple[Story, list[Supervisor]]:
    return tell(ELASTIC, succeed, last_begin_s=0.25)


def let_one_leave() -> tuple[Story, list[Supervisor]]:
    story, nodes = tell(ELASTIC, succeed)
    story.world.call_in(0.2, story.send, nodes[2], signal.SIGTERM)
    return story, nodes


def stop_all() -> tuple[Story, list[Supervisor]]:
    story, nodes = tell(FIXED, succeed)
    story.world.call_in(0.2, story.send, nodes[1], signal.SIGTERM)
    return story, nodes


def lose_another() -> tuple[Story, list[Supervisor]]:
    story, nodes = tell(ELASTIC, succeed)
    story.world.call_in(0.2, nodes[0].crash)
    story.num_troubles += 1
    return story, nodes


def tell(
    setting: Setting, plan: Callable[[Supervisor, Assignment], list[Fate]], last_begin_s: float = 0
) -> tuple[Story, list[Supervisor]]:
    story = Story(World(), setting, life_s=LIFE_S)
    return story, [story.add(begin_s, plan) for begin_s in (0.0, 0.01, 0.02 + last_begin_s)]


def play(story: Story) -> str:
    """Let a story go to its end; return it where a promise was broken, else ""."""
    with simulated(story.world) as world:
        has_ended = world.run(story.bound_s)
    broken = broken_promises(story, has_ended=has_ended)
    return "\n".join([*broken, *world.log]) if broken else ""


@pytest.mark.slow
@pytest.mark.parametrize("deed", ["crash", "lose power"])
@pytest.mark.parametrize(
    "make", [run_through, start_again, let_one_in, let_one_leave, stop_all, lose_another]
)
def test_a_node_may_be_lost_at_any_step(
    make: Callable[[], tuple[Story, list[Supervisor]]], deed: str
) -> None:
    undisturbed, _ = make()
    assert play(undisturbed) == ""
    for step in range(1, undisturbed.world.num_steps):
        for number in range(NUM_NODES):
            story, nodes = make()
            story.num_troubles += 1
            victim = nodes[number]
            if deed == "crash":
                story.world.call_at_step(step, victim.crash)
            else:
                story.world.call_at_step(step, story.lose_power, victim)
            broken = play(story)
            assert broken == "", f"node {number} is lost at step {step}: {broken}"
