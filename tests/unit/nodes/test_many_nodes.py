"""Ten thousand nodes and their coordinator, as bare state machines: nothing is quadratic in them.

Compared is the time that a story takes for each node, of many and of few.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from time import process_time

import pytest

from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.nodes.account import make_account
from launcher.nodes.member import LetGo, Member, Say, Serve
from launcher.nodes.messages import Join
from launcher.nodes.rendezvous import Rendezvous
from launcher.nodes.restart import RestartPolicy
from launcher.nodes.rules import OWN, Past, Route, Rules

MANY = 10_000
# Enough to see what is quadratic.
SOME = 4_000
FEW = 500

# Looks at the clock are this far apart.
TICK_S = 0.25

LAST_CALL_S = 5.0


class Nodes:
    """Members by their number, and who coordinates them; what they say arrives at once."""

    def __init__(self, number: int, num_min: int) -> None:
        self.now = 0.0
        self.number, self.num_min = number, num_min
        policy = RestartPolicy(max_restarts=1)
        self.rules = Rules("run", num_min, number, policy, last_call_s=LAST_CALL_S, hostname="h0")
        self.members = {each: self._make_member(each) for each in range(number)}
        self.coordinator = Rendezvous(self.rules, self.now)
        # The number of the node that coordinates.
        self.first = 0
        # What the node knows that is to take over.
        self.past: Past | None = None

    def _make_member(self, number: int) -> Member:
        join = Join(
            member=f"member {number}",
            hostname=f"h{number}",
            num_workers=1,
            node_rank=-1,
            min_nodes=self.num_min,
            max_nodes=self.number,
            max_restarts=1,
            alike={},
            address="",
            port=40000,
            master_port=50000,
        )
        return Member(join, 600.0, 6.0, self.now)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members.values())

    def key_of(self, number: int) -> int:
        return OWN if number == self.first else number + 1

    def come(self) -> None:
        """Let all come that have not come yet."""
        for number, member in self.members.items():
            if member.state != "joined":
                member.open(self.now, is_own=number == self.first)
        self.deliver()

    def deliver(self) -> None:
        """Carry messages to and fro until nobody has more to say."""
        numbers = {self.key_of(number): number for number in self.members}
        while sum(self.carry(number) for number in self.members) or self.coordinator.outbox:
            outbox, self.coordinator.outbox = self.coordinator.outbox, []
            for key, message in outbox:
                if key in numbers:
                    self.members[numbers[key]].take(message, self.now)

    def carry(self, number: int) -> bool:
        """Bring what a node has to say to the coordinator; return whether there was anything."""
        member = self.members[number]
        actions, member.actions = member.actions, []
        here = Route() if number == self.first else Route(f"10.0.0.{number}", "10.1.0.0")
        for action in actions:
            if isinstance(action, Say):
                self.coordinator.handle(self.key_of(number), action.message, self.now, here)
            elif isinstance(action, LetGo) and member.state == "over":
                self.coordinator.lose(self.key_of(number), "it ended", self.now, is_dead=True)
            elif isinstance(action, Serve):
                self.past, self.first = action.past, number
        return bool(actions)

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds / TICK_S)):
            self.now += TICK_S
            for member in self:
                member.tick(self.now)
            self.coordinator.tick(self.now)
            self.deliver()

    def settle(self, code: int, *, is_asked: bool) -> None:
        """Let the workers end of all who have any."""
        for member in self:
            if member.assigned is None or member.has_ended:
                continue
            asked_at = self.now if is_asked else None
            rank = member.assigned.first_rank
            worker = WorkerOutcome(rank, 100, code, self.now, 1, asked_to_stop_at=asked_at)
            outcome = AttemptOutcome(member.assigned.generation, (worker,), duration_s=1.0)
            member.settle(make_account(outcome, self.now))
        self.deliver()

    def run_to_the_end(self, generation: int) -> None:
        """Let all workers of the attempt that has begun succeed."""
        parts = [member.assigned for member in self]
        assert sorted(part.node_rank for part in parts) == list(range(len(self.members)))
        assert {part.generation for part in parts} == {generation}
        self.settle(0, is_asked=False)
        self.pass_time(1.0)
        assert {member.state for member in self} == {"over"}
        assert {member.decided.exit_code for member in self} == {0}

    def start_again(self) -> None:
        assert {member.decided.action for member in self if member.decided} == {"restart"}
        for member in self:
            member.make_ready(50001)
        self.deliver()


def fail(nodes: Nodes) -> None:
    nodes.members[nodes.number // 2].fail()
    nodes.deliver()
    assert all(member.stop for member in nodes)
    nodes.settle(7, is_asked=False)
    nodes.start_again()
    nodes.run_to_the_end(generation=1)


def hang(nodes: Nodes) -> None:
    for member in nodes:
        member.tell_still(is_still=True)
    nodes.deliver()
    assert all(member.stop.is_hang for member in nodes)


def lose_half(nodes: Nodes) -> None:
    for number in range(nodes.number // 2, nodes.number):
        del nodes.members[number]
        nodes.coordinator.lose(nodes.key_of(number), "it ended", nodes.now, is_dead=True)
    nodes.deliver()
    nodes.settle(-15, is_asked=True)
    nodes.start_again()
    nodes.run_to_the_end(generation=1)


def lose_coordinator(nodes: Nodes) -> None:
    del nodes.members[nodes.first]
    nodes.first = -1
    for number, member in nodes.members.items():
        member.close("its launcher has ended", nodes.now, is_dead=True)
        nodes.carry(number)
    nodes.coordinator = Rendezvous(nodes.rules, nodes.now, nodes.past)
    nodes.come()
    nodes.settle(-15, is_asked=True)
    nodes.start_again()
    nodes.run_to_the_end(generation=1)


def be_stopped_twice(nodes: Nodes) -> None:
    for is_forced in (False, True):
        for member in nodes:
            member.stop_all(signal.SIGTERM, is_for_all=True, is_forced=is_forced)
        nodes.deliver()
    assert {member.stop.signum for member in nodes} == {signal.SIGTERM}
    assert all(member.stop.is_forced for member in nodes)


def leave(nodes: Nodes) -> None:
    for member in [*nodes][1:]:
        member.stop_all(signal.SIGTERM)
    nodes.deliver()
    nodes.settle(-15, is_asked=True)
    assert [member.decided.action for member in nodes][:2] == ["restart", "leave"]


def come_late(nodes: Nodes) -> None:
    for number in range(nodes.number // 2, nodes.number):
        nodes.coordinator.lose(nodes.key_of(number), "it ended", nodes.now, is_dead=True)
        nodes.members[number] = nodes._make_member(number)
    nodes.come()
    nodes.settle(-15, is_asked=True)
    nodes.start_again()
    nodes.run_to_the_end(generation=1)


ELASTIC = (lose_half, lose_coordinator, leave, come_late)


def play(story: Callable[[Nodes], None], number: int) -> float:
    """Return how much time a story takes, for each node."""
    began = process_time()
    nodes = Nodes(number, 1 if story in ELASTIC else number)
    nodes.come()
    story(nodes)
    return (process_time() - began) / number


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Keep the collector, whose work grows with all that is there, out of the figures."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.slow
@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize(
    ("story", "number"),
    [(fail, MANY), *((story, SOME) for story in (hang, be_stopped_twice, *ELASTIC))],
)
def test_each_of_many_nodes_costs_as_much_as_each_of_few(
    story: Callable[[Nodes], None], number: int
) -> None:
    few_s = min(play(story, FEW) for _ in range(3))
    assert play(story, number) < 4 * few_s
