"""The supervisor's end of the fork server: the `warm` start method.

Starts the server, sends it one request for each worker, and turns its messages into events. Its own
death is an event too. What the server does inside is in worker/forkserver.py.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from launcher.contract import messages as forkwire
from launcher.events import (
    Event,
    Exited,
    ForkServerLost,
    ForkServerReady,
    ForkServerUnsafe,
    Started,
    StartFailed,
)
from launcher.exits import from_wait_status
from launcher.output.lines import LineSplitter
from launcher.plan.plan import WorkerPlan
from launcher.start.server import ServerProcess
from launcher.system.loop import Loop
from launcher.system.processes import start_problem

# How long the server may take to answer: it does nothing else than answer.
_REAP_S = 0.5


class WarmStarter:
    """Starts workers by asking a fork server, and hears of their exits from it."""

    method = "warm"

    def __init__(
        self, loop: Loop, mark: str, say: Callable[[str], None], server: ServerProcess | None = None
    ) -> None:
        """`server` is used by the first `open`, if it still lives then."""
        self._loop = loop
        self._mark = mark
        self._say = say
        self._started = server
        self._socket: socket.socket | None = None
        self._output_fd = -1
        self._output = LineSplitter()
        self.pid = 0
        self.is_ready = False
        self._local_ranks: dict[int, int] = {}  # pid -> local rank
        self._set_aside: list[dict[str, Any]] = []

    def open(self, worker: WorkerPlan, preload: Sequence[str], forced: bool) -> None:
        """Start the server. `worker` is any worker of the plan: all have the same program and
        common environment.
        """
        server, self._started = self._started, None
        if server is not None and server.has_ended:
            # Before it is taken for an orphan: its process id would be another's by then.
            server.close()
            server = None
        if server is None:
            server = ServerProcess(self._mark)
        self.pid, self._socket, self._output_fd = server.detach()
        self._loop.watch(self._socket.fileno(), self._read_messages)
        self._loop.watch(self._output_fd, self._read_output)
        config = {
            "kind": worker.kind,
            "target": worker.target,
            "preload": list(preload),
            "forced": forced,
            "env": worker.common_env,
            "unset": list(worker.unset),
        }
        self._send(config)

    def start(self, worker: WorkerPlan, descriptors: Sequence[int]) -> Iterable[Event]:
        """Ask for one worker; `Started` follows as an event."""
        request = {
            "type": "start",
            "worker": worker.local_rank,
            "server_pid": self.pid,
            "kind": worker.kind,
            "target": worker.target,
            "args": list(worker.args),
            "env": worker.env,
            "unset": list(worker.unset),
            "error_file": worker.error_file,
            "title": worker.title,
            "cpus": sorted(worker.cpus or ()),
        }
        if not self._send(request, descriptors):
            return [StartFailed(worker.local_rank, "the fork server has gone", 1)]
        return []

    def collect_exits(self) -> list[Event]:
        """Return the end of the server itself; the workers' exits come as messages. Called on
        SIGCHLD.
        """
        if self.pid == 0:
            return []
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG)
        if ended is None:
            return []
        # What it had sent before it died counts: the workers' exits above all.
        events = list(self._read_messages()) if self._socket is not None else []
        self._read_output()
        self.pid = 0
        self.is_ready = False
        self._forget_socket()
        self._forget_output()
        return [*events, ForkServerLost(from_wait_status(ended.si_code, ended.si_status))]

    def reap(self, pid: int) -> int | None:
        """Let the process id of an ended worker go. Returns its peak memory in KiB, None where that
        is not known.

        The number is that of pages in use, and so contains what is shared with the fork server.
        """
        if not self._send({"type": "reap", "pid": pid}):
            return None
        deadline = time.monotonic() + _REAP_S
        while self._socket is not None and time.monotonic() < deadline:
            if not select.select([self._socket], [], [], deadline - time.monotonic())[0]:
                break
            peak_kib: int | None = None
            for message in self._receive():
                if message["type"] == "reaped" and message["pid"] == pid:
                    peak_kib = int(message["peak_kib"])
                else:
                    # Something else that happened meanwhile, before or behind the answer: for the
                    # loop, at its next turn.
                    self._set_aside.append(message)
            if peak_kib is not None:
                return peak_kib
        return None

    def close(self) -> None:
        """End the server, and with it every worker that it still has."""
        self._forget_socket()
        self._forget_output()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def _send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> bool:
        if self._socket is None:
            return False
        try:
            forkwire.send(self._socket, dict(message), descriptors)
        except OSError:
            return False  # its death is reported by collect_exits
        return True

    def _forget_output(self) -> None:
        if self._output_fd >= 0:
            self._loop.unwatch(self._output_fd)
            os.close(self._output_fd)
            self._output_fd = -1

    def _forget_socket(self) -> None:
        if self._socket is not None:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _read_messages(self) -> Iterable[Event]:
        messages, self._set_aside = [*self._set_aside, *self._receive()], []
        return [self._to_event(message) for message in messages if message["type"] != "reaped"]

    def take_set_aside(self) -> Iterable[Event]:
        """Return the events that came while an answer was awaited."""
        messages, self._set_aside = self._set_aside, []
        return [self._to_event(message) for message in messages]

    def _receive(self) -> list[dict[str, Any]]:
        """Return the messages that are there now."""
        messages: list[dict[str, Any]] = []
        while self._socket is not None:
            try:
                self._socket.setblocking(False)
                received = forkwire.receive(self._socket)
            except BlockingIOError:
                break
            finally:
                self._socket.setblocking(True)
            if received is None:
                self._forget_socket()
                break
            messages.append(received[0])
        return messages

    def _to_event(self, message: dict[str, Any]) -> Event:
        kind = message["type"]
        if kind == "started":
            self._local_ranks[message["pid"]] = message["worker"]
            return Started(message["worker"], message["pid"])
        if kind == "exited":
            local_rank = self._local_ranks.pop(message["pid"])
            return Exited(local_rank, from_wait_status(message["code"], message["status"]))
        if kind == "ready":
            self.is_ready = True
            return ForkServerReady(tuple(message["preloaded"]))
        if kind == "refused":
            return StartFailed(
                message["worker"], f"cannot fork a worker: {start_problem(message['errno'])}", 126
            )
        return ForkServerUnsafe(message["reason"])

    def _read_output(self) -> Iterable[Event]:
        try:
            data = os.read(self._output_fd, 1 << 16)
        except BlockingIOError:
            return []
        if not data:
            self._loop.unwatch(self._output_fd)
        lines = self._output.feed(data) if data else self._output.finish()
        if lines:
            self._say(lines.decode("utf-8", "backslashreplace").rstrip("\n"))
        return ()
