"""A simulated network: connections that take time, break, or fall silent.

It takes the place of what nodes/link.py and the kernel are to `RemoteCoordinator`. Within one
connection, order is kept, and nothing is lost or doubled unless it breaks.
"""

from __future__ import annotations

import errno
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from launcher.nodes import endpoint, parts, serving, signpost, way
from launcher.nodes.messages import Message, Ping, Pong, decode, encode
from launcher.nodes.wire import Credentials, Moved, Refusal
from launcher.system import network as system_network
from tests.unit.nodes.simulation.world import AGAIN_S, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tests.unit.nodes.simulation.supervisor import SimLoop, Supervisor


class Host:
    """A machine: one supervisor runs on it, and maybe another one later."""

    def __init__(self, world: World, number: int, address: str) -> None:
        self.world = world
        self.number = number
        self.name = f"h{number}"
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


class Pipe:
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
        self._world.num_steps += 1
        if self._target.is_forgotten and not self._target.host.is_down:
            # The host is up again, and knows of no such connection.
            self._world.call_in(self._world.take_time(), self._source.reset)
            return
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
        self._out: Pipe | None = None
        self._on_message, self._on_close, self._on_open = on_message, on_close, on_open
        self.greeting: dict[str, Any] = {}
        self.listener: SimListener | None = None
        self.is_open = self.is_closed = self.is_guest = self.has_pending = False
        # Whether it has ended with its host, without a word.
        self.is_forgotten = False
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
        self._out, peer._out = Pipe(self, peer), Pipe(peer, self)

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
        self.is_closed, self.is_forgotten = True, is_silent
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
        world.call_in(AGAIN_S, _arrive, link, address)
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
        self._world.call_in(AGAIN_S, self._answer, False)

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
        patch.setattr(
            system_network, "reserve_port", lambda address: SimSocket(address, next(ports))
        )
        patch.setattr(parts, "find_interface", lambda address: "")
        patch.setattr(serving, "Listener", SimListener)
        for module in (serving, way):
            patch.setattr(module, "Probe", SimProbe)
        for module in (signpost, way):
            patch.setattr(module, "connect", _connect)
        patch.setattr(endpoint, "listen", lambda address: _listen(world, address))
        for module in (endpoint, serving, way):
            patch.setattr(module, "resolve", lambda host, port, **_: ([(host, port)], ""))
        yield world
