"""The supervisor's ear for `launcher.ctl`: a socket on which other processes of the same user ask
and command.

An abstract Unix socket: it has no file that could be left behind, and the kernel tells who is
calling. One JSON object in, one out, then the connection is closed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import time
from collections.abc import Iterable
from typing import Any

from launcher.attempt.group import Group
from launcher.attempt.waiting import WaitingRoom
from launcher.events import Event, Signalled
from launcher.options.spec import LaunchSpec
from launcher.plan.node import NodeFacts
from launcher.system.loop import Loop

# Callers are our own command: they send at once. Nobody may hold up the loop.
_CALL_S = 0.5
_MAX_REQUEST_BYTES = 1 << 16


def socket_name(uid: int, mark: str) -> str:
    """Return the abstract name of a run's socket."""
    return f"launcher/{uid}/{mark}"


class ControlSocket:
    """Answers for one run. Use as a context manager; `group` is the attempt that is under way."""

    def __init__(self, loop: Loop, facts: NodeFacts, spec: LaunchSpec) -> None:
        self._loop = loop
        self._facts = facts
        self._spec = spec
        self._started_at = time.time()
        self.group: Group | WaitingRoom | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> ControlSocket:
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind("\0" + socket_name(os.getuid(), self._facts.mark))
        except OSError:
            return self  # no abstract sockets here: the run goes on without
        listener.listen(8)
        listener.setblocking(False)
        self._socket = listener
        self._loop.watch(listener.fileno(), self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._socket is not None:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()

    def _accept(self) -> Iterable[Event]:
        assert self._socket is not None
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return []
        with connection:
            connection.settimeout(_CALL_S)
            try:
                if not _is_allowed(connection):
                    return []
                request = _receive(connection)
                answer, events = self._answer(request)
                connection.sendall(json.dumps(answer).encode())
            except (OSError, ValueError):
                return []  # a caller that went away or sent nonsense
        return events

    def _answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[Event]]:
        command = request.get("command")
        if command == "status":
            return self._status(), []
        if command == "stacks":
            return {"text": self.group.stacks() if self.group else ""}, []
        if command == "stop":
            return {"text": "stopping"}, [Signalled(signal.SIGTERM)]
        if command == "signal" and self.group is not None:
            self.group.signal_all(int(request["signum"]))
            return {"text": "sent"}, []
        return {"error": f"unknown command {command}"}, []

    def _status(self) -> dict[str, Any]:
        return {
            "run_id": self._facts.run_id,
            "run_dir": self._facts.paths.run_dir if self._facts.paths else None,
            "pid": os.getpid(),
            "script": " ".join([self._spec.script, *self._spec.script_args]),
            "cwd": os.getcwd(),
            "age_s": time.time() - self._started_at,
            "attempt": self.group.plan.attempt if self.group else 0,
            "workers": self.group.status() if self.group else [],
        }


def _is_allowed(connection: socket.socket) -> bool:
    """Only the same user and root may call."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", data)
    return uid in (os.getuid(), 0)


def _receive(connection: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\n") and len(data) < _MAX_REQUEST_BYTES:
        piece = connection.recv(4096)
        if not piece:
            break
        data += piece
    request = json.loads(data)
    if not isinstance(request, dict):
        raise ValueError("not an object")
    return request
