"""What ssh starts on a host: it becomes the parent of the host's supervisor, and ends it in time.

Nobody but this process hears that the connection is lost: ssh sends no signal to the other side,
its standard input just ends. Or, where a cable was pulled, falls silent, so whoever has called
sends a line now and then. Either asks the supervisor to stop, as SIGTERM does, and later forces it.
Should this process be killed itself, the kernel asks the supervisor.

What the caller reads on its stdin comes the same way, as much at a time as the rank takes that it
is for.

It is executed by its file's name, without the launcher's package and before anything of the
caller's environment is here: it needs Python's standard library only. A connection carries lines
of JSON in; out go the supervisor's own words, and between them ours, behind a mark.
"""

from __future__ import annotations

import binascii
import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from typing import Any

# Before each message of ours; behind it comes a word that only this run has, a space, and JSON.
RECORD = b"\x1e"

# In the environment of the supervisor: whose end ends it. Its own word for that.
_PARENT = "LAUNCHER_PARENT_PID"

# What tells a supervisor to wait until it may begin; see standby.py.
_STANDBY = "LAUNCHER_STANDBY"

# How options are spelled as variables: those of the caller are in the arguments already.
_OPTIONS = "PET_"

# They come to every process of a session, or to none; the supervisor hears of them by itself.
_NOT_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_RESTORED = (*_NOT_OURS, signal.SIGPIPE, signal.SIGXFSZ)

# How long a forced supervisor may take to end before it is killed; its keeper then ends the ranks.
_FORCE_S = 10.0

# How long our last word may wait for a connection that takes nothing.
_LAST_WORD_S = 5.0


class Caller:
    """The other end of the connection: lines come from it, until it is gone or silent."""

    def __init__(self) -> None:
        os.set_blocking(0, False)
        self._buffer = b""
        self._heard_at = time.monotonic()
        # Until the caller says how long it may be silent.
        self.silence_s = 60.0
        self.is_gone = False

    def wait_for_line(self) -> bytes:
        """Return the next line that says something; b"" when no more can come."""
        while not self.is_gone:
            for line in self.read():
                if line:
                    return line
            if not self.is_gone:
                _wait([0], self.remaining_s())
        return b""

    def read(self) -> list[bytes]:
        """Return the lines that are there; notes when the caller is gone."""
        try:
            data = os.read(0, 1 << 20)
        except BlockingIOError:
            self.is_gone = self.is_gone or self.remaining_s() <= 0
            return []
        except OSError:
            data = b""
        self._heard_at = time.monotonic()
        self.is_gone = not data
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return lines

    def remaining_s(self) -> float:
        """Return after how many seconds of further silence it counts as gone."""
        return max(0.0, self._heard_at + self.silence_s - time.monotonic())


class Voice:
    """Our own words to the caller, between those of the supervisor."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        try:
            # O_NONBLOCK belongs to the open file, which the supervisor has, too: open another one.
            self._fd = os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            self._fd = 1
        self._poller = select.poll()
        self._poller.register(self._fd, select.POLLOUT)

    def tell(self, message: Mapping[str, object]) -> None:
        """Send a message, if the connection takes it in time."""
        deadline = time.monotonic() + _LAST_WORD_S
        while self._poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            if self._write(message):
                return

    def offer(self, message: Mapping[str, object]) -> bool:
        """Send a message if the connection takes it at once; return whether it does."""
        return bool(self._poller.poll(0)) and self._write(message)

    def _write(self, message: Mapping[str, object]) -> bool:
        """Write a message, short enough to go whole; return whether there is no more to try."""
        try:
            os.write(self._fd, RECORD + f"{self._mark} {json.dumps(message)}\n".encode())
        except BlockingIOError:
            return False
        except OSError:
            pass  # nobody listens any more
        return True


class Input:
    """The stdin of the supervisor: what the caller has of it, as fast as a rank reads."""

    def __init__(self, *, is_wanted: bool = True) -> None:
        """is_wanted: whether anything will come; else the supervisor has an empty file."""
        self.read_end, self._fd = -1, -1
        if is_wanted:
            self.read_end, self._fd = os.pipe()
            os.set_blocking(self._fd, False)
        self._unread = b""
        self._has_ended = False
        # How much has gone since the caller was told.
        self._num_taken = 0

    def take(self, text: bytes) -> None:
        """Take a part in base64; an empty one is the end."""
        self._has_ended = not text
        self._unread += binascii.a2b_base64(text)

    def flush(self, voice: Voice) -> None:
        """Write what fits, and tell the caller how much that was."""
        while self._unread:
            try:
                num_bytes = os.write(self._fd, self._unread)
            except BlockingIOError:
                break
            except OSError:
                num_bytes = len(self._unread)  # nobody will read it
            self._num_taken += num_bytes
            self._unread = self._unread[num_bytes:]
        if self._has_ended and not self._unread:
            self.close()
        if self._num_taken and voice.offer({"taken": self._num_taken}):
            self._num_taken = 0

    def close(self) -> None:
        """Let the reader read the end."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._unread = -1, b""

    @property
    def waiting(self) -> list[int]:
        """The descriptor that is waited for, while the reader takes no more."""
        return [self._fd] if self._unread else []


