"""Nodes that come to a coordinator, and what it says to whom: words for the stories of tests."""

from __future__ import annotations

from typing import Any, TypeVar

from launcher.nodes.messages import Assigned, Heard, Join, Message, Ready, Settled
from launcher.nodes.rendezvous import Rendezvous
from launcher.nodes.restart import RestartPolicy
from launcher.nodes.roster import Entry, Roster
from launcher.nodes.rules import Past, Route, Rules

Kind = TypeVar("Kind")


def make_join(name: str, **fields: Any) -> Join:
    return Join(
        **{
            "member": f"member {name}",
            "hostname": name,
            "num_workers": 1,
            "node_rank": -1,
            "min_nodes": 2,
            "max_nodes": 2,
            "max_restarts": 0,
            "alike": {},
            "address": "",
            "port": 4000,
            "master_port": 29500,
            **fields,
        }
    )


def make_rules(min_nodes: int = 2, max_nodes: int | None = None, **fields: Any) -> Rules:
    policy = RestartPolicy(fields.pop("max_restarts", 0))
    most = min_nodes if max_nodes is None else max_nodes
    return Rules("run", min_nodes, most, policy, **{"hostname": "h0", **fields})


def make_roster(*names: str, now: float = 0.0) -> tuple[Roster, list[Entry]]:
    """Return a roster with these nodes under the keys 0, 1, ..."""
    roster = Roster(6.0, now)
    nodes = [roster.add(key, make_join(name), route_to(key), now) for key, name in enumerate(names)]
    return roster, nodes


def seat(roster: Roster, generation: int = 0) -> None:
    """Begin an attempt with all nodes that are here."""
    roster.seat(roster.rank_next(), generation)


def route_to(key: int) -> Route:
    """Return the route of a node; that of the key 0 is the coordinator's own."""
    return Route(f"10.0.0.{key}", "10.0.0.100") if key else Route()


class Story:
    """A coordinator, told in the order in which things happen; `now` goes on by hand."""

    def __init__(self, rules: Rules, past: Past | None = None, *, now: float = 100.0) -> None:
        self.rules = rules
        self.now = now
        self.run = Rendezvous(rules, now, past)

    def come(self, *keys: int, **fields: Any) -> None:
        """Let nodes come, the node with the key 1 from the host h1."""
        numbers = {"min_nodes": self.rules.min_nodes, "max_nodes": self.rules.max_nodes}
        for key in keys:
            join = make_join(f"h{key}", **{**numbers, **fields})
            self.run.handle(key, join, self.now, route_to(key))

    def say(self, key: int, *said: Message) -> None:
        for message in said:
            self.run.handle(key, message, self.now)

    def settle(self, *keys: int, code: int = 0, seconds: float = 20.0, asked: bool = False) -> None:
        """Let nodes tell how the last attempt ended there; each has one rank, of its key."""
        for key in keys:
            self.say(key, Settled(self.run.generation, make_account(key, code, seconds, asked)))

    def ready(self, *keys: int) -> None:
        for key in keys:
            self.say(key, Ready(self.run.generation + 1, 29501))

    def hear(self, *keys: int) -> None:
        for key in keys:
            self.say(key, Heard())

    def wait(self, seconds: float) -> None:
        """Let time go on; the nodes are heard of meanwhile, and the clock is looked at."""
        for _ in range(round(seconds / 0.5)):
            self.now += 0.5
            self.run.tick(self.now)

    def said(self) -> list[tuple[int, Message]]:
        """Return what was said since the last time."""
        outbox, self.run.outbox = self.run.outbox, []
        return outbox

    def heard(self, kind: type[Kind]) -> dict[int, Kind]:
        """Return who was told a message of this kind since the last time; each once."""
        told = [(key, message) for key, message in self.said() if isinstance(message, kind)]
        assert len({key for key, _ in told}) == len(told), told
        return dict(told)

    def ranks(self) -> dict[int, int]:
        """Return which node has been given which node rank since the last time."""
        return {key: part.node_rank for key, part in self.heard(Assigned).items()}


def make_account(rank: int, code: int, seconds: float, asked: bool) -> dict[str, Any]:
    if code == 0:
        return {"duration": seconds, "ranks": [rank], "asked": asked}
    told = {"rank": rank, "pid": 1, "code": code, "ended": 0.5, "order": 1}
    account = {"duration": seconds, "workers": [{**told, **({"asked": 0.6} if asked else {})}]}
    return {**account, "node_failure": "", "obstacle": "", "replaced": []}
