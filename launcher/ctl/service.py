"""The supervisor's ear for `launcher.ctl`: a socket on which this user's processes ask and command.

An abstract Unix socket: it has no file that could be left behind, and the kernel tells who is
calling. One line in, one out, then the connection is closed. What the lines say is in messages.py.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterable

from launcher.events import Event, Signalled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.attempt.group import Group
    from launcher.attempt.sampling import Sampling
    from launcher.attempt.waiting import WaitingRoom
    from launcher.ctl.attach import Audience
    from launcher.ctl.messages import Answer, AskLogs, Request
    from launcher.nodes.remote import RemoteCoordinator
    from launcher.options.spec import LaunchSpec
    from launcher.output.console import Console
    from launcher.plan.node import NodeFacts
    from launcher.system.loop import Loop

# Callers are our own command: they send at once. Nobody may hold up the loop.
_CALL_S = 0.5
_MAX_REQUEST_BYTES = 1 << 16

# How long other nodes may take to answer, in seconds, and to say where their ranks are.
PEERS_S = 2.0
STACKS_S = 15.0

# How much of log files one answer has: it fits into the socket, so that nobody waits for who reads
# it.
MOST_LOGS_BYTES = 96 << 10


def make_socket_name(uid: int, mark: str) -> str:
    """Return the abstract name of a run's socket."""
    return f"launcher/{uid}/{mark}"


def make_name_prefix(uid: int) -> str:
    """Return how the names of the runs begin that a user may see: root may see all."""
    return "launcher/" if uid == 0 else make_socket_name(uid, "")


