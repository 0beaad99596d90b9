"""One mpirun from its start to its end: signals reach the launchers, and its exit code is theirs.

mpirun kills what it has started soon after it was asked to stop: no rank could save. So it runs in
a session of its own, where no terminal's Ctrl-C finds it, and what stops goes through it to each
launcher as a signal that it passes on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from launcher.engines.mpi_command import PASSED_ON, STOP_SIGNAL, MpiRun
from launcher.engines.stdin import CommandInput
from launcher.errors import LauncherError
from launcher.events import ChildrenChanged, Event, Signalled
from launcher.exits import shell_code, signal_name
from launcher.system.bare import die_with_parent
from launcher.system.loop import Loop
from launcher.system.processes import launch_process, send_signal

# The signal that stops, the one that forces, and then mpirun ends what is left.
_LAST = 3


class Mpirun:
    """A running mpirun. Use as a context manager: leaving it ends what still runs."""

    def __init__(self, loop: Loop, run: MpiRun, say: Callable[[str], None]) -> None:
        """Start it; LauncherError where it cannot be executed. `say` prints a line for the user."""
        self._loop = loop
        self._say = say
        self._is_exact = run.is_exact
        self._status: int | None = None
        self._num_stops = 0
        self._signum = 0
        ours = os.getpid()

        def prepare() -> None:
            # Should we be killed, it ends its processes.
            die_with_parent(signal.SIGTERM, ours)

        self._stdin = CommandInput(loop, is_wanted=run.has_input)
        try:
            descriptors = {0: self._stdin.fd, 1: 1, 2: 2}
            self._pid = launch_process(run.argv, run.environ, descriptors, prepare)
        except OSError as error:
            self._stdin.close()
            raise LauncherError(f"{run.argv[0]} cannot be executed: {error.strerror}.") from None
        self._stdin.begin()

    def __enter__(self) -> Mpirun:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stdin.close()
        if self._status is None:
            send_signal(self._pid, signal.SIGTERM)
            os.waitpid(self._pid, 0)

    def wait(self) -> int:
        """Turn the loop until it has ended; return its exit code."""
        while self._status is None:
            self._loop.turn(self._handle)
        code = shell_code(os.waitstatus_to_exitcode(self._status))
        # The launchers end as after the signal that has come to them; what came here is another.
        is_unknown = code == 0 and not self._is_exact
        is_stopped = self._signum and (code == 128 + STOP_SIGNAL or is_unknown)
        return 128 + self._signum if is_stopped else code

    def _handle(self, event: Event) -> None:
        if self._status is not None:
            return
        if isinstance(event, ChildrenChanged):
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = status if pid else None
        elif isinstance(event, Signalled):
            if event.signum not in PASSED_ON:
                self._stop(event.signum)
            elif self._is_exact:
                send_signal(self._pid, event.signum)
            else:
                self._say(
                    f"{signal_name(event.signum)} is not passed on: this mpirun would end with 0"
                    " after it, whatever happens"
                )

    def _stop(self, signum: int) -> None:
        self._signum = self._signum or signum
        self._num_stops += 1
        is_last = self._num_stops >= _LAST
        send_signal(self._pid, signal.SIGTERM if is_last else STOP_SIGNAL)
