"""A run over simulated nodes: its world, and what befalls it that its nodes cannot tell apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from tests.unit.nodes.simulation.network import Host
from tests.unit.nodes.simulation.supervisor import Plan, Setting, Supervisor
from tests.unit.nodes.simulation.world import World

# How many deputies may follow the coordinator, one after the other, before a node gives up.
_MOST_DEPUTIES = 9

# How long a deputy may take to answer, see nodes/member.py; and a node to say how its ranks ended,
# see nodes/rendezvous.py; and the pause before the fourth attempt in a row that has failed at once.
_DEPUTY_S = 2.0
_SETTLE_S = 30.0
_LONGEST_PAUSE_S = 4.0


class Story:
    """What somebody needs to know who judges how a run has gone."""

    def __init__(
        self,
        world: World,
        setting: Setting,
        *,
        life_s: float,
        longest_stop_s: float = 0.02,
        most_delay_s: float = 0.0,
    ) -> None:
        """life_s: of the workers of an attempt, at the most. longest_stop_s: until they have ended.

        most_delay_s: by how much later than a heartbeat may be a message comes.
        """
        self.world, self.setting = world, setting
        self.life_s, self.longest_stop_s = life_s, longest_stop_s
        self.most_delay_s = most_delay_s
        self.signals: set[int] = set()
        # How many things befall it from outside, each of which may cost an attempt or two.
        self.num_troubles = 0
        # When something befell it that its nodes cannot tell from something else: from, until.
        self.doubts: list[tuple[float, float]] = []
        # For how long supervisors were stopped.
        self.stopped_s: defaultdict[Supervisor, float] = defaultdict(float)
        self._endpoint = ""

    @property
    def is_elastic(self) -> bool:
        return self.setting.min_nodes < self.setting.max_nodes

    @property
    def bound_s(self) -> float:
        """Return the time after which nobody may wait any more, by the options.

        Each attempt that the budget allows, and each that troubles may bring about, may first wait
        for nodes, then live, then lose one coordinator after the other.
        """
        setting = self.setting
        seek_s = _MOST_DEPUTIES * (_DEPUTY_S + setting.node_timeout_s)
        end_s = setting.node_timeout_s + self.longest_stop_s + _SETTLE_S + seek_s + _LONGEST_PAUSE_S
        life_s = max(self.life_s, setting.hang_timeout_s)
        num_spares = max(0, len(self.world.supervisors) - setting.max_nodes)
        num_attempts = 1 + setting.max_restarts + 2 * self.num_troubles + num_spares
        return num_attempts * (setting.join_timeout_s + setting.last_call_s + life_s + end_s)

    def add(
        self,
        begin_s: float,
        plan: Plan,
        *,
        host: Host | None = None,
        num_workers: int = 1,
        node_rank: int | None = None,
        has_hearts: bool = False,
        stop_s: Callable[[], float] = lambda: 0.02,
        saves: bool = False,
        clock_offset_s: float = 0.0,
    ) -> Supervisor:
        """Let a supervisor begin so much later; the first host has the endpoint."""
        host = host or self.world.add_host()
        host.is_down = False
        self._endpoint = self._endpoint or host.address
        is_host = None if node_rank is None else node_rank == 0
        supervisor = Supervisor(
            host,
            self.setting._replace(
                num_workers=num_workers, node_rank=node_rank, is_host=is_host, has_hearts=has_hearts
            ),
            plan,
            self._endpoint,
            stop_s=stop_s,
            saves=saves,
            clock_offset_s=clock_offset_s,
        )
        self.world.call_in(begin_s, supervisor.begin)
        return supervisor

    def doubt(self, for_s: float = 0.0) -> None:
        """Take note that what befalls it now may be something else to its nodes."""
        self.doubts.append((self.world.now, self.world.now + for_s))

    def send(self, victim: Supervisor, signum: int, *, is_for_all: bool = False) -> None:
        self.signals.add(signum)
        victim.signal(signum, is_for_all=is_for_all)

    def lose_power(self, victim: Supervisor) -> None:
        self.doubt()
        victim.lose_power()

    def pause(self, victim: Supervisor, for_s: float) -> None:
        self.doubt(for_s)
        self.stopped_s[victim] += for_s
        victim.pause()
        self.world.call_in(for_s, victim.proceed)
