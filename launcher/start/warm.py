"""The supervisor's end of the fork server: the `warm` start method.

Starts the server, sends it one request for each worker, and turns its messages into events. Its own
death is an event too. What the server does inside is in worker/forkserver.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from launcher.contract import messages
from launcher.events import Event, Exited, ForkServerLost, ForkServerUnsafe, Started, StartFailed
from launcher.exits import from_wait_status
from launcher.output.lines import LineSplitter
from launcher.start.server import ServerProcess, make_pair
from launcher.system.processes import start_problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from launcher.plan.plan import WorkerPlan
    from launcher.system.loop import Loop

# How long the server may take to answer: it does nothing else than answer.
_REAP_S = 0.5


class WarmStarter:
    """Starts workers by asking a fork server, and hears of their exits from it."""

    def __init__(
        self, loop: Loop, mark: str, say: Callable[[str], None], server: ServerProcess | None = None
    ) -> None:
        """`server` is used by the first `open`, if it still lives then."""
        self._loop = loop
        self._mark = mark
        self._say = say
        self._started = server
        self._server: ServerProcess | None = None  # the one that is open
        self._answers: socket.socket | None = None  # of it
        self._output = LineSplitter()
        self.is_ready = False
        self._local_ranks: dict[int, int] = {}  # pid -> local rank

    @property
    def pid(self) -> int:
        """The server's process id; 0 when none is open."""
        return self._server.pid if self._server else 0

    def open(self, worker: WorkerPlan, preload: Sequence[str], forced: bool) -> None:
        """Start the server; any worker of the plan will do: all have the same program."""
        server, self._started = self._started, None
        if server is None or server.collect_exit() is not None:
            server = ServerProcess(self._mark)
        self._server = server
        self._loop.watch(server.socket.fileno(), lambda: self._read_messages(server))
        self._loop.watch(server.output.fileno(), lambda: self._read_output(server))
        config = messages.Configure(
            kind=worker.kind,
            target=worker.target,
            preload=preload,
            forced=forced,
            env=worker.common_env,
            unset=worker.unset,
        )
        self._answers, theirs = make_pair()
        with theirs:
            self._send(config, [theirs.fileno()])

    def start(self, worker: WorkerPlan, descriptors: Sequence[int]) -> Iterable[Event]:
        """Ask for one worker; `Started` follows as an event."""
        request = messages.Start(
            local_rank=worker.local_rank,
            kind=worker.kind,
            target=worker.target,
            args=worker.args,
            env=worker.env,
            unset=worker.unset,
            error_file=worker.error_file,
            title=worker.title,
            cpus=sorted(worker.cpus or ()),
            inheritance=worker.task.inheritance if worker.task else None,
        )
        handed = worker.task.handed if worker.task else ()
        if not self._send(request, [*descriptors, *handed]):
            return [StartFailed(worker.local_rank, "the fork server has gone", 1)]
        return []

    def collect_exits(self) -> list[Event]:
        """Return the end of the server itself; the workers' exits come as messages."""
        server = self._server
        returncode = server.collect_exit() if server else None
        if server is None or returncode is None:
            return []
        # What it had sent before it died counts: the workers' exits above all.
        events = self._read_messages(server)
        self._read_output(server)
        self.close()
        return [*events, ForkServerLost(returncode)]

    def reap(self, pid: int) -> int | None:
        """Let the process id of an ended worker go; return its peak memory in KiB, or None.

        The number is that of pages in use, and so contains what is shared with the fork server.
        """
        deadline = time.monotonic() + _REAP_S
        if self._answers is None or not self._send(messages.Reap(pid)):
            return None
        while (left_s := deadline - time.monotonic()) > 0:
            self._answers.settimeout(left_s)
            try:
                received = messages.receive(self._answers)
            except TimeoutError:
                return None
            if received is None:
                return None
            answer = received[0]
            # One that came too late for who asked for it stands before ours.
            if isinstance(answer, messages.Reaped) and answer.pid == pid:
                return answer.peak_kib
        return None

    def forget(self, pid: int) -> None:
        """Say nothing more of a worker that was given up."""
        self._local_ranks.pop(pid, None)

    def close(self) -> None:
        """End the server, and with it every worker that it still has."""
        server, self._server = self._server, None
        self.is_ready = False
        if server is not None:
            self._loop.unwatch(server.socket.fileno())
            self._loop.unwatch(server.output.fileno())
            server.close()
        if self._answers is not None:
            self._answers.close()
            self._answers = None

    def _send(self, message: messages.Message, descriptors: Sequence[int] = ()) -> bool:
        if self._server is None:
            return False
        try:
            messages.send(self._server.socket, message, descriptors)
        except OSError:
            return False  # its death is reported by collect_exits
        return True

    def _read_messages(self, server: ServerProcess) -> list[Event]:
        """Turn the messages that are there now into events."""
        events: list[Event] = []
        while True:
            try:
                received = messages.receive(server.socket, wait=False)
            except BlockingIOError:
                return events
            if received is None:
                self._loop.unwatch(server.socket.fileno())
                return events
            event = self._to_event(received[0])
            if event is not None:
                events.append(event)

    def _to_event(self, message: messages.Message) -> Event | None:
        if isinstance(message, messages.Started):
            self._local_ranks[message.pid] = message.local_rank
            return Started(message.local_rank, message.pid)
        if isinstance(message, messages.Exited):
            local_rank = self._local_ranks.pop(message.pid, None)
            if local_rank is None:  # it was given up
                return None
            return Exited(local_rank, from_wait_status(message.code, message.status))
        if isinstance(message, messages.Ready):
            self.is_ready = True
            return None
        if isinstance(message, messages.Refused):
            problem = f"cannot fork a worker: {start_problem(message.errno)}"
            return StartFailed(message.local_rank, problem, 126)
        assert isinstance(message, messages.Unsafe)
        return ForkServerUnsafe(message.reason)

    def _read_output(self, server: ServerProcess) -> None:
        data = server.output.read(1 << 16)
        if data is None:  # nothing yet
            return
        if not data:
            self._loop.unwatch(server.output.fileno())
        lines = self._output.feed(data) if data else self._output.finish()
        if lines:
            self._say(lines.decode("utf-8", "backslashreplace").rstrip("\n"))
