"""One host of a launch over ssh: the ssh process to it, and what comes back over that.

Before all hosts are to begin, whatever comes is ssh's or a login shell's: it is kept, for the case
that nothing else comes. Afterwards it is the output of the host's supervisor, which is shown. Knows
nothing of the other hosts.
"""

from __future__ import annotations

import binascii
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence

from launcher.engines.records import RecordReader
from launcher.output.console import Console
from launcher.output.intake import Intake
from launcher.output.streams import RankStream, StreamSettings
from launcher.output.writer import StreamWriter
from launcher.system.bare import die_with_parent
from launcher.system.loop import Loop
from launcher.system.processes import launch_process, send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# How much of ssh's words is kept.
_MOST_WORDS_BYTES = 1 << 14

# What ssh says where it could go on if it were allowed to ask somebody.
_COULD_ASK = (b"Permission denied", b"Host key verification failed")

# An ssh that may ask shares our terminal; what is typed there is for us.
_OF_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGHUP)


class Connection:
    """One host, from the first word to it to the last one from it."""

    def __init__(self, index: int, name: str, mark: str, loop: Loop, intake: Intake) -> None:
        self.index = index
        self.name = name
        self._mark = mark
        self._loop = loop
        self._intake = intake
        self._reader = RecordReader(mark)
        self._writer: StreamWriter | None = None
        self._stdin = -1
        self.pid = 0
        self.heard_at = 0.0
        # What ssh has said, or the login shell, before anybody else could.
        self.words = b""
        # What the host has told of itself; None until it has.
        self.answer: dict[str, Any] | None = None
        # What was wrong there, by a word, and in the system's words.
        self.problem: tuple[str, str] | None = None
        self.has_begun = False
        # How the supervisor has ended there: its return code, minus a signal's number.
        self.returncode: int | None = None
        # How ssh has ended, in the same form.
        self.exit_status: int | None = None
        # Hears how much of our stdin has been read there.
        self.on_taken: Callable[[int], None] = lambda num_bytes: None
        # Whether ssh has ended, and everything was read.
        self.is_over = False

    def open(
        self, argv: Sequence[str], environ: Mapping[str, str], console: Console, *, may_ask: bool
    ) -> None:
        """Start ssh, or what stands for it. OSError where that cannot be.

        may_ask: it may use our terminal.
        """
        self.words, self.exit_status, self.is_over = b"", None, False
        self._reader = RecordReader(self._mark)
        ours, theirs = [], []
        for index in range(3):
            read_end, write_end = os.pipe()
            ours.append(read_end if index else write_end)
            theirs.append(write_end if index else read_end)
        parent = os.getpid()

        def prepare() -> None:
            for signum in _OF_TERMINAL if may_ask else ():
                signal.signal(signum, signal.SIG_IGN)
            if not die_with_parent(signal.SIGTERM, parent):
                os._exit(0)

        try:
            self.pid = launch_process(
                argv, environ, dict(enumerate(theirs)), prepare, new_session=not may_ask
            )
        except OSError:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self._stdin = ours[0]
        os.set_blocking(self._stdin, False)
        self._writer = StreamWriter(self._stdin, self._loop)
        self.heard_at = self._loop.clock()
        for name, fd in zip(("out", "err"), ours[1:], strict=True):
            self._intake.add((self.index, name), fd, _HostStream(self, name, console), console)

    @property
    def could_ask(self) -> bool:
        """Whether ssh has given up because there was nobody whom it could ask."""
        return self.is_over and any(text in self.words for text in _COULD_ASK)

    @property
    def last_words(self) -> str:
        """What ssh has said last, or the login shell; in one line."""
        lines = self.words.decode("utf-8", "backslashreplace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return "; ".join(said[-3:]).rstrip(".")

    def silent_s(self) -> float:
        """Return for how long nothing has come from the host."""
        return self._loop.clock() - self.heard_at

    def hear(self, stream: str, data: bytes) -> bytes:
        """Take what came over a stream; return what is to be shown of it."""
        self.heard_at = self._loop.clock()
        if stream == "out":
            data, messages = self._reader.feed(data)
            for message in messages:
                self._take(message)
        if self.has_begun:
            return data
        self.words = (self.words + data)[-_MOST_WORDS_BYTES:]
        return b""

    def _take(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self.answer = message["ready"]
        elif "problem" in message:
            self.problem = message["problem"], message["detail"]
        elif "ended" in message:
            self.returncode = message["ended"]
        elif "taken" in message:
            self.on_taken(message["taken"])

    def ask(self, question: Mapping[str, object]) -> None:
        """Ask the host about itself, and have its supervisor loaded."""
        self._send(json.dumps(question).encode())

    def go(self, endpoint: str, *, is_host: bool) -> None:
        """Let the supervisor there begin: the nodes meet at this place, which may be its own."""
        self.words = b""
        self.has_begun = True
        self._send(f"go {endpoint} {int(is_host)}".encode() if endpoint else b"go")

    def stop(self, signum: int) -> None:
        """Ask the supervisor to stop; the second time forces."""
        self._send(b"stop %d" % signum)

    def signal(self, signum: int) -> None:
        """Send the supervisor a signal that does not stop it."""
        self._send(b"signal %d" % signum)

    def feed(self, data: bytes) -> None:
        """Send a part of our stdin to the rank there that reads it; an empty one is the end."""
        self._send(b"input " + binascii.b2a_base64(data, newline=False))

    def beat(self) -> None:
        """Say that we are there, unless we have said something that was not taken yet."""
        if self._writer is not None and not self._writer.pending_bytes:
            self._send(b"")

    def _send(self, line: bytes) -> None:
        if self._writer is not None:
            self._writer.write(line + b"\n")

    def hang_up(self) -> None:
        """Close the way to the host, which ends what runs there."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            os.close(self._stdin)

    def kill(self, signum: int) -> None:
        """End ssh itself."""
        if self.pid and self.exit_status is None:
            send_signal(self.pid, signum)

    def give_up(self) -> None:
        """Expect nothing more."""
        self.kill(signal.SIGKILL)
        self._intake.drop((self.index, "out"))

    def look(self) -> bool:
        """Return whether it has ended since the last look: ssh, and what it had to say.

        Where no ssh is between, the supervisor can outlive who has started it, and says how it
        ends.
        """
        if self.is_over or not self.pid:
            return False
        if self.exit_status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.exit_status = os.waitstatus_to_exitcode(status)
        if self.exit_status is None or self._intake.is_open((self.index, "out")):
            return False
        self._intake.drain_pipe((self.index, "err"))
        for name in ("out", "err"):
            self._intake.drop((self.index, name))
        self.hang_up()
        self.is_over = True
        return True


class _HostStream(RankStream):
    """One output stream of a host: the lines of its supervisor, which have their prefixes."""

    def __init__(self, connection: Connection, stream: str, console: Console) -> None:
        settings = StreamSettings(connection.index, stream, b"", log_path=None, shown=True)
        super().__init__(settings, console)
        self._connection = connection
        self._stream = stream

    def take(self, data: bytes) -> None:
        """Take what came over the connection."""
        text = self._connection.hear(self._stream, data)
        if text:
            super().take(text)
