"""A simulated network with a virtual clock, and supervisors on its hosts.

What is simulated is below and above the control plane: connections that take time, break, or fall
silent, and workers that end. In between runs the real code: `RemoteCoordinator`, with `Member` and
`Rendezvous` in it, asked in the order in which supervisor.py asks. One thread, no socket: one seed
is always one story.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from launcher.contract.error_file import WorkerError
from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.errors import LauncherError
from launcher.events import Event, PeersStop
from launcher.nodes import endpoint, parts, remote, serving, signpost, stores, way
from launcher.nodes.messages import Message, Ping, Pong, decode, encode
from launcher.nodes.restart import RestartPolicy, Verdict
from launcher.nodes.wire import Credentials, Moved, Refusal
from launcher.plan.nodes import Node, NodeGroup
from launcher.ranks import Assignment

ENDPOINT_PORT = 29400

# As in attempt/group.py.
_GATHER_S = 0.25

# How long a kernel waits before it sends again what got no answer.
_AGAIN_S = 1.0


class World:
    """Virtual time, and what happens next; hosts, and who of them reaches whom."""

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
        self._queue: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._at_steps: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = itertools.count()
        self._cuts: Counter[tuple[str, str]] = Counter()
        self._held: dict[_Pipe, None] = {}
        self.num_steps = 0

    # --- time -----------------------------------------------------------------------------------

    def call_at(self, at: float, function: Callable[..., object], *args: Any) -> None:
        heapq.heappush(self._queue, (at, next(self._count), function, args))

    def call_in(self, delay_s: float, function: Callable[..., object], *args: Any) -> None:
        self.call_at(self.now + delay_s, function, *args)

    def call_at_step(self, number: int, function: Callable[..., object], *args: Any) -> None:
        """Call a function after so many steps, wherever the story is then."""
        heapq.heappush(self._at_steps, (number, next(self._count), function, args))

    def run(self, limit_s: float, *, until: Callable[[], bool] | None = None) -> bool:
        """Let time go on until all supervisors have ended, or `until`; False at the limit."""
        ends_at = self.now + limit_s
        is_done = until or (lambda: all(one.has_ended for one in self.supervisors))
        while not is_done():
            if not self._queue or self._queue[0][0] > ends_at:
                self.now = ends_at
                return False
            self.now, _, function, args = heapq.heappop(self._queue)
            self.num_steps += 1
            function(*args)
            while self._at_steps and self.num_steps >= self._at_steps[0][0]:
                _, _, function, args = heapq.heappop(self._at_steps)
                function(*args)
        return True

    # --- the network ----------------------------------------------------------------------------

    def add_host(self) -> Host:
        number = len(self.hosts)
        host = Host(self, f"h{number}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
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
            self.call_in(self.random.random() * _AGAIN_S, pipe.release)

    def is_cut(self, one: Host, other: Host) -> bool:
        return self._cuts[one.address, other.address] > 0

    def hold(self, pipe: _Pipe) -> None:
        self._held[pipe] = None

    def let_go(self, pipe: _Pipe) -> None:
        self._held.pop(pipe, None)

    def take_time(self) -> float:
        """Return how long the next packet is under way."""
        low, high = self.latency_s
        delay = low if low == high else self.random.uniform(low, high)
        while self.loss and self.random.random() < self.loss:
            delay += self.random.uniform(0.2, _AGAIN_S)
        return delay

    def break_connections(self, one: Host, other: Host) -> None:
        """Reset what connects two hosts, as a firewall can that forgets what it has seen."""
        if one.is_down or other.is_down:
            return
        for supervisor in self.supervisors:
            for link in list(supervisor.links):
                if link.peer and {link.host, link.peer.host} == {one, other}:
                    link.reset()


class Host:
    """A machine: one supervisor runs on it, and maybe another one later."""

    def __init__(self, world: World, name: str, address: str) -> None:
        self.world = world
        self.name = name
        self.address = address
        self.listeners: dict[int, SimListener] = {}
        self.is_down = False
        self._ports = itertools.count(40000)

    def bind(self, port: int) -> SimSocket:
        if port in self.listeners:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return SimSocket(self.address, port or next(self._ports))


class SimSocket:
    """A bound port."""

    def __init__(self, address: str, port: int) -> None:
        self._name = address, port

    def getsockname(self) -> tuple[str, int]:
        return self._name

    def close(self) -> None:
        """Nobody else wants the port."""


class _Pipe:
    """One direction of a connection: in order, late, held up by a cut, or cut off by an end."""

    def __init__(self, source: SimLink, target: SimLink) -> None:
        self._source, self._target = source, target
        self._world = source.world
        self._last_at = 0.0
        self._held: list[tuple[str, Any]] = []
        self._pending = 0
        self._left: int | None = None

    def put(self, kind: str, content: Any = None) -> None:
        world = self._world
        self._last_at = max(self._last_at, world.now + world.take_time())
        self._pending += 1
        world.call_at(self._last_at, self._arrive, kind, content)

    def lose_tail(self) -> None:
        """Let only some of what is under way arrive, as after a reset, or when the power goes."""
        self._left = self._world.random.randint(0, self._pending)

    def release(self) -> None:
        """Deliver what has been held up, unless there is another cut."""
        if self._held and not self._world.is_cut(self._source.host, self._target.host):
            held, self._held = self._held, []
            self._world.let_go(self)
            for kind, content in held:
                self._deliver(kind, content)

    def _arrive(self, kind: str, content: Any) -> None:
        if self._held or self._world.is_cut(self._source.host, self._target.host):
            self._held.append((kind, content))
            self._world.hold(self)
        else:
            self._deliver(kind, content)

    def _deliver(self, kind: str, content: Any) -> None:
        self._pending -= 1
        if kind != "end" and self._left is not None:
            if self._left <= 0:
                return
            self._left -= 1
        self._target.supervisor.run(self._target.receive, kind, content)


class SimLink:
    """One end of a connection; takes the place of `Link`."""

    def __init__(
        self,
        supervisor: Supervisor,
        on_message: Callable[[Any, Message], None],
        on_close: Callable[[Any, Exception], None],
        on_open: Callable[[Any], None] | None = None,
    ) -> None:
        self.supervisor = supervisor
        self.world = supervisor.world
        self.host = supervisor.host
        self.peer: SimLink | None = None
        self._out: _Pipe | None = None
        self._on_message, self._on_close, self._on_open = on_message, on_close, on_open
        self.greeting: dict[str, Any] = {}
        self.listener: SimListener | None = None
        self.is_open = self.is_closed = self.is_guest = self.has_pending = False
        self.key = 0
        self.began_at = self.world.now
        supervisor.links[self] = None

    @property
    def is_connected(self) -> bool:
        return self.peer is not None

    @property
    def ends(self) -> tuple[str, str]:
        return self.peer.host.address if self.peer else "", self.host.address

    def join(self, peer: SimLink) -> None:
        self.peer, peer.peer = peer, self
        self._out, peer._out = _Pipe(self, peer), _Pipe(peer, self)

    def send(self, message: Message) -> None:
        if self.is_open and not self.is_closed:
            if self.world.is_exact and not isinstance(message, (Ping, Pong)):
                message = decode(json.loads(json.dumps(encode(message))))
            self.put("message", message)

    def put(self, kind: str, content: Any = None) -> None:
        assert self._out is not None
        self._out.put(kind, content)

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.supervisor.links.pop(self, None)
            if self._out is not None and self.peer is not None:
                incoming = self.peer._out
                if incoming is not None and incoming._pending and self.world.random.random() < 0.3:
                    self._out.lose_tail()  # what comes to a closed socket is answered by a reset
                self._out.put("end")

    def die(self, *, is_silent: bool) -> None:
        """End with the process; silent: with its host."""
        self.is_closed = True
        self.supervisor.links.pop(self, None)
        if self._out is not None:
            self._out.lose_tail()
            if not is_silent:
                self._out.put("end")

    def reset(self) -> None:
        """End with an error; what was under way to here is lost."""
        if self.is_closed:
            return
        if self.peer is not None and self.peer._out is not None:
            self.peer._out.lose_tail()
        self.supervisor.run(self._fail, ConnectionResetError(errno.ECONNRESET, "reset"))

    def receive(self, kind: str, content: Any) -> None:
        if self.is_closed:
            return
        if kind == "message":
            self._on_message(self, content)
        elif kind == "end":
            self._fail(ConnectionResetError(errno.ECONNRESET, "closed"))
        elif kind == "answer":
            self._take_answer(content)
        elif kind == "proof":
            self.is_open = True
            if self._on_open is not None:
                self._on_open(self)
        else:
            self._fail(content)

    def _take_answer(self, answer: dict[str, Any]) -> None:
        if "moved" in answer:
            self._fail(Moved(*answer["moved"]))
        elif "refused" in answer:
            self._fail(Refusal(str(answer["refused"])))
        else:
            self.put("proof")
            self.receive("proof", None)

    def _fail(self, error: Exception) -> None:
        if not self.is_closed:
            self.close()
            self._on_close(self, error)


class SimListener:
    """Takes the place of `Listener`."""

    def __init__(
        self,
        loop: SimLoop,
        listening: SimSocket,
        credentials: Credentials,
        answer: Callable[[dict[str, Any], Any], dict[str, object]],
        on_message: Callable[[Any, Message], None],
        on_close: Callable[[Any, Exception], None],
    ) -> None:
        self.supervisor = loop.supervisor
        self._answer, self._on_message, self._on_close = answer, on_message, on_close
        self._ports: list[int] = []
        self._strangers: dict[SimLink, None] = {}
        self.links: dict[SimLink, None] = {}
        self.listen_also(listening)

    @property
    def port(self) -> int:
        return self._ports[-1]

    def listen_also(self, listening: SimSocket) -> None:
        port = listening.getsockname()[1]
        self._ports.append(port)
        self.supervisor.host.listeners[port] = self

    def close(self) -> None:
        for port in self._ports:
            self.supervisor.host.listeners.pop(port, None)
        for link in [*self.links, *self._strangers]:
            link.close()

    def accept(self) -> SimLink:
        """Return this host's end of a new connection, as the kernel makes it."""
        link = SimLink(self.supervisor, self._on_message, self._forget, self._admit)
        self._strangers[link] = None
        return link

    def greet(self, link: SimLink, greeting: dict[str, Any]) -> None:
        """Answer what a stranger has said."""
        if link.is_closed:
            return
        answer = self._answer(greeting, link)
        link.put("answer", answer)
        if "moved" in answer or "refused" in answer:
            link.close()

    def _admit(self, link: SimLink) -> None:
        self._strangers.pop(link, None)
        self.links[link] = None

    def _forget(self, link: SimLink, error: Exception) -> None:
        self._strangers.pop(link, None)
        if link in self.links:
            del self.links[link]
            self._on_close(link, error)


