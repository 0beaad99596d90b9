"""A random schedule: what the user has typed, how workers end, and what befalls nodes and network.

All is drawn from one number before the story begins, so that the same number is the same story.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from typing import NamedTuple

from launcher.ranks import Assignment
from tests.unit.nodes.simulation.attempt import NEVER_S, Fate
from tests.unit.nodes.simulation.network import Host
from tests.unit.nodes.simulation.story import Story
from tests.unit.nodes.simulation.supervisor import Setting, Supervisor
from tests.unit.nodes.simulation.world import World

# What may befall a run, by the kind of the schedule; each kind has all of those before it, too.
_TROUBLES = {
    "failures": ("signal", "signal", "stop"),
    "ends": ("crash", "crash", "crash", "newcomer", "rejoin", "signal"),
    "silence": ("power", "pause", "pause", "reset", "crash", "rejoin"),
    "partitions": ("cut", "cut", "cut", "pause", "reset"),
}
KINDS = tuple(_TROUBLES)

# The latest time at which something befalls a run, and the longest that a trouble lasts.
_LATEST_S = 12.0
_LONGEST_S = 15.0

# How long the ranks of an attempt live at the most.
_LIFE_S = 6.0

_MISSING = "Connection closed by peer [10.0.0.1]:41000 (torch/distributed, gloo)"


class Trouble(NamedTuple):
    """Something that befalls a run, at a time or at a step; `chance` says whom."""

    kind: str
    at_s: float
    step: int
    chance: float
    for_s: float


class Schedule(Story):
    """A story whose nodes, options and troubles are drawn."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed
        chance = self._chance = random.Random(seed)
        is_elastic = chance.random() < 0.6
        num_nodes = chance.choice((2, 2, 3, 3, 3, 4, 4, 5, 6, 9))
        setting = Setting(
            chance.randint(1, num_nodes) if is_elastic else num_nodes,
            num_nodes,
            max_restarts=chance.choice((0, 1, 1, 2, 3)),
            join_timeout_s=12.0,
            last_call_s=chance.choice((0.5, 2.0)),
            node_timeout_s=chance.choice((3.0, 6.0)),
            rescales_now=chance.random() < 0.7,
        )
        world = World(seed, latency_s=chance.choice(_LATENCIES[: 2 if kind == "ends" else 4]))
        is_lossy = kind in ("silence", "partitions") and chance.random() < 0.4
        world.loss = chance.choice((0.05, 0.3)) if is_lossy else 0.0
        super().__init__(
            world,
            setting,
            life_s=_LIFE_S,
            longest_stop_s=chance.choice((0.02, 0.5, 3.0)),
            most_delay_s=4.0 if is_lossy else 0.0,
        )
        if is_lossy:
            self.doubt(NEVER_S)
        self._saves = chance.random() < 0.3
        # Whether workers whose peer has gone end with an error of their own.
        self._miss_peers = chance.random() < 0.5
        # Whether workers have a heartbeat, without which one node alone knows that it hangs.
        self._has_hearts = chance.random() < 0.3
        # Whether the first nodes are given their ranks, and the first one is told that it serves.
        self._has_ranks = not is_elastic and chance.random() < 0.3
        # Attempts from this one on succeed.
        self._num_failing = chance.choice((0, 0, 1, 1, 2, 9))
        for number in range(num_nodes + chance.choice((0, 0, 0, 1, 2))):
            begin_s = chance.random() * chance.choice((0.05, 1.0, 4.0))
            self._add(begin_s if number else chance.choice((0.0, 0.0, 0.0, 2.0)))
        self.num_troubles = chance.choice((0, 1, 1, 1, 2, 2, 3, 4))
        self.troubles = [self._draw_trouble() for _ in range(self.num_troubles)]
        for trouble in self.troubles:
            if trouble.step:
                world.call_at_step(trouble.step, self._befall, trouble)
            else:
                world.call_in(trouble.at_s, self._befall, trouble)

    def __str__(self) -> str:
        nodes = f"{len(self.world.supervisors)} supervisors, {self.setting}"
        network = f"latency {self.world.latency_s}, loss {self.world.loss}"
        troubles = "\n".join(f"  {trouble}" for trouble in self.troubles)
        return f"{self.kind}, seed {self.seed}: {nodes}, {network}\n{troubles}"

    @property
    def bound_s(self) -> float:
        return _LATEST_S + _LONGEST_S + super().bound_s

    # --- what there is --------------------------------------------------------------------------

    def _add(self, begin_s: float, host: Host | None = None) -> None:
        chance = self._chance
        stop_s = chance.random() * self.longest_stop_s
        number = len(self.world.hosts) if host is None else host.number
        is_ranked = self._has_ranks and number < self.setting.max_nodes
        self.add(
            begin_s,
            self._plan,
            host=host,
            num_workers=chance.choice((1, 1, 2)),
            node_rank=number if is_ranked else None,
            has_hearts=self._has_hearts,
            stop_s=lambda: stop_s,
            saves=self._saves,
            clock_offset_s=chance.uniform(0.0, 2e5),
        )

    def _plan(self, supervisor: Supervisor, assignment: Assignment) -> list[Fate]:
        """Return how the workers of an attempt end: the same for whoever has a part in it."""
        world_size = assignment.places[0].world_size
        chance = random.Random(self.seed * 1000 + assignment.attempt)
        kind = chance.random()
        life_s, apart_s = chance.uniform(0.3, _LIFE_S - 2.0), chance.choice((0.0, 0.1, 2.0))
        if assignment.attempt >= self._num_failing or kind < 0.2:
            fates = [Fate(life_s + chance.random() * apart_s) for _ in range(world_size)]
        elif kind < 0.3:
            fates = [Fate(NEVER_S)] * world_size
        else:
            missing = [Fate(life_s + chance.random(), 1, _MISSING) for _ in range(world_size)]
            fates = missing if self._miss_peers else [Fate(NEVER_S)] * world_size
            for _ in range(chance.choice((1, 1, 2))):
                failure = Fate(life_s + chance.random() * apart_s / 10, chance.randint(2, 99))
                fates[chance.randrange(world_size)] = failure
        return [fates[place.rank] for place in assignment.places]

    # --- what befalls it ------------------------------------------------------------------------

    def _draw_trouble(self) -> Trouble:
        chance = self._chance
        kinds = KINDS[: KINDS.index(self.kind) + 1]
        # As a rule of this kind itself.
        kind = chance.choice(
            _TROUBLES[self.kind if chance.random() < 0.7 else chance.choice(kinds)]
        )
        at_s = chance.random() * chance.choice((1.0, 5.0, _LATEST_S))
        step = chance.choice((0, chance.randrange(1, 40), chance.randrange(1, 400)))
        for_s = chance.choice((1.0, self.setting.node_timeout_s + 1.0, _LONGEST_S, 1e4))
        return Trouble(kind, at_s, step, chance.random(), for_s * chance.random())

    def _befall(self, trouble: Trouble) -> None:
        _DEEDS[trouble.kind](self, trouble)

    def _choose(self, trouble: Trouble) -> Supervisor | None:
        """Return whom it befalls: often the coordinator."""
        alive = [one for one in self.world.supervisors if one.is_alive]
        coordinating = [one for one in alive if one.coordinates]
        chance = trouble.chance * 2
        if chance < 1 and coordinating:
            alive = coordinating
        return alive[int(chance % 1 * len(alive))] if alive else None

    def _crash(self, trouble: Trouble) -> None:
        victim = self._choose(trouble)
        if victim is not None:
            victim.crash()
            self._let_peers_miss(victim, trouble)

    def _cut_power(self, trouble: Trouble) -> None:
        victim = self._choose(trouble)
        if victim is not None:
            self.lose_power(victim)
            self._let_peers_miss(victim, trouble)

    def _let_peers_miss(self, victim: Supervisor, trouble: Trouble) -> None:
        if not (self._miss_peers and victim.runs):
            return
        for other in self.world.supervisors:
            if other.runs and other.runs[-1].key == victim.runs[-1].key:
                self.world.call_in(trouble.chance, self._miss, other, other.runs[-1].generation)

    def _miss(self, supervisor: Supervisor, generation: int) -> None:
        if supervisor.runs[-1].generation == generation:
            supervisor.miss_peer(_MISSING)

    def _hold(self, trouble: Trouble) -> None:
        victim = self._choose(trouble)
        if victim is not None:
            self.pause(victim, min(trouble.for_s, _LONGEST_S))

    def _send_signal(self, trouble: Trouble) -> None:
        self._ask_to_stop(trouble, is_for_all=False)

    def _stop(self, trouble: Trouble) -> None:
        self._ask_to_stop(trouble, is_for_all=True)

    def _ask_to_stop(self, trouble: Trouble, *, is_for_all: bool) -> None:
        victim = self._choose(trouble)
        if victim is not None:
            signum = signal.SIGTERM if trouble.for_s < 5 else signal.SIGINT
            self.send(victim, signum, is_for_all=is_for_all)
            if trouble.for_s < 1:
                self.world.call_in(trouble.for_s, victim.signal, signum)

    def _reset(self, trouble: Trouble) -> None:
        victim = self._choose(trouble)
        if victim is None:
            return
        self.doubt()
        self.world.note(f"the connections of {victim.host.name} break")
        others = list(self.world.hosts.values())
        if trouble.for_s > 5:
            others = [others[int(trouble.chance * 1000) % len(others)]]
        for host in others:
            if host is not victim.host:
                self.world.break_connections(victim.host, host)

    def _cut(self, trouble: Trouble) -> None:
        hosts = list(self.world.hosts.values())
        chance = random.Random(trouble.chance)
        chance.shuffle(hosts)
        size = chance.randint(1, len(hosts) - 1)
        these, those = hosts[:size], hosts[size:]
        if chance.random() < 0.2:
            those = those[: chance.randint(1, len(those))]  # and a third part reaches both
        self.doubt(trouble.for_s)
        names = " ".join(host.name for host in these), " ".join(host.name for host in those)
        self.world.note(f"{names[0]} no longer reach {names[1]}")
        self.world.cut(these, those)
        if trouble.for_s < _LONGEST_S:
            self.world.call_in(trouble.for_s, self._heal, these, those)

    def _heal(self, these: list[Host], those: list[Host]) -> None:
        self.world.note("they reach each other again")
        self.world.heal(these, those)

    def _come(self, trouble: Trouble) -> None:
        self._add(0.0)

    def _come_again(self, trouble: Trouble) -> None:
        """Start a launcher again where there was one, or where one is killed for that."""
        victim = self._choose(trouble)
        dead = [one for one in self.world.supervisors if one.state == "dead"]
        if dead:
            victim = dead[-1]
        elif victim is not None:
            self._crash(trouble)
        if victim is not None and all(
            one.host is not victim.host or one.has_ended for one in self.world.supervisors
        ):
            self._add(min(trouble.for_s, 5.0), victim.host)


_LATENCIES = ((0.0002, 0.0002), (0.0001, 0.01), (0.0, 0.1), (0.0, 0.3))

_DEEDS: dict[str, Callable[[Schedule, Trouble], None]] = {
    "crash": Schedule._crash,
    "power": Schedule._cut_power,
    "pause": Schedule._hold,
    "reset": Schedule._reset,
    "cut": Schedule._cut,
    "signal": Schedule._send_signal,
    "stop": Schedule._stop,
    "newcomer": Schedule._come,
    "rejoin": Schedule._come_again,
}
