"""The process of a fork server, as its parent holds it: started before anything else is known about
the launch.

Its interpreter comes up while ours still imports the supervisor, so a launch takes less time. What
it shall import, and with which variables, it is told by warm.py.
"""

from __future__ import annotations

import os
import signal
import socket

from launcher.contract import environment as contract
from launcher.contract import messages as forkwire
from launcher.contract.messages import ROOM
from launcher.errors import SpawnError
from launcher.plan.interpreter import ENTRY, python_command
from launcher.system.processes import (
    fill_standard_descriptors,
    launch_process,
    merged_environ,
    start_problem,
)


class ServerProcess:
    """A fork server that has not been told what to import yet; `close` ends it, and with it every
    worker that it has.
    """

    def __init__(self, mark: str | None = None) -> None:
        """Start it; SpawnError when the system refuses. `mark`: by it the processes of this run are
        found; or a new one.
        """
        fill_standard_descriptors()
        self.mark = mark or os.urandom(8).hex()
        ours, theirs = forkwire.make_pair()
        self._socket = ours
        self._output_fd, output_write = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        argv = [
            *python_command(),
            ENTRY,
            "forkserver",
            str(theirs.fileno()),
            str(os.getpid()),
            ROOM,
        ]
        environ = merged_environ(contract.at_start(self.mark, os.environ), ())
        try:
            # Under its own number: 3 and above may be descriptors that the user hands to the
            # script.
            theirs.set_inheritable(True)
            self.pid = launch_process(argv, environ, {0: null, 1: output_write, 2: output_write})
        except OSError as error:
            problem = f"The interpreter {argv[0]} cannot be started: {start_problem(error.errno)}."
            raise SpawnError(problem, exit_code=126) from None
        finally:
            for fd in (null, output_write, theirs.detach()):
                os.close(fd)
        os.set_blocking(self._output_fd, False)

    @property
    def has_ended(self) -> bool:
        """Whether it has died unnoticed: nobody hears of a child's end before there is a loop."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def close(self) -> None:
        """End the process, unless somebody has taken it over."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
            self._socket.close()
            os.close(self._output_fd)

    def detach(self) -> tuple[int, socket.socket, int]:
        """Return process, socket and output descriptor, which belong to the caller from now on."""
        pid, self.pid = self.pid, 0
        return pid, self._socket, self._output_fd