def _connect(
    loop: SimLoop,
    address: tuple[Any, ...],
    credentials: Credentials,
    on_open: Callable[[Any], None],
    on_message: Callable[[Any, Message], None],
    on_close: Callable[[Any, Exception], None],
    guest_port: int = 0,
) -> SimLink:
    """Take the place of `connect`."""
    assert not guest_port
    link = SimLink(loop.supervisor, on_message, on_close, on_open)
    link.greeting = {"run": credentials.tag}
    link.world.call_in(link.world.take_time(), _arrive, link, address)
    return link


def _arrive(link: SimLink, address: tuple[Any, ...]) -> None:
    """Let the first packet of a connection arrive; it is sent again while nobody answers."""
    world = link.world
    host = world.hosts[address[0]]
    if link.is_closed:
        return
    if host.is_down or world.is_cut(link.host, host):
        world.call_in(_AGAIN_S, _arrive, link, address)
        return
    listener = host.listeners.get(address[1])
    if listener is None:
        error = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        world.call_in(world.take_time(), link.supervisor.run, link.receive, "error", error)
        return
    link.join(listener.accept())
    assert link.peer is not None
    listener.supervisor.run(listener.greet, link.peer, link.greeting)


class SimProbe:
    """Takes the place of `Probe`."""

    def __init__(
        self, loop: SimLoop, address: tuple[str, int], on_done: Callable[[bool], None]
    ) -> None:
        self._world, self._supervisor = loop.world, loop.supervisor
        self._address, self._on_done = address, on_done
        self._is_done = False
        self._world.call_in(self._world.take_time(), self._arrive)
        self._world.call_in(_AGAIN_S, self._answer, False)

    def cancel(self) -> None:
        self._is_done = True

    def _arrive(self) -> None:
        host = self._world.hosts[self._address[0]]
        if not (host.is_down or self._world.is_cut(self._supervisor.host, host)):
            is_free = self._address[1] not in host.listeners
            self._world.call_in(self._world.take_time(), self._answer, is_free)

    def _answer(self, is_dead: bool) -> None:
        self._supervisor.run(self._take, is_dead)

    def _take(self, is_dead: bool) -> None:
        if not self._is_done:
            self._is_done = True
            self._on_done(is_dead)


