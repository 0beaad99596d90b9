"""Virtual time, and what happens next; hosts, and who of them reaches whom.

One thread, no socket, one source of chance: one seed is always one story.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tests.unit.nodes.simulation.network import Host, Pipe
    from tests.unit.nodes.simulation.supervisor import Supervisor

# How long a kernel waits before it sends again what got no answer.
AGAIN_S = 1.0


class World:
    """Time and space of one story."""

    def __init__(self, seed: int = 0, *, latency_s: tuple[float, float] = (0.0002, 0.0002)) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self.latency_s = latency_s
        # How likely it is that a packet is lost, and comes later by what it takes to send it again.
        self.loss = 0.0
        # Whether what is sent is turned into JSON and read again, as on the wire.
        self.is_exact = True
        self.hosts: dict[str, Host] = {}
        self.supervisors: list[Supervisor] = []
        # Whose code runs.
        self.current: Supervisor | None = None
        # What has happened, when, for whoever has to understand a story.
        self.log: list[str] = []
        # How many messages have been delivered.
        self.num_steps = 0
        self._num_running = 0
        self._queue: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._at_steps: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = itertools.count()
        self._cuts: Counter[tuple[str, str]] = Counter()
        self._held: dict[Pipe, None] = {}

    # --- time -----------------------------------------------------------------------------------

    def call_at(self, at: float, function: Callable[..., object], *args: Any) -> None:
        heapq.heappush(self._queue, (at, next(self._count), function, args))

    def call_in(self, delay_s: float, function: Callable[..., object], *args: Any) -> None:
        heapq.heappush(self._queue, (self.now + delay_s, next(self._count), function, args))

    def call_at_step(self, number: int, function: Callable[..., object], *args: Any) -> None:
        """Call a function after so many messages, wherever the story is then."""
        heapq.heappush(self._at_steps, (number, next(self._count), function, args))

    def run(self, limit_s: float, *, until: Callable[[], bool] | None = None) -> bool:
        """Let time go on until all supervisors have ended, or `until`; False at the limit."""
        ends_at = self.now + limit_s
        queue, pop = self._queue, heapq.heappop
        while not (until() if until else self._num_running == 0):
            if not queue or queue[0][0] > ends_at:
                self.now = ends_at
                return False
            self.now, _, function, args = pop(queue)
            function(*args)
            while self._at_steps and self.num_steps >= self._at_steps[0][0]:
                _, _, function, args = pop(self._at_steps)
                function(*args)
        return True

    def note(self, text: str) -> None:
        self.log.append(f"{self.now - 1000.0:9.4f} {text}")

    def add_supervisor(self, supervisor: Supervisor) -> None:
        self.supervisors.append(supervisor)
        self._num_running += 1

    def note_end(self) -> None:
        """Take note that a supervisor has ended."""
        self._num_running -= 1

    # --- the network ----------------------------------------------------------------------------

    def add_host(self) -> Host:
        from tests.unit.nodes.simulation.network import Host

        number = len(self.hosts)
        host = Host(self, number, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        self.hosts[host.address] = host
        return host

    def cut(self, these: Iterable[Host], those: Iterable[Host]) -> None:
        """Let no packet pass between two sets of hosts, silently."""
        for one, other in itertools.product(list(these), list(those)):
            self._cuts[one.address, other.address] += 1
            self._cuts[other.address, one.address] += 1

    def heal(self, these: Iterable[Host], those: Iterable[Host]) -> None:
        """Take a cut back; what has been held up comes within a second."""
        for one, other in itertools.product(list(these), list(those)):
            self._cuts[one.address, other.address] -= 1
            self._cuts[other.address, one.address] -= 1
        for pipe in list(self._held):
            self.call_in(self.random.random() * AGAIN_S, pipe.release)

    def is_cut(self, one: Host, other: Host) -> bool:
        return bool(self._cuts) and self._cuts[one.address, other.address] > 0

    def hold(self, pipe: Pipe) -> None:
        self._held[pipe] = None

    def let_go(self, pipe: Pipe) -> None:
        self._held.pop(pipe, None)

    def take_time(self) -> float:
        """Return how long the next packet is under way."""
        low, high = self.latency_s
        delay = low if low == high else low + (high - low) * self.random.random()
        while self.loss and self.random.random() < self.loss:
            delay += self.random.uniform(0.2, AGAIN_S)
        return delay

    def break_connections(self, one: Host, other: Host) -> None:
        """Reset what connects two hosts, as a firewall can that forgets what it has seen."""
        if one.is_down or other.is_down:
            return
        for supervisor in self.supervisors:
            for link in list(supervisor.links):
                if link.peer and {link.host, link.peer.host} == {one, other}:
                    link.reset()
