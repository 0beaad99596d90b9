"""The store over HTTP at which Horovod's Gloo controllers meet, in the supervisor's own loop.

Speaks what Horovod 0.28's C++ client asks for: PUT, GET (404 while a key is missing) and DELETE of
/scope/key. One store lives as long as one attempt. Horovod's own server would cost
every launch an import of Horovod, and it listens on all interfaces.

Elastic Horovod asks two things more. After a loss, the ranks that are left ask for their new place
(GET /rank_and_size/...), and a newcomer's first PUT says that it has come: both are held, and
become `Asked` events, until `admit` answers all. While they wait no timeout runs in Horovod.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Mapping

from launcher.events import Asked, Event
from launcher.named import NamedTuple
from launcher.system.loop import Loop

# Where elastic ranks ask for their place, and where all ranks meet first in each hvd.init().
_PLACES = "rank_and_size"
_EVERYBODY = "global"

# What one rank sends is a few hundred bytes: more than this is not Horovod.
_MAX_REQUEST_BYTES = 1 << 20

# Many ranks connect at once; a refused one comes back only after seconds.
_BACKLOG = 4096

# Errors of accept() that say that descriptors are short, and not that nobody is waiting.
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)

_REASONS = {200: "OK", 403: "Forbidden", 404: "Not Found"}


class HorovodStore:
    """Serves the ranks of one attempt, from its making until `close`."""

    def __init__(self, loop: Loop, host: str = "127.0.0.1") -> None:
        self._loop = loop
        self._values: dict[str, dict[str, bytes]] = {}
        self._connections: dict[int, _Connection] = {}
        # Rank -> local rank of newcomers that have not come yet; local rank -> the request that
        # waits for `admit`.
        self._expected: dict[str, int] = {}
        self._held: dict[int, _Request] = {}
        # Given up for a connection when descriptors are short: one client at a time can be served.
        self._spare = -1
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.bind((host, 0))
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        # The client makes its addresses by joining texts, so a secret fits in behind the port:
        # other users of this machine can connect, but know no path.
        secret = os.urandom(16).hex()
        self.address = f"{host}:{self.port}/{secret}"
        self._prefix = f"/{secret}:{self.port}/"
        self._is_listening = self._is_closed = False
        self._listen()

    def close(self) -> None:
        """Stop serving."""
        self._is_closed = True
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        self._give_up_spare()

    def expect(self, newcomers: Mapping[int, int]) -> None:
        """Hold the first request of these newcomers, too, local rank -> rank, until `admit`."""
        self._expected.update({str(rank): local_rank for local_rank, rank in newcomers.items()})

    def admit(self, ranks: Mapping[int, int]) -> None:
        """Begin a new round for these workers, local rank -> rank: answer all that are held."""
        self._values.clear()
        held, self._held = self._held, {}
        for local_rank, request in held.items():
            if request.scope == _PLACES:
                layout = (ranks[local_rank], len(ranks), local_rank, len(ranks), 0, 1)
                self._reply(request.connection, 200, ",".join(map(str, layout)).encode())
            else:
                self._serve(request)

    def _listen(self) -> None:
        if self._is_closed:
            return
        if self._spare < 0:
            self._spare = _open_spare()
        if not self._is_listening:
            self._is_listening = True
            self._loop.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            while True:
                self._welcome(self._listener.accept()[0])
        except OSError as error:
            if error.errno in _NO_DESCRIPTOR and not self._give_up_spare() and self._connections:
                # The listener stays readable, and asking it again and again would keep the loop
                # busy: see _drop.
                self._loop.unwatch(self._listener.fileno())
                self._is_listening = False

    def _give_up_spare(self) -> bool:
        if self._spare < 0:
            return False
        os.close(self._spare)
        self._spare = -1
        return True

    def _welcome(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        connection = _Connection(sock)
        self._connections[sock.fileno()] = connection
        self._loop.watch(sock.fileno(), lambda: self._read(connection))

    def _read(self, connection: _Connection) -> Iterable[Event]:
        try:
            data = connection.sock.recv(1 << 16)
        except BlockingIOError:
            return ()
        except OSError:
            data = b""
        connection.received += data
        if not data or len(connection.received) > _MAX_REQUEST_BYTES:
            self._drop(connection)
            return ()
        request = connection.take_request()
        return self._answer(connection, *request) if request is not None else ()

    def _answer(
        self, connection: _Connection, method: str, path: str, body: bytes
    ) -> Iterable[Event]:
        if not path.startswith(self._prefix):
            self._reply(connection, 403, b"")
            return ()
        scope, _, key = path[len(self._prefix) :].partition("/")
        request = _Request(connection, method, scope, key, body)
        local_rank = self._asking(request)
        if local_rank is None:
            self._serve(request)
            return ()
        self._held[local_rank] = request
        return (Asked(local_rank),)

    def _asking(self, request: _Request) -> int | None:
        """Return the local rank of a worker that asks to be let in; None for other requests."""
        if request.method == "GET" and request.scope == _PLACES:
            local_rank = request.key.rpartition(":")[2]
            return int(local_rank) if local_rank.isdecimal() else None
        if request.method == "PUT" and request.scope == _EVERYBODY:
            return self._expected.pop(request.key.removeprefix("rank_"), None)
        return None

    def _serve(self, request: _Request) -> None:
        values, key = self._values.setdefault(request.scope, {}), request.key
        if request.method == "GET":
            self._reply(request.connection, 200 if key in values else 404, values.get(key, b""))
            return
        if request.method == "PUT":
            values[key] = request.body
        elif request.method == "DELETE":
            # This rank has met all others in this scope: the next hvd.init() must not find what
            # it wrote.
            for name in (key, f"rank_{key}"):
                values.pop(name, None)
        self._reply(request.connection, 200, b"")

    def _reply(self, connection: _Connection, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            connection.sock.sendall(head.encode() + body)  # fits into any socket buffer
        except OSError:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._loop.unwatch(connection.sock.fileno())
        self._connections.pop(connection.sock.fileno(), None)
        connection.sock.close()
        self._held = {
            asking: held for asking, held in self._held.items() if held.connection is not connection
        }
        self._listen()


def _open_spare() -> int:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


class _Request(NamedTuple):
    """What one client asks for."""

    connection: _Connection
    method: str
    scope: str
    key: str
    body: bytes


class _Connection:
    """One client: Horovod opens a connection for each request."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""

    def take_request(self) -> tuple[str, str, bytes] | None:
        """Return (method, path, body) when the whole request is here."""
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return None
        first, *headers = head.decode("latin-1").split("\r\n")
        length = 0
        for header in headers:
            name, _, value = header.partition(":")
            if name.strip().lower() == "content-length" and value.strip().isdigit():
                length = int(value)
        if len(body) < length:
            return None
        method, path, _ = f"{first}  ".split(" ", 2)
        self.received = body[length:]
        return method, path, body[:length]
