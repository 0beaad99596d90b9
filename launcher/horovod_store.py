"""The key-value store over HTTP at which Horovod's Gloo controllers find each other, served from the supervisor's own loop.

Speaks what Horovod 0.28's C++ client asks for: PUT, GET (404 while a key is missing) and DELETE of /scope/key. Loopback
only. One store lives as long as one attempt. Horovod's own server would cost every launch an import of Horovod, and it
listens on all interfaces. Layer 3.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from launcher.events import Event
from launcher.loop import Loop

# What one rank sends is a few hundred bytes: more than this is not Horovod.
_MAX_REQUEST_BYTES = 1 << 20

# Many ranks connect at once; a refused one comes back only after seconds.
_BACKLOG = 4096

_REASONS = {200: "OK", 403: "Forbidden", 404: "Not Found"}


class HorovodStore:
    """Serves the ranks of one attempt, from its making until `close`."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._values: dict[str, dict[str, bytes]] = {}
        self._connections: dict[int, _Connection] = {}
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        # The client makes its addresses by joining texts, so a secret fits in behind the port: other users of this machine
        # can connect, but know no path.
        secret = os.urandom(16).hex()
        self.address = f"127.0.0.1:{self.port}/{secret}"
        self._prefix = f"/{secret}:{self.port}/"
        self._loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Stop serving."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()

    def _accept(self) -> Iterable[Event]:
        try:
            while True:
                self._welcome(self._listener.accept()[0])
        except OSError:
            return ()  # nobody else is waiting

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
        if request is not None:
            self._answer(connection, *request)
        return ()

    def _answer(self, connection: _Connection, method: str, path: str, body: bytes) -> None:
        if not path.startswith(self._prefix):
            connection.reply(self, 403, b"")
            return
        scope, _, key = path[len(self._prefix) :].partition("/")
        values = self._values.setdefault(scope, {})
        if method == "GET":
            connection.reply(self, 200 if key in values else 404, values.get(key, b""))
            return
        if method == "PUT":
            values[key] = body
        elif method == "DELETE":
            # This rank has met all others in this scope. What it wrote must not be found by the next hvd.init().
            for name in (key, f"rank_{key}"):
                values.pop(name, None)
        connection.reply(self, 200, b"")

    def _drop(self, connection: _Connection) -> None:
        self._loop.unwatch(connection.sock.fileno())
        self._connections.pop(connection.sock.fileno(), None)
        connection.sock.close()


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

    def reply(self, store: HorovodStore, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            self.sock.sendall(head.encode() + body)  # fits into any socket buffer
        except OSError:
            store._drop(self)