class ControlSocket:
    """Answers for one run. Use as a context manager; `group` is the attempt that is under way."""

    def __init__(self, loop: Loop, facts: NodeFacts, spec: LaunchSpec) -> None:
        self._loop = loop
        self._facts = facts
        self._spec = spec
        self._started_at = time.time()
        # Which the nodes of a run may have agreed on.
        self.run_id = facts.run_id
        # The other nodes of the run, which are asked, too; None where there is none.
        self.peers: RemoteCoordinator | None = None
        self.group: Group | WaitingRoom | None = None
        self._socket: socket.socket | None = None
        # What the ranks use; and what the first terminal shows, with those who hear it, too.
        self.sampling: Sampling | None = None
        self.consoles: tuple[Console, ...] = ()
        self._audience: Audience | None = None

    def __enter__(self) -> ControlSocket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind("\0" + make_socket_name(os.getuid(), self._facts.mark))
        except OSError:
            listener.close()
            return self  # no abstract sockets here: the run goes on without
        listener.listen(8)
        listener.setblocking(False)
        self._socket = listener
        self._loop.watch(listener.fileno(), self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._audience is not None:
            self._audience.close()
        if self._socket is not None:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()

    def take_orders(self, descriptor: int) -> None:
        """Hear also of whoever has started all nodes: `stop N` and `signal N`."""
        os.set_blocking(descriptor, False)
        self._loop.watch(descriptor, lambda: self._read_orders(descriptor))

    def _read_orders(self, descriptor: int) -> list[Event]:
        lines = os.read(descriptor, 4096).splitlines()
        if not lines:
            self._loop.unwatch(descriptor)
        events: list[Event] = []
        for line in lines:
            word, _, number = line.partition(b" ")
            if word == b"stop" and self.peers is not None:
                self.peers.report_signal(int(number), is_for_all=True)
            events.append(Signalled(int(number)))
        return events

    def join(self, peers: RemoteCoordinator | None) -> None:
        """Answer for all nodes of a run from now on, and to all of them."""
        self.peers = peers
        if peers is not None:
            peers.answer_peer = self.answer_peer

    def _accept(self) -> Iterable[Event]:
        assert self._socket is not None
        from launcher.ctl.messages import Attach, Stop

        try:
            connection, _ = self._socket.accept()
        except OSError:
            return []
        connection.settimeout(_CALL_S)
        try:
            if not _is_allowed(connection):
                connection.close()
                return []
            request = _receive(connection)
        except (OSError, ValueError):
            connection.close()  # a caller that went away or sent nonsense
            return []
        if isinstance(request, Attach):
            self._attach(connection)
            return []
        answer, events = self._answer(request)
        if self.peers is None or isinstance(request, Stop):  # a stop reaches all nodes anyway
            _send(connection, answer)
        else:
            self._ask_peers(self.peers, request, answer, connection)
        return events

    def _attach(self, connection: socket.socket) -> None:
        """Let the caller hear what the consoles show."""
        from launcher.ctl.attach import Audience

        if self._audience is None:
            self._audience = Audience(self._loop, self.consoles)
        self._audience.add(connection)

    def _ask_peers(
        self, peers: RemoteCoordinator, request: Request, own: Answer, connection: socket.socket
    ) -> None:
        """Let all nodes do what was asked for here, and send one answer for all."""
        from launcher.ctl.messages import AskStacks, combine, decode_answer, encode

        timeout_s = STACKS_S if isinstance(request, AskStacks) else PEERS_S

        def send(answers: list[tuple[str, str]]) -> None:
            others = [(host, decode_answer(text.encode())) for host, text in answers]
            _send(connection, combine((self._facts.hostname, own), others))

        peers.ask(encode(request).decode(), timeout_s, send)

    def answer_peer(self, text: str) -> str:
        """Do what was asked for at another node; return the answer."""
        from launcher.ctl.messages import decode_request, encode

        answer, _ = self._answer(decode_request(text.encode()))
        return encode(answer).decode()

    def _answer(self, request: Request) -> tuple[Answer, list[Event]]:
        from launcher.ctl import messages

        group = self.group
        if isinstance(request, messages.AskStatus):
            return self._status(), []
        if isinstance(request, messages.AskUse):
            sample = self.sampling.latest() if self.sampling else None
            return messages.Use((sample,) if sample else ()), []
        if isinstance(request, messages.AskLogs):
            return self._read_logs(request), []
        if isinstance(request, messages.AskStacks):
            return messages.Done(group.stacks() if group else ""), []
        if isinstance(request, messages.Stop):
            if self.peers is not None:
                self.peers.report_signal(signal.SIGTERM, is_for_all=True)
            return messages.Done(), [Signalled(signal.SIGTERM)]
        if group is None or not isinstance(request, messages.SendSignal):
            return messages.Refused("there are no ranks yet"), []
        group.signal_all(request.signum)
        return messages.Done(), []

    def _read_logs(self, request: AskLogs) -> Answer:
        """Return a part of what some ranks of this node have written: never more than a little."""
        from launcher.ctl.messages import Logs
        from launcher.runs.parts import list_inner, read_parts

        paths = self.group.plan.paths if self.group else None
        if paths is None:
            return Logs()
        most_bytes = min(request.most_bytes, MOST_LOGS_BYTES)
        try:
            parts = read_parts(paths.logs, request.folder, request.ranks, request.known, most_bytes)
            return Logs(tuple(list_inner(paths.logs)), tuple(parts))
        except OSError:  # a file that has just gone
            return Logs()

    def _status(self) -> Answer:
        from launcher.ctl.messages import RunStatus

        group = self.group
        sample = self.sampling.latest() if self.sampling else None
        ranks = sample.ranks if sample else ()
        rates = [rank.steps_per_s for rank in ranks if rank.steps_per_s is not None]
        return RunStatus(
            run_id=self.run_id,
            pid=os.getpid(),
            script=" ".join([self._spec.script, *self._spec.script_args]),
            age_s=time.time() - self._started_at,
            attempt=group.plan.attempt if group else 0,
            workers=tuple(group.status()) if group else (),
            logs=group.plan.paths.logs if group and group.plan.paths else "",
            memory=sum(rank.memory for rank in ranks) if ranks else None,
            steps_per_s=min(rates, default=None),
        )


def _is_allowed(connection: socket.socket) -> bool:
    """Tell whether the caller is the same user or root, who alone may call."""
    # Three ints: the process, its user, its group.
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    uid = int.from_bytes(data[4:8], sys.byteorder)
    return uid in (os.getuid(), 0)


def _receive(connection: socket.socket) -> Request:
    from launcher.ctl.messages import decode_request

    with connection.makefile("rb") as lines:
        return decode_request(lines.readline(_MAX_REQUEST_BYTES))


def _send(connection: socket.socket, answer: Answer) -> None:
    from launcher.ctl.messages import encode

    with connection:
        try:
            connection.sendall(encode(answer))
        except OSError:
            pass  # the caller has gone away