class SimLoop:
    """Takes the place of `Loop`, for one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.world = supervisor.world
        self.posted: list[Event] = []
        self._timers: dict[Callable[[], None], float] = {}

    def clock(self) -> float:
        return self.world.now + self.supervisor.clock_offset_s

    def set_timer(self, callback: Callable[[], None], delay_s: float) -> None:
        at = self._timers[callback] = self.world.now + delay_s
        self.world.call_at(at, self._ring, callback, at)

    def cancel_timer(self, callback: Callable[[], None]) -> None:
        self._timers.pop(callback, None)

    def post(self, event: Event) -> None:
        self.posted.append(event)

    def _ring(self, callback: Callable[[], None], at: float) -> None:
        if self._timers.get(callback) == at:
            self.supervisor.run(self._call, callback, at)

    def _call(self, callback: Callable[[], None], at: float) -> None:
        if self._timers.get(callback) == at:
            del self._timers[callback]
            callback()


class Fate(NamedTuple):
    """How a worker ends if nobody stops it: when, and with which exit code."""

    after_s: float
    code: int = 0
    error: str = ""


class Setting(NamedTuple):
    """What the user has typed."""

    min_nodes: int = 2
    max_nodes: int = 2
    max_restarts: int = 0
    join_timeout_s: float = 20.0
    last_call_s: float = 1.0
    node_timeout_s: float = 6.0
    rescales_now: bool = True
    num_workers: int = 1
    node_rank: int | None = None
    is_host: bool | None = None


class Running:
    """One attempt on one host, for those who look at it from outside."""

    def __init__(self, assignment: Assignment, began_at: float) -> None:
        self.assignment = assignment
        place = assignment.places[0]
        self.generation = assignment.attempt
        self.node_rank = place.node_rank
        self.num_nodes = place.num_nodes or 0
        # No two attempts have the same.
        self.key = (assignment.attempt, assignment.master_addr, assignment.master_port)
        self.began_at = began_at
        # When the last of its workers was gone; None while some are there.
        self.ended_at: float | None = None
        # Whether all of its workers have ended with 0, without being asked to.
        self.has_succeeded = False
        # Whether the verdict on it was that the run has succeeded.
        self.is_finished = False
        # Whether one has ended by itself with another code.
        self.has_failed = False


class _Worker:
    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.code: int | None = None
        self.ended_at = 0.0
        self.order = 0
        self.error = ""
        self.asked_at: float | None = None
        # Whether it is there, whether or not the supervisor has seen its end.
        self.is_alive = True


class Supervisor:
    """One `python -m launcher`: the page of supervisor.py, and the workers of its attempt."""

    def __init__(
        self,
        host: Host,
        setting: Setting,
        plan: Callable[[Supervisor, Assignment], list[Fate]],
        endpoint: str,
        *,
        stop_s: Callable[[], float] = lambda: 0.02,
        saves: bool = False,
        clock_offset_s: float = 0.0,
    ) -> None:
        """plan: how the workers of an attempt are to end. stop_s: how long a worker takes to end.

        saves: whether workers end with 0 when they are asked to stop.
        """
        self.world, self.host, self.setting = host.world, host, setting
        self.clock_offset_s = clock_offset_s
        self._plan, self._stop_s, self._saves = plan, stop_s, saves
        self.links: dict[SimLink, None] = {}
        self.loop = SimLoop(self)
        self.is_alive, self.is_stopped = True, False
        self._backlog: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.state = "new"
        self.signum: int | None = None
        self.verdict = Verdict("restart")
        self.error: LauncherError | None = None
        self.exit_code: int | None = None
        self.ended_at = 0.0
        self.said: list[str] = []
        self.reports = 0
        self.runs: list[Running] = []
        self._workers: list[_Worker] = []
        self._num_ended = 0
        self._began_at = 0.0
        self._is_understood = self._is_stopping = self._is_pausing = self._is_closing = False
        self._stopped_by: int | None = None
        self._group = NodeGroup(
            run_id="r",
            min_nodes=setting.min_nodes,
            max_nodes=setting.max_nodes,
            node_rank=setting.node_rank,
            host=endpoint,
            port=ENDPOINT_PORT,
            is_host=setting.is_host,
            secret=b"s",
            join_timeout_s=setting.join_timeout_s,
            last_call_s=setting.last_call_s,
            node_timeout_s=setting.node_timeout_s,
            rescales_now=setting.rescales_now,
        )
        self.world.supervisors.append(self)

    def __repr__(self) -> str:
        return f"<{self.host.name} {self.state} code={self.exit_code} {self.error or ''}>"

    @property
    def has_ended(self) -> bool:
        return not self.is_alive

    @property
    def coordinates(self) -> bool:
        return self.is_alive and self.remote._serving.coordinates

    def begin(self) -> None:
        self.remote = remote.open_remote(
            self._group,
            Node(self.host.name, self.setting.num_workers, {"--script": "train.py"}),
            RestartPolicy(self.setting.max_restarts),
            self.loop,  # type: ignore[arg-type]
            self.said.append,
            lambda: f"run-of-{self.host.name}",
        )
        self.state = "joining"
        self.run(self.remote.begin_to_join)

    # --- what happens to it ---------------------------------------------------------------------

    def crash(self) -> None:
        """Be killed: the kernel closes its sockets, and its workers are killed with it."""
        self._die(is_silent=False)

    def lose_power(self) -> None:
        """Be gone with its host, in silence."""
        self.host.is_down = True
        self._die(is_silent=True)

    def _die(self, *, is_silent: bool) -> None:
        if self.is_alive:
            self.is_alive, self.state = False, "dead"
            self.ended_at = self.world.now
            for worker in self._workers:
                worker.is_alive = False
            self._note_end_of_all()
            self._leave_host(is_silent=is_silent)

    def _leave_host(self, *, is_silent: bool) -> None:
        self.host.listeners = {
            port: listener
            for port, listener in self.host.listeners.items()
            if listener.supervisor is not self
        }
        for link in list(self.links):
            link.die(is_silent=is_silent)

    def pause(self) -> None:
        """Be stopped, as by SIGSTOP: workers and kernel go on."""
        self.is_stopped = True

    def proceed(self) -> None:
        """Go on: what has come is read before timers are looked at."""
        self.is_stopped = False
        backlog, self._backlog = self._backlog, []
        timers = [item for item in backlog if item[0] == self.loop._call]
        for items in ([item for item in backlog if item[0] != self.loop._call], timers):
            for function, args in items:
                if self.is_alive:
                    self.world.current = self
                    function(*args)
            self._advance()

    def signal(self, signum: int) -> None:
        """Be sent a signal that asks to stop."""
        self.run(self._on_signal, signum)

    def run(self, function: Callable[..., object], *args: Any) -> None:
        """Let its code run, unless it is stopped or has ended."""
        if self.is_stopped:
            self._backlog.append((function, args))
        elif self.is_alive:
            self.world.current = self
            function(*args)
            self._advance()

    # --- the page -------------------------------------------------------------------------------

    def _advance(self) -> None:
        while self.is_alive:
            posted, self.loop.posted = self.loop.posted, []
            for event in posted:
                self._handle(event)
            if not (getattr(self, f"_is_done_{self.state}")()) and not posted:
                return

    def _is_done_joining(self) -> bool:
        if not self.remote.has_part and self.signum is None:
            return False
        try:
            assignment = self.remote.part() if self.signum is None else None
        except LauncherError as error:
            self.error = error
            return self._close()
        if assignment is None:
            self.verdict = self.remote.verdict() or self.verdict
            self._note_report()
            return self._close()
        self._assignment = assignment
        self.state = "pausing"
        self._is_pausing = self.verdict.delay_s > 0
        if self._is_pausing:
            self.loop.set_timer(self._end_pause, self.verdict.delay_s)
        return True

    def _end_pause(self) -> None:
        self._is_pausing = False

    def _is_done_pausing(self) -> bool:
        if self._is_pausing and self.signum is None:
            return False
        if self.signum is not None:
            return self._close()
        self.state = "running"
        self._start_workers()
        return True

    def _is_done_running(self) -> bool:
        if not (self._is_understood or self._have_all_ended):
            return False
        self.state = "settling"
        self.remote.begin_to_settle(self._outcome())
        return True

    def _is_done_settling(self) -> bool:
        if not self.remote.is_settled:
            return False
        try:
            self.verdict = self.remote.settled_verdict()
        except LauncherError as error:
            self.error = error
        self.runs[-1].is_finished = self.verdict.action == "finish" and self.error is None
        self._note_report()
        self.state = "finishing"
        self._stop_workers()
        return True

    def _note_report(self) -> None:
        if self.verdict.report is not None and self.verdict.action != "restart":
            self.reports += not self.verdict.reporter

    def _is_done_finishing(self) -> bool:
        if not self._have_all_ended:
            return False
        self.loop.cancel_timer(self._understand)
        if self.error or self.verdict.action != "restart" or self.signum is not None:
            return self._close()
        self.state = "joining"
        self.remote.begin_to_join()
        return True

    def _close(self) -> bool:
        self.state = "closing"
        self.remote.begin_to_close()
        self._is_closing = True
        self.loop.set_timer(self._end_closing, self.remote.farewell_s)
        return True

    def _end_closing(self) -> None:
        self._is_closing = False

    def _is_done_closing(self) -> bool:
        if self._is_closing and self.remote.has_listeners:
            return False
        self.remote.close_now()
        self._leave_host(is_silent=False)
        self.is_alive, self.state = False, "ended"
        self.ended_at = self.world.now
        if self.error is not None:
            self.exit_code = self.error.exit_code
        elif self.verdict.action == "restart" and self.signum is not None:
            self.exit_code = 128 + self.signum
        else:
            self.exit_code = self.verdict.exit_code
        return False

    # --- signals and events ---------------------------------------------------------------------

    def _on_signal(self, signum: int) -> None:
        if self.state == "closing":
            return
        if self.signum is None:
            self.signum = signum
            self.remote.report_signal(signum)
            self._stop_for(signum)
        else:
            self.remote.report_signal(signum, is_forced=True)
            self._kill_workers()

    def _handle(self, event: Event) -> None:
        if not isinstance(event, PeersStop) or self.state == "closing":
            return
        if event.is_forced:
            self._kill_workers()
        elif event.signum and self.signum is None:
            self.signum = event.signum
            self._stop_for(event.signum)
        elif self.state in ("running", "settling", "finishing") and not self._is_stopping:
            self._stop_workers()
            self.loop.set_timer(self._understand, _GATHER_S)

    def _understand(self) -> None:
        self._is_understood = True

    # --- workers --------------------------------------------------------------------------------

    def _start_workers(self) -> None:
        self._began_at = self.world.now
        self._num_ended = 0
        self._is_understood = self._is_stopping = False
        self._stopped_by = None
        self.runs.append(Running(self._assignment, self.world.now))
        self._workers = [_Worker(place.rank) for place in self._assignment.places]
        for worker, fate in zip(self._workers, self._plan(self, self._assignment), strict=True):
            self.world.call_in(fate.after_s, self._end_worker, worker, fate.code, fate.error)
        if self.remote.stop is not None:
            self._handle(self.remote.stop)

    @property
    def _have_all_ended(self) -> bool:
        return all(worker.code is not None for worker in self._workers)

    def end_workers(self, code: int, error: str) -> None:
        """Let all workers that are there end, as those do that miss a peer."""
        for worker in self._workers:
            self._end_worker(worker, code, error)

    def _end_worker(self, worker: _Worker, code: int, error: str) -> None:
        if worker.is_alive:
            worker.is_alive = False
            self._note_end_of_all()
            self.run(self._see_end, worker, code, error)

    def _note_end_of_all(self) -> None:
        is_known = not self.runs or self.runs[-1].ended_at is not None
        if not is_known and not any(worker.is_alive for worker in self._workers):
            self.runs[-1].ended_at = self.world.now

    def _see_end(self, worker: _Worker, code: int, error: str) -> None:
        self._num_ended += 1
        worker.code, worker.error = code, error
        worker.ended_at, worker.order = self.loop.clock(), self._num_ended
        codes = [other.code for other in self._workers]
        self.runs[-1].has_succeeded = not self._is_stopping and set(codes) == {0}
        self.runs[-1].has_failed |= code != 0 and not error and not self._is_stopping
        if code and not self._is_stopping:
            self.remote.report_failure()
            self._stop_workers()
            self.loop.set_timer(self._understand, _GATHER_S)

    def _stop_for(self, signum: int) -> None:
        if self.state in ("running", "settling", "finishing"):
            self._stopped_by = signum
            self._stop_workers()

    def _stop_workers(self) -> None:
        if self._is_stopping:
            return
        self._is_stopping = True
        for worker in self._workers:
            if worker.code is None:
                worker.asked_at = self.loop.clock()
                code = 0 if self._saves else -15
                self.world.call_in(self._stop_s(), self._end_worker, worker, code, "")

    def _kill_workers(self) -> None:
        for worker in self._workers:
            if worker.is_alive and self.state in ("running", "settling", "finishing"):
                self.world.call_in(0.001, self._end_worker, worker, -9, "")

    def _outcome(self) -> AttemptOutcome:
        return AttemptOutcome(
            attempt=self._assignment.attempt,
            workers=tuple(map(self._outcome_of, self._workers)),
            signum=self._stopped_by,
            duration_s=self.world.now - self._began_at,
        )

    def _outcome_of(self, worker: _Worker) -> WorkerOutcome:
        error = WorkerError("RuntimeError", worker.error, worker.error) if worker.error else None
        return WorkerOutcome(
            worker.rank,
            100 + worker.rank,
            worker.code,
            worker.ended_at,
            worker.order,
            worker.asked_at,
            error,
            hostname=self.host.name,
        )


def _listen(world: World, address: tuple[Any, ...]) -> SimSocket:
    """Take the place of `listen`."""
    assert world.current is not None
    host = world.current.host
    if address[0] != host.address:
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
    return host.bind(address[1])


@contextmanager
def simulated(world: World) -> Iterator[World]:
    """Let `RemoteCoordinator` have the simulated network instead of the kernel's."""
    ports = itertools.count(50000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "reserve_port", lambda address: SimSocket(address, next(ports)))
        patch.setattr(parts, "find_interface", lambda address: "")
        patch.setattr(serving, "Listener", SimListener)
        for module in (serving, way):
            patch.setattr(module, "Probe", SimProbe)
        for module in (signpost, way):
            patch.setattr(module, "connect", _connect)
        for module in (endpoint, serving):
            patch.setattr(module, "listen", lambda address: _listen(world, address))
        for module in (endpoint, serving, way):
            patch.setattr(module, "resolve", lambda host, port, **_: ([(host, port)], ""))
        yield world