class Supervisor:
    """The child that runs the host's ranks, once it is told to go."""

    def __init__(
        self, argv: list[str], environ: Mapping[str, str], patience_s: float, stdin: Input
    ) -> None:
        """patience_s: how long it may take to stop when it has been asked."""
        self._patience_s = patience_s
        self._was_asked = False
        self._kill_at = float("inf")
        self._children, for_signals = os.pipe()
        for fd in (self._children, for_signals):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        signal.set_wakeup_fd(for_signals, warn_on_full_buffer=False)
        orders, self._orders = os.pipe()
        self._has_begun = False
        # -1 when it has said that it is ready, or has ended before.
        self._ready, ready = os.pipe()
        for fd in (orders, ready):
            os.set_inheritable(fd, True)
        self._stdin = stdin
        given: tuple[object, ...] = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        if stdin.read_end >= 0:
            given = (os.POSIX_SPAWN_DUP2, stdin.read_end, 0)
        self._pid = os.posix_spawn(
            argv[0],
            argv,
            {**environ, _PARENT: str(os.getpid()), _STANDBY: f"{orders} {ready}"},
            file_actions=[given],
            setsid=True,
            setsigdef=_RESTORED,
        )
        for fd in (orders, ready, stdin.read_end):
            if fd >= 0:
                os.close(fd)

    def has_become_ready(self) -> bool:
        """Return whether it has said so since it was asked last."""
        if self._ready < 0 or not _wait([self._ready], 0):
            return False
        is_ready = bool(os.read(self._ready, 100))
        os.close(self._ready)
        self._ready = -1
        return is_ready

    def go(self, place: bytes) -> None:
        """Let it begin: the nodes meet at this place, behind which stands whether that is here."""
        self._has_begun = True
        self._tell(place)

    def _tell(self, line: bytes) -> None:
        try:
            os.write(self._orders, line + b"\n")
        except OSError:
            pass  # it is about to end, or will be killed in time

    def poll(self) -> int | None:
        """Return its return code, minus a signal's number, when it has ended.

        One whose time to stop is over is killed.
        """
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= self._kill_at:
            os.kill(self._pid, signal.SIGKILL)
            self._kill_at = float("inf")
        return None

    def pass_on(self, order: bytes) -> None:
        """Pass on an order; `stop N` asks the first time, and forces the second."""
        self._tell(order)
        if order.startswith(b"stop"):
            self._limit(_FORCE_S if self._was_asked else self._patience_s)

    def _limit(self, patience_s: float) -> None:
        self._kill_at = min(self._kill_at, time.monotonic() + patience_s)
        self._was_asked = True

    def leave(self) -> None:
        """Ask it to stop, for good, because the caller is gone; once, and not after the caller."""
        if not self._has_begun:  # and now it never will
            os.close(self._orders)
            self._has_begun = True
            self._limit(_FORCE_S)
        elif not self._was_asked:
            self.pass_on(b"stop %d" % signal.SIGTERM)

    def remaining_s(self) -> float:
        """Return the seconds until it must be looked at again."""
        return max(0.0, self._kill_at - time.monotonic())

    def wait(self, fds: list[int], timeout_s: float) -> None:
        """Wait until it has changed its state, or one of these descriptors is ready."""
        ready = [self._ready] if self._ready >= 0 else []
        _wait([*fds, self._children, *ready], timeout_s, self._stdin.waiting)
        try:
            os.read(self._children, 1 << 10)
        except BlockingIOError:
            pass


