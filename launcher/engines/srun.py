"""One srun from its start to its end: signals reach the tasks, what Slurm refuses is told apart.

srun alone passes the first Ctrl-C on to nobody, and at SIGTERM it kills its tasks at once: none of
them could save. So it runs in a session of its own, and a signal that stops goes to its step by
scancel, which takes it to every task. Before there is a step, srun itself is interrupted.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence

from launcher.engines import slurm_client
from launcher.engines.stdin import CommandInput
from launcher.events import ChildrenChanged, Event, Signalled
from launcher.exits import shell_code
from launcher.output.writer import StreamWriter
from launcher.system.bare import die_with_parent
from launcher.system.loop import Loop
from launcher.system.processes import launch_process, send_signal

# They do not stop; srun takes them to every task.
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)

# How srun's lines about what Slurm does not give begin.
_REFUSALS = (
    b"srun: error: Unable to allocate resources: ",
    b"srun: error: Unable to create step for job ",
)
_BEGINNING = b"srun: "

# What srun says to our own option where it means nothing; and of each launcher how it has ended,
# behind the report that tells why.
_NOISE = re.compile(
    rb"srun: (cluster configuration lacks support for cpu binding"
    rb"|error: \S+: tasks? [\d,-]+: Exited with exit code \d+)"
)

# The pause between two looks for a step that is about to begin.
_LOOK_S = 0.5

# The signal that stops, the one that forces, and then nobody waits for the launchers any more.
_LAST = 3

# How long to read on when srun has ended: what it has left behind may hold the pipe.
_DRAIN_S = 2.0


class Srun:
    """A running srun. Use as a context manager: leaving it ends what still runs."""

    def __init__(
        self,
        loop: Loop,
        name: str,
        argv: Sequence[str],
        environ: Mapping[str, str],
        *,
        has_input: bool = False,
    ) -> None:
        """Start it; LauncherError where there is no Slurm.

        name: of its step, and of no other. has_input: one of its tasks reads our stdin.
        """
        self._loop = loop
        self._name = name
        self._status: int | None = None
        self._words = _Words(loop)
        self._steps: list[str] = []
        self._is_interrupted = False
        self._num_stops = 0
        # The signal that has asked to stop.
        self.signum = 0
        self._stderr, theirs = os.pipe()
        self._stdin = CommandInput(loop, is_wanted=has_input)
        ours = os.getpid()

        def prepare() -> None:
            # Should we be killed, it ends its tasks.
            die_with_parent(signal.SIGTERM, ours)

        try:
            descriptors = {0: self._stdin.fd, 1: 1, 2: theirs}
            self._pid = launch_process(argv, environ, descriptors, prepare)
        except FileNotFoundError:
            os.close(self._stderr)
            self._stdin.close()
            raise slurm_client.missing(argv[0]) from None
        finally:
            os.close(theirs)
        self._stdin.begin()
        loop.watch(self._stderr, self._read)

    def __enter__(self) -> Srun:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for timer in (self._tell, self._stop_reading):
            self._loop.cancel_timer(timer)
        self._stop_reading()
        self._stdin.close()
        if self._status is None:
            send_signal(self._pid, signal.SIGTERM)
            os.waitpid(self._pid, 0)

    @property
    def has_begun(self) -> bool:
        """Whether a step is known to have begun."""
        return bool(self._steps)

    @property
    def refusal(self) -> str:
        """What Slurm has refused, in its own words; "" for nothing."""
        return self._words.refusal

    def wait(self) -> int:
        """Turn the loop until it has ended; return its exit code."""
        while self._status is None:
            self._loop.turn(self._handle)
        self._loop.cancel_timer(self._tell)
        self._loop.set_timer(self._stop_reading, _DRAIN_S)
        while self._stderr >= 0:
            self._loop.turn(self._handle)
        self._words.end()
        return shell_code(os.waitstatus_to_exitcode(self._status))

    def _handle(self, event: Event) -> None:
        if self._status is not None:
            return
        if isinstance(event, ChildrenChanged):
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = status if pid else None
        elif isinstance(event, Signalled):
            if event.signum in PASSED_ON:
                send_signal(self._pid, event.signum)
            else:
                self._stop(event.signum)

    def _stop(self, signum: int) -> None:
        self.signum = self.signum or signum
        self._num_stops += 1
        if self._num_stops >= _LAST:
            send_signal(self._pid, signal.SIGTERM)  # it kills all of its tasks
        else:
            self._tell()

    def _tell(self) -> None:
        """Take the signal to the step; where there is none, give it up before it begins."""
        self._steps = self._steps or slurm_client.find_steps(self._name)
        for step in self._steps:
            slurm_client.signal_step(step, self.signum)
        if self._steps:
            return
        for job in slurm_client.find_waiting_jobs(self._name):
            slurm_client.cancel(job)
        if not self._is_interrupted:
            # While it waits inside of a job, it gives up. In the moment before the step this does
            # nothing, and the step is there at the next look.
            self._is_interrupted = True
            send_signal(self._pid, signal.SIGINT)
        self._loop.set_timer(self._tell, _LOOK_S)

    def _read(self) -> None:
        data = os.read(self._stderr, 1 << 16)
        if data:
            self._words.feed(data)
        else:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._stderr >= 0:
            self._loop.unwatch(self._stderr)
            os.close(self._stderr)
            self._stderr = -1


class _Words:
    """What comes on srun's stderr: passed on, but for the lines that say what Slurm refuses."""

    def __init__(self, loop: Loop) -> None:
        self._writer = StreamWriter(2, loop)
        self._line = b""
        self._is_at_start = True
        self.refusal = ""

    def feed(self, data: bytes) -> None:
        """Take what has come; the beginning of a line waits until it is clear what it says."""
        *whole, self._line = (self._line + data).split(b"\n")
        for line in whole:
            self._end_line(line)
        if self._line and not self._may_be_of_srun(self._line):
            self._writer.write(self._line)
            self._line, self._is_at_start = b"", False

    def end(self) -> None:
        """Write what is left, and wait for a slow reader."""
        self._writer.write(self._line)
        self._writer.drain()
        self._writer.close()

    def _may_be_of_srun(self, line: bytes) -> bool:
        length = min(len(line), len(_BEGINNING))
        return self._is_at_start and line[:length] == _BEGINNING[:length]

    def _end_line(self, line: bytes) -> None:
        if self._is_at_start and line.startswith(_REFUSALS):
            self.refusal = line.rpartition(b": ")[2].decode(errors="backslashreplace")
        elif not self._is_at_start or not _NOISE.fullmatch(line):
            self._writer.write(line + b"\n")
        self._is_at_start = True
