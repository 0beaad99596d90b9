"""Connections between nodes: sockets on the loop, with a channel on each.

A `Link` carries the messages of one connection; a `Listener` accepts them, and is rid of strangers
who do not prove in time that they belong to the run. Nothing here blocks.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable

from launcher.events import Event
from launcher.nodes.messages import Message, decode, encode
from launcher.nodes.wire import (
    Channel,
    ClientChannel,
    Credentials,
    GuestChannel,
    ServerChannel,
    WireError,
)
from launcher.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# How long a connection may take to come about.
CONNECT_S = 5.0

# Strangers have this long to prove who they are.
_STRANGER_S = 5.0

_BACKLOG = 4096
_CHUNK_BYTES = 1 << 18

# A node that does not read what it is sent is as good as lost.
_MOST_PENDING_BYTES = 64 << 20

# Of <netinet/tcp.h>; Python has no names for them. Lost packets are sent again at even distances,
# and at the latest after a second: a cable that is out for three seconds is no lost node.
_TCP_THIN_LINEAR_TIMEOUTS, _TCP_RTO_MAX_MS = 16, 44


class Link:
    """One connection. `on_message` is called for each message, `on_close` once, with the reason."""

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        channel: Channel,
        on_message: Callable[[Link, Message], None],
        on_close: Callable[[Link, Exception], None],
        on_open: Callable[[Link], None] | None = None,
        *,
        is_connecting: bool = False,
    ) -> None:
        self._loop = loop
        self._socket = connection
        self._channel = channel
        self._on_message = on_message
        self._on_close = on_close
        self._on_open = on_open
        self._pending = b""
        self._is_connecting = is_connecting
        self._watches_both = False
        self.is_closed = False
        self.began_at = loop.clock()
        # For the owner's use: which node it leads to; that it belongs to another run.
        self.key = 0
        self.is_guest = False
        _tune(connection)
        self._watch(both=is_connecting)

    @property
    def is_open(self) -> bool:
        """Whether the other side has proved that it belongs to the run."""
        return self._channel.is_open

    @property
    def is_connected(self) -> bool:
        """Whether there is somebody at the other side, whoever it is."""
        return not self._is_connecting

    @property
    def has_pending(self) -> bool:
        return bool(self._pending)

    @property
    def ends(self) -> tuple[str, str]:
        """The addresses of the other end, and of ours."""
        try:
            return _host(self._socket.getpeername()), _host(self._socket.getsockname())
        except OSError:
            return "", ""

    def send(self, message: Message) -> None:
        """Send a message; what the connection does not take yet is kept."""
        if not self.is_closed and self.is_open:
            self._channel.send(encode(message))
            self._flush()

    def close(self) -> None:
        """End the connection; nobody is told."""
        if not self.is_closed:
            self.is_closed = True
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()

    def _fail(self, error: Exception) -> None:
        if not self.is_closed:
            self.close()
            self._on_close(self, error)

    def _watch(self, *, both: bool) -> None:
        self._loop.unwatch(self._socket.fileno())
        self._watches_both = both
        self._loop.watch(self._socket.fileno(), self._on_ready, for_both=both)

    def _on_ready(self) -> Iterable[Event]:
        if self.is_closed:
            return ()  # by somebody who was ready in the same turn
        if self._is_connecting:
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._fail(OSError(code, os.strerror(code)))
                return ()
            self._is_connecting = False
        self._flush()
        if not self.is_closed:
            self._receive()
        return ()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error)
            return
        if not data:
            self._fail(ConnectionResetError(errno.ECONNRESET, "closed"))
            return
        was_open = self.is_open
        try:
            for value in self._channel.feed(data):
                if not was_open:
                    was_open = True
                    self._note_open()
                message = decode(value)
                if self.is_closed:
                    return
                self._on_message(self, message)
        except (WireError, ValueError) as error:
            self._flush()
            self._fail(error)
            return
        if self.is_open and not was_open:
            self._note_open()
        self._flush()
        if isinstance(self._channel, ServerChannel) and self._channel.is_done:
            self._fail(WireError("refused"))

    def _note_open(self) -> None:
        self._flush()
        if self._on_open is not None:
            self._on_open(self)

    def _flush(self) -> None:
        if self._is_connecting or self.is_closed:
            return
        self._pending += self._channel.take()
        while self._pending:
            try:
                sent = self._socket.send(self._pending)
            except BlockingIOError:
                break
            except OSError as error:
                self._fail(error)
                return
            self._pending = self._pending[sent:]
        if len(self._pending) > _MOST_PENDING_BYTES:
            self._fail(ConnectionResetError(errno.ECONNRESET, "it does not read"))
        elif bool(self._pending) != self._watches_both:
            self._watch(both=bool(self._pending))


class Listener:
    """A socket at which nodes of the run may ask; only those that have proved it are heard."""

    def __init__(
        self,
        loop: Loop,
        listening: socket.socket,
        credentials: Credentials,
        answer: Callable[[dict[str, Any], Link], dict[str, object]],
        on_message: Callable[[Link, Message], None],
        on_close: Callable[[Link, Exception], None],
    ) -> None:
        """answer: see `ServerChannel`; a link with a guest is kept although it proves nothing."""
        self._loop = loop
        self._sockets: list[socket.socket] = []
        self._credentials = credentials
        self._answer = answer
        self._on_message = on_message
        self._on_close = on_close
        self._strangers: dict[Link, None] = {}
        self.links: dict[Link, None] = {}
        self.listen_also(listening)

    @property
    def port(self) -> int:
        return int(self._sockets[-1].getsockname()[1])

    def listen_also(self, listening: socket.socket) -> None:
        """Accept connections over another socket, too; its port is what `port` returns then."""
        listening.setblocking(False)
        self._sockets.append(listening)
        self._loop.watch(listening.fileno(), lambda: self._accept(listening))

    def close(self) -> None:
        """Close the sockets, and all connections that came over them."""
        self._loop.cancel_timer(self._drop_strangers)
        for listening in self._sockets:
            self._loop.unwatch(listening.fileno())
            listening.close()
        for link in [*self.links, *self._strangers]:
            link.close()
        self.links.clear()
        self._strangers.clear()

    def _accept(self, listening: socket.socket) -> Iterable[Event]:
        for _ in range(64):  # other descriptors have their turn, too
            try:
                connection, _ = listening.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._strangers:
                    next(iter(self._strangers)).close()
                    self._strangers.pop(next(iter(self._strangers)))
                break
            self._greet(connection)
        return ()

    def _greet(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        channel = ServerChannel(self._credentials, lambda greeting: self._answer(greeting, link))
        link = Link(self._loop, connection, channel, self._on_message, self._forget, self._admit)
        if not self._strangers:
            self._loop.set_timer(self._drop_strangers, 1.0)
        self._strangers[link] = None

    def _admit(self, link: Link) -> None:
        self._strangers.pop(link, None)
        self.links[link] = None

    def _forget(self, link: Link, error: Exception) -> None:
        self._strangers.pop(link, None)
        if link in self.links:
            del self.links[link]
            self._on_close(link, error)

    def _drop_strangers(self) -> None:
        now = self._loop.clock()
        late = [link for link in self._strangers if now - link.began_at > _STRANGER_S]
        for link in [link for link in late if not link.is_guest]:
            link.close()
            del self._strangers[link]
        if self._strangers:
            self._loop.set_timer(self._drop_strangers, 1.0)


def connect(
    loop: Loop,
    address: tuple[Any, ...],
    credentials: Credentials,
    on_open: Callable[[Link], None],
    on_message: Callable[[Link, Message], None],
    on_close: Callable[[Link, Exception], None],
    guest_port: int = 0,
) -> Link:
    """Begin to connect to a socket address of IPv4 or IPv6; OSError where that fails at once.

    guest_port: only to say that this run is served at that port of the same host.
    """
    connection = socket.socket(family_of(address), socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect(address)
    except BlockingIOError:
        pass
    except OSError:
        connection.close()
        raise
    channel = GuestChannel(credentials, guest_port) if guest_port else ClientChannel(credentials)
    return Link(loop, connection, channel, on_message, on_close, on_open, is_connecting=True)


def listen(address: tuple[Any, ...]) -> socket.socket:
    """Return a socket that listens at a socket address of this host; OSError where it cannot."""
    family = family_of(address)
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def family_of(address: tuple[Any, ...]) -> socket.AddressFamily:
    """Return whether a socket address is of IPv4 or IPv6."""
    return socket.AF_INET6 if len(address) == 4 else socket.AF_INET


def _tune(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in ((_TCP_THIN_LINEAR_TIMEOUTS, 1), (_TCP_RTO_MAX_MS, 1000)):
        try:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        except OSError:
            pass  # an older kernel


def _host(address: Any) -> str:
    """Return the address of a socket's end; one of IPv4 also where IPv6 writes it."""
    host = str(address[0]).partition("%")[0]
    return host[7:] if host.startswith("::ffff:") and "." in host else host
