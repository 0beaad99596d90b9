"""Where the nodes of an attempt are: their addresses, the store's, and who takes over in turn.

Addresses are those over which connections came, unless a node has been told its own. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from launcher.nodes.messages import Assigned, Deputy
from launcher.nodes.roster import Entry, Roster
from launcher.nodes.rules import OWN, Route, Rules
from launcher.system.network import is_loopback

# How many nodes are told to each as those that can take over.
_NUM_DEPUTIES = 8

# Up to so many nodes all are told where the ranks of all are.
_MOST_TOLD = 256


class Layout:
    """The addresses of the nodes on a roster, as they reach each other."""

    def __init__(self, rules: Rules, roster: Roster, own_address: str = "") -> None:
        """own_address: by which the others know this node, where that is known before they come."""
        self._rules = rules
        self._roster = roster
        # The coordinator's, as of the start of the last attempt.
        self._own_address = own_address
        # As of the last look, and of how many changes on the roster.
        self._deputies: tuple[Deputy, ...] = ()
        self._num_changes = -1

    def assign(
        self, chosen: Sequence[tuple[int, Entry]], generation: int, num_failures: int
    ) -> list[tuple[int, Assigned]]:
        """Return the part of each node in an attempt, with its key; they have their ranks."""
        world_size = sum(node.join.num_workers for _, node in chosen)
        self._own_address = self._find_own_address()
        deputies = self.deputies
        own_rank = self._roster[OWN].rank
        hostname_width = max(len(node.join.hostname) for _, node in chosen)
        hosts = ",".join(f"{node.join.hostname} {node.join.num_workers}" for _, node in chosen)
        first_rank = 0
        parts = []
        for key, node in chosen:
            master_addr, master_port = self._find_master(node, chosen[0][1])
            assigned = Assigned(
                generation=generation,
                run_name=self._rules.run_name,
                node_rank=node.rank,
                num_nodes=len(chosen),
                first_rank=first_rank,
                world_size=world_size,
                master_addr=master_addr,
                master_port=master_port,
                address=self._address_of(node),
                num_failures=num_failures,
                deputies=deputies,
                coordinator_rank=own_rank,
                hostname_width=hostname_width,
                coordinator_host=self._rules.hostname,
                horovod=chosen[0][1].join.horovod,
                hosts=hosts if len(chosen) <= _MOST_TOLD else "",
            )
            parts.append((key, assigned))
            first_rank += node.join.num_workers
        return parts

    @property
    def deputies(self) -> tuple[Deputy, ...]:
        """Who takes over when the coordinator is lost, in order."""
        if self._num_changes != self._roster.num_changes:
            self._num_changes = self._roster.num_changes
            self._deputies = self._find_deputies()
        return self._deputies

    def _find_deputies(self) -> tuple[Deputy, ...]:
        others = [node for key, node in self._roster.active if key != OWN]
        return tuple(
            Deputy(
                node.join.member,
                node.join.hostname,
                self._launcher_host_of(node),
                node.join.port,
                node.rank,
            )
            for node in others[:_NUM_DEPUTIES]
        )

    def _find_own_address(self) -> str:
        """Return the coordinator's address as the nodes of other hosts have found it."""
        own = self._roster.get(OWN)
        if own is not None and own.join.address:
            return own.join.address
        routes = [node.route for node in self._roster.nodes if node.route.of_coordinator]
        far = [route for route in routes if not is_loopback(route.of_node)]
        alone = Route("", self._own_address or "127.0.0.1")
        return (far or routes or [alone])[0].of_coordinator

    def _address_of(self, node: Entry) -> str:
        if node.join.address:
            return node.join.address
        return self._own_address if node.is_near else node.route.of_node

    def _launcher_host_of(self, node: Entry) -> str:
        host = node.launcher_host
        return self._own_address if node.is_near and host == node.route.of_node else host

    def _find_master(self, node: Entry, first: Entry) -> tuple[str, int]:
        """Return where a node's workers find rank 0: the way on which the node has come, if so."""
        port = self._rules.master_port or first.join.master_port
        if self._rules.master_addr:
            return self._rules.master_addr, port
        if first.is_near and not node.is_near and not first.join.address:
            return node.route.of_coordinator, port
        return self._address_of(first), port