def main(mark: str) -> int:
    """Do what the caller asks for, and stay until the supervisor has ended."""
    for signum in _NOT_OURS:
        signal.signal(signum, signal.SIG_IGN)
    caller, voice = Caller(), Voice(mark)
    question = caller.wait_for_line()
    if not question:
        return 0
    asked = json.loads(question)
    caller.silence_s = asked["silence_s"]
    try:
        answer, _port = look(asked, os.environ)  # the port is ours until we end
    except Obstacle as obstacle:
        voice.tell({"problem": obstacle.kind, "detail": obstacle.detail})
        return 1
    own = {name: value for name, value in os.environ.items() if not name.startswith(_OPTIONS)}
    environ, stdin = {**own, **asked["environ"]}, Input(is_wanted=asked["has_input"])
    supervisor = Supervisor(asked["argv"], environ, asked["patience_s"], stdin)
    returncode = _stay(caller, supervisor, voice, answer, stdin)
    voice.tell({"ended": returncode})
    return returncode if returncode >= 0 else 128 - returncode


class Obstacle(Exception):
    """Why nothing can be started on this host: a word, and the system's own ones."""

    def __init__(self, kind: str, error: OSError) -> None:
        super().__init__(kind)
        self.kind = kind
        self.detail = error.strerror


def look(
    asked: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, object], socket.socket]:
    """Return what the caller wants to know of this host, and the port that is kept for it.

    The working folder is entered. `reserve`: a port to keep, 0 for any that is free. `find`: the
    name by which the first host is to be reached from here. Raises Obstacle.
    """
    try:
        os.chdir(asked["folder"])
    except OSError as error:
        raise Obstacle("folder", error) from None
    try:
        reserved = _reserve(asked["reserve"])
    except OSError as error:
        raise Obstacle("port", error) from None
    # The third word is the address at which the caller has reached this host.
    connection = environ.get("SSH_CONNECTION", "").split()
    answer = {
        "port": reserved.getsockname()[1],
        "address": connection[2] if len(connection) == 4 else "",
        "found": _find(asked["find"]) if asked["find"] else "",
    }
    return answer, reserved


def _reserve(port: int) -> socket.socket:
    """Bind a port without listening: nobody gets it but who asks for it by its number."""
    import socket

    try:
        reserved = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        reserved.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        everywhere = "::"
    except OSError:  # a kernel without IPv6
        reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        everywhere = ""
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reserved.bind((everywhere, port))
    except OSError:
        reserved.close()
        raise
    return reserved


def _find(name: str) -> str:
    """Return the address that a name has on this host; "" for a name that it does not know."""
    import socket

    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return ""


def _stay(
    caller: Caller, supervisor: Supervisor, voice: Voice, answer: dict[str, object], stdin: Input
) -> int:
    """Pass on what is said until the supervisor has ended, and return how."""
    while (returncode := supervisor.poll()) is None:
        if supervisor.has_become_ready():
            voice.tell({"ready": answer})
        stdin.flush(voice)
        if caller.is_gone:
            stdin.close()
            supervisor.leave()
            supervisor.wait([], supervisor.remaining_s())
            continue
        supervisor.wait([0], min(caller.remaining_s(), supervisor.remaining_s()))
        for line in caller.read():
            word, _, rest = line.partition(b" ")
            if not line:
                voice.offer({})
            elif word == b"go":
                supervisor.go(rest)
            elif word in (b"stop", b"signal"):
                supervisor.pass_on(line)
            elif word == b"input":
                stdin.take(rest)
    return returncode


def _wait(fds: list[int], timeout_s: float, for_writing: Sequence[int] = ()) -> bool:
    """Wait until one of these can be read, or written to; return whether that is so."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    for fd in for_writing:
        poller.register(fd, select.POLLOUT)
    return bool(poller.poll(None if timeout_s == float("inf") else timeout_s * 1000))


if __name__ == "__main__":
    os._exit(main(sys.argv[1]))
