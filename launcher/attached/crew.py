"""The supervisor's side of the processes that an engine has started here, one for each rank.

Each has handed over what makes it its rank, and waits at the other end of a connection (proxy.py).
What becomes of the ranks is decided elsewhere: this file brings signals, hears of processes that
have gone, and tells each one how its rank has ended.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterable, Sequence

from launcher.attached import proxy
from launcher.attached.obstacles import Facts, read_facts
from launcher.contract.messages import receive_packet
from launcher.events import Event, TaskLost, TaskSignalled
from launcher.exits import shell_code
from launcher.plan.task import Task
from launcher.starters.detect import detect_engine
from launcher.system.inheritance import read_inheritance
from launcher.system.processes import allow_open_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.system.loop import Loop

# How long to wait for the next process of this host, in seconds: an engine starts them at once, but
# a busy machine or a slow file system may hold some back. And when to say so.
PATIENCE_S = 30.0
_SAY_AFTER_S = 5.0

# How long one that has come may take for its first words, which it says at once.
_HELLO_S = 5.0

# How long the process of the first cause may take to end before the others are let go.
_FIRST_S = 1.0

# How long to wait for those that are to be told something else than a rank's end.
_LATE_S = 0.5

# What a rank takes here besides what it hands over: its connection, its streams and those opened
# once more, its folder, two pipes and two log files, with some room. What we take ourselves.
_FILES_OF_A_RANK, _OUR_FILES = 14, 40

_MOST_BYTES = 4096


class Link:
    """The connection to one process, and what that has handed over."""

    def __init__(
        self,
        connection: socket.socket,
        facts: Facts,
        descriptors: Sequence[int],
        numbers: Sequence[int],
    ) -> None:
        """descriptors: copies of its stdin, stdout and stderr, and those with the numbers."""
        self.connection = connection
        self.facts = facts
        self.place = detect_engine(facts.environ)
        self._descriptors = list(descriptors)
        self._numbers = numbers
        self.has_gone = False
        # Of its rank, in subprocess form; None while it has not ended.
        self.returncode: int | None = None
        self.is_released = False

    @property
    def num_handed(self) -> int:
        """How many files it has handed over besides its streams."""
        return len(self._numbers)

    def send(self, word: bytes) -> None:
        try:
            self.connection.send(word)
        except OSError:
            pass  # it has gone

    def receive(self) -> int | None:
        """Return the signal that has come, 0 for none; None when the process has gone."""
        try:
            word = self.connection.recv(_MOST_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            word = b""
        return int(word[1:]) if word[:1] == proxy.PASSED_SIGNAL else None

    def make_task(self, args: Sequence[str]) -> Task:
        """Return what makes a worker the rank of this process; OSError when it has ended.

        args: those of the script.
        """
        folder = os.open(f"/proc/{self.facts.pid}/cwd", os.O_PATH | os.O_DIRECTORY)
        self._descriptors.append(folder)
        stdin, stdout, stderr, *others, _ = self._descriptors
        return Task(
            self.place,
            tuple(args),
            self.facts.environ,
            read_inheritance(self.facts.pid, self._numbers),
            (stdin, stdout, stderr),
            (folder, *others),
        )


class Crew:
    """All processes of this host that an engine has started for one job."""

    def __init__(self, listener: socket.socket, expected: int) -> None:
        """expected: how many processes the engine has started on this host."""
        self._listener = listener
        # The same for all processes of the job on this host, also for those that come too late.
        self.name = os.fsdecode(listener.getsockname())
        self.expected = expected
        # In the order of local rank, once all have come.
        self.links: list[Link] = []

    def gather(self, say: Callable[[str], None], patience_s: float = PATIENCE_S) -> bool:
        """Wait for all processes; return whether they came, in the order of local rank.

        `say` is called once where that takes long, with how many have come.
        """
        allow_open_files()
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        waited_s = 0.0
        # Of those that have come, only losses: signals wait until there is somebody to take them.
        come = {link.connection.fileno(): link for link in self.links}
        for fd in come:
            poller.register(fd, 0)
        while len(self.links) < self.expected and waited_s < patience_s:
            ready = poller.poll(min(_SAY_AFTER_S, patience_s) * 1000)
            if not ready:
                if not self.links:
                    return False  # who has made this process connects at once, or has been killed
                if not waited_s:
                    say(f"{len(self.links)} of {self.expected}")
                waited_s += _SAY_AFTER_S
            for fd, _ in ready:
                if fd == self._listener.fileno():
                    waited_s = 0.0
                    newcomer = self._accept()
                    if newcomer is not None:
                        come[newcomer.connection.fileno()] = newcomer
                        poller.register(newcomer.connection, 0)
                else:
                    come[fd].has_gone = True
                    poller.unregister(fd)
            if self.links and self.have_all_gone:
                return False
        self.links.sort(key=lambda link: link.place.local_rank)
        if len(self.links) == self.expected:
            self._listener.close()  # who comes now begins anew: a wrapper's next command
        return [link.place.local_rank for link in self.links] == list(range(self.expected))

    def _accept(self) -> Link | None:
        connection, _ = self._listener.accept()
        connection.settimeout(_HELLO_S)
        try:
            data, fds = receive_packet(connection)
        except OSError:
            data = b""
        connection.settimeout(None)  # with one, every look would wait for something to come
        # An unseen one would get the number 0.
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid = int.from_bytes(peer[:4], "little"), int.from_bytes(peer[4:8], "little")
        if data[:1] != proxy.HELLO or uid != os.geteuid():  # it has gone, or is a stranger
            connection.close()
            return None
        text, gpus, *rest = data[1:].split()
        num_arguments, numbers = int(text), [int(number) for number in rest]
        try:
            facts = read_facts(pid, num_arguments)._replace(
                gpus=gpus.decode(), is_complete=len(fds) == 3 + len(numbers)
            )
        except OSError:  # it is not ours to look at
            facts = Facts(0)
        link = Link(connection, facts, fds, numbers)
        self.links.append(link)
        return link

    def send_away(self, reason: str, port: int = 0, common_port: int = 0) -> None:
        """Let each one do the work itself: as a rank, for that reason; without one, alone.

        port: one for all of them. Where some have not come, who would be told another, all are
        told `common_port`. These will come to the same end.
        """
        if not self.are_complete:
            self.gather(lambda number: None, _LATE_S)
        if not self.are_complete:
            port = common_port
        word = proxy.IN_PLACE + f"{port} {reason}".encode() if reason else proxy.ALONE
        for link in self.links:
            link.send(word[:_MOST_BYTES])
            link.is_released = True
        self._listener.close()

    def open(self, loop: Loop) -> None:
        """Hear of them from now on: signals and losses become events of the loop."""
        for local_rank, link in enumerate(self.links):
            loop.watch(link.connection.fileno(), _make_reader(loop, local_rank, link))

    @property
    def are_complete(self) -> bool:
        return len(self.links) >= self.expected

    def find_file_limit(self) -> str:
        """Return that this process may not have as many files open as all ranks need, or ""."""
        needed = _OUR_FILES + sum(_FILES_OF_A_RANK + link.num_handed for link in self.links)
        allowed = allow_open_files()
        if needed <= allowed:
            return ""
        return f"they need {needed} open files in one process, which may have {allowed}"

    @property
    def have_all_gone(self) -> bool:
        return all(link.has_gone for link in self.links)

    def note_end(self, local_rank: int, returncode: int) -> None:
        """Remember how the rank of one has ended; None of them hears of it yet."""
        self.links[local_rank].returncode = returncode

    def dismiss(self, exit_code: int, first_rank: int | None = None) -> None:
        """Tell all that are left how their ranks have ended.

        first_rank: the one of the first cause: it ends first, and so it is the one that the engine
        names; those that had to end because of it do so with the same exit code. They all wait for
        the end of this process, which must follow at once.
        """
        if not self.are_complete and self._listener.fileno() >= 0:
            # Those that come a moment later would begin anew.
            self.gather(lambda number: None, _SAY_AFTER_S)
        waiting = [link for link in self.links if not link.is_released]
        if first_rank is not None:
            for link in waiting:
                if link.place.rank == first_rank:
                    self._tell(link, exit_code)
                    _let_go(link.connection)
                    _wait_for_end(link.connection)
        for link in waiting:
            if link.is_released:
                continue
            code = exit_code if link.returncode is None else link.returncode
            if first_rank is None:
                self._tell(link, code)
            else:
                self._tell(link, exit_code if code else 0, proxy.AFTER_ANOTHER)

    def _tell(self, link: Link, returncode: int, more: bytes = b"") -> None:
        # Not by the signal itself: at a process that a signal has ended, engines kill the others.
        link.is_released = True
        link.send(proxy.EXITED + str(shell_code(returncode)).encode() + more)


def _make_reader(loop: Loop, local_rank: int, link: Link) -> Callable[[], Iterable[Event]]:
    def read() -> Iterable[Event]:
        signum = link.receive()
        if signum is None:
            loop.unwatch(link.connection.fileno())
            link.has_gone = True
            return [TaskLost(local_rank)]
        return [TaskSignalled(local_rank, signum)] if signum else []

    return read


def _let_go(connection: socket.socket) -> None:
    """Let the process at the other end see the end of the connection, before ours has ended."""
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it has gone


def _wait_for_end(connection: socket.socket) -> None:
    """Wait until the process at the other end has ended: its end closes the connection."""
    poller = select.poll()
    poller.register(connection, select.POLLHUP)
    poller.poll(_FIRST_S * 1000)
