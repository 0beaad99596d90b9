"""Who is here: the nodes that are connected to their coordinator, and those that may come again.

Knows which node has which rank in the last attempt, which would have which in the next, and who is
known under which name; what follows from it is judged elsewhere. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from launcher.diagnosis.outcome import AttemptOutcome
from launcher.nodes.doubts import Doubts
from launcher.nodes.messages import Join
from launcher.nodes.rules import Route
from launcher.system.network import is_loopback, is_numeric


class Entry:
    """A node that is connected, or was in this attempt."""

    def __init__(self, join: Join, route: Route, number: int, now: float) -> None:
        self.join = join
        self.route = route
        # The order of arrival.
        self.number = number
        self.heard_at = now
        # The last attempt that it has been told of.
        self.generation = join.generation
        # Its node rank in the attempt that goes on or has been the last; -1 for a spare.
        self.rank = join.old_rank
        self.outcome: AttemptOutcome | None = None
        # The signal for which it leaves a run that goes on; 0 while it does not.
        self.leaves_for = 0

    def __str__(self) -> str:
        return f"node {self.rank} ({self.join.hostname})"

    @property
    def is_near(self) -> bool:
        """Whether it is on the coordinator's host."""
        return not self.route.of_node or is_loopback(self.route.of_node)

    @property
    def launcher_host(self) -> str:
        """Where its launcher listens, as the coordinator's host reaches it: never a name."""
        return self.join.address if is_numeric(self.join.address) else self.route.of_node

    @property
    def place_in_line(self) -> tuple[bool, int, bool, int, int]:
        """Its place among those that come: by given rank, by the one that it had, by arrival."""
        given, old = self.join.node_rank, self.join.old_rank
        return given < 0, given, old < 0, old, self.number

    @property
    def is_spare(self) -> bool:
        """Whether it has no part in the last attempt."""
        return self.rank < 0


class Roster:
    """The nodes that are here, by the key of their connection."""

    def __init__(self, node_timeout_s: float, now: float) -> None:
        self.doubts = Doubts(node_timeout_s, now)
        self._nodes: dict[int, Entry] = {}
        # The keys by the name of the member, and by the node rank that nodes have brought along.
        self._keys: dict[str, int] = {}
        self._given_ranks: dict[int, int] = {}
        # The keys of those that leave a run that goes on.
        self._leaving: set[int] = set()
        self._num_joined = 0
        # How many of the nodes have a rank in the last attempt, and how often that has changed.
        self.num_active = 0
        self.num_changes = 0
        # Until when nodes may come again whose connections broke, by the name of the member.
        self._expected: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, key: int) -> bool:
        return key in self._nodes

    def __getitem__(self, key: int) -> Entry:
        return self._nodes[key]

    def get(self, key: int) -> Entry | None:
        """Return the node with this key, or None."""
        return self._nodes.get(key)

    @property
    def keys(self) -> Collection[int]:
        return self._nodes.keys()

    @property
    def nodes(self) -> Collection[Entry]:
        """All nodes that are here, in the order in which their connections came."""
        return self._nodes.values()

    @property
    def items(self) -> Collection[tuple[int, Entry]]:
        """All nodes that are here with their keys."""
        return self._nodes.items()

    @property
    def active(self) -> list[tuple[int, Entry]]:
        """The nodes of the last attempt that are left, with their keys, in the order of rank."""
        active = [(key, node) for key, node in self._nodes.items() if not node.is_spare]
        return sorted(active, key=lambda item: item[1].rank)

    @property
    def active_ranks(self) -> list[int]:
        """The node ranks of those of the last attempt that are left."""
        return [node.rank for node in self._nodes.values() if not node.is_spare]

    @property
    def spares(self) -> list[int]:
        """The keys of the nodes that wait for a place."""
        return [key for key, node in self._nodes.items() if node.is_spare]

    @property
    def leavers(self) -> list[tuple[int, Entry]]:
        """The nodes that leave a run that goes on, with their keys, in the order of rank."""
        leaving = ((key, self._nodes[key]) for key in self._leaving)
        return sorted(leaving, key=lambda item: item[1].rank)

    def can_spare(self, num_more: int, min_nodes: int) -> bool:
        """Tell whether enough nodes stay where so many leave besides those that do already."""
        return len(self._nodes) - len(self._leaving) - num_more >= min_nodes

    def let_leave(self, key: int, signum: int) -> None:
        """Take note that a node leaves a run that goes on, for this signal."""
        self._nodes[key].leaves_for = signum
        self._leaving.add(key)

    def let_stay(self) -> None:
        """Take note that nobody leaves: the run does not go on."""
        for key in self._leaving:
            self._nodes[key].leaves_for = 0
        self._leaving.clear()

    def find_key(self, member: str) -> int | None:
        """Return the key of the node with this name, or None."""
        return self._keys.get(member)

    def find_given(self, node_rank: int) -> Entry | None:
        """Return the node that has brought this node rank along, or None."""
        key = self.find_given_key(node_rank)
        return None if key is None else self._nodes[key]

    def find_given_key(self, node_rank: int) -> int | None:
        """Return the key of the node that has brought this node rank along, or None."""
        return self._given_ranks.get(node_rank)

    def add(self, key: int, join: Join, route: Route, now: float) -> Entry:
        """Take a node in; its rank counts once it is `count`ed, or seated."""
        node = self._nodes[key] = Entry(join, route, self._num_joined, now)
        self._num_joined += 1
        self._keys[join.member] = key
        if join.node_rank >= 0:
            self._given_ranks[join.node_rank] = key
        return node

    def count(self) -> None:
        """Count a node that has come with the rank that it has in the last attempt."""
        self.num_active += 1
        self.num_changes += 1

    def forget(self, key: int) -> Entry | None:
        """Return a node that is not here any more; None if it was not."""
        node = self._nodes.pop(key, None)
        if node is not None:
            self.num_active -= not node.is_spare
            self.num_changes += not node.is_spare
            self._leaving.discard(key)
            self._given_ranks.pop(node.join.node_rank, None)
            self._keys.pop(node.join.member, None)
        return node

    def clear(self) -> None:
        """Forget all nodes: there is no run here any more."""
        self._nodes.clear()
        self._leaving.clear()

    def seat(self, chosen: Sequence[tuple[int, Entry]], generation: int) -> None:
        """Give the nodes of the next attempt their ranks, in this order."""
        for node in self._nodes.values():
            node.rank, node.outcome = -1, None
        for rank, (_, node) in enumerate(chosen):
            node.rank, node.generation = rank, generation
        self.num_active = len(chosen)
        self.num_changes += 1

    def rank_next(self) -> list[tuple[int, Entry]]:
        """Return all nodes with their keys, in the order of the ranks that they would have next.

        Nodes that stay keep their order, and their rank where all before them stay, too: who comes
        fills the gaps.
        """
        ready = list(self._nodes.items())
        staying = sorted((item for item in ready if item[1].rank >= 0), key=lambda i: i[1].rank)
        coming = sorted(
            (item for item in ready if item[1].rank < 0), key=lambda item: item[1].place_in_line
        )
        if not staying:
            return _by_given_rank(coming)
        ordered: list[tuple[int, Entry]] = []
        for item in staying:
            while coming and len(ordered) < item[1].rank:
                ordered.append(coming.pop(0))
            ordered.append(item)
        return [*ordered, *coming]

    # --- who may come again ---------------------------------------------------------------------

    def expect(self, member: str, until: float) -> None:
        """Take note that a node is to come again whose connection broke."""
        self._expected[member] = until

    def welcome(self, member: str) -> None:
        """Expect a node no more: it has come."""
        self._expected.pop(member, None)

    def is_unsure(self, now: float) -> bool:
        """Tell whether it is not known yet who is left."""
        if self._expected and max(self._expected.values()) <= now:
            self._expected.clear()
        return bool(self._expected) or self.doubts.last(now)


def _by_given_rank(nodes: Iterable[tuple[int, Entry]]) -> list[tuple[int, Entry]]:
    """Return nodes with those that have a rank given at that place, as far as there are so many."""
    every = list(nodes)
    given = {node.join.node_rank: (key, node) for key, node in every if node.join.node_rank >= 0}
    free = [(key, node) for key, node in every if node.join.node_rank < 0]
    ordered: list[tuple[int, Entry]] = []
    for rank in range(len(every)):
        if rank in given:
            ordered.append(given.pop(rank))
        elif free:
            ordered.append(free.pop(0))
    return [*ordered, *(given[rank] for rank in sorted(given)), *free]
