"""The process of a fork server, as its parent holds it: started before the launch is known.

Its interpreter comes up while ours still imports the supervisor, so a launch takes less time: this
file must load little itself. What the server shall import, and with which variables, it is told by
warm.py.
"""

from __future__ import annotations

import os
import signal
import socket

from launcher.contract import environment as contract
from launcher.errors import SpawnError
from launcher.exits import from_wait_status
from launcher.plan.interpreter import ENTRY, python_command
from launcher.system.bare import fill_standard_descriptors
from launcher.system.processes import launch_process, merged_environ, start_problem

# Appended to its arguments, and never read: room for the titles of its workers.
_ROOM = " " * 400


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two connected ends of a socket for messages, which keeps each of them whole."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class ServerProcess:
    """A fork server: its process, the socket on which it is told what to do, and what it prints.

    Whoever starts one must `close` it, which ends every worker that it has.
    """

    def __init__(self, mark: str | None = None) -> None:
        """Start it; SpawnError when the system refuses.

        mark: by it the processes of this run are found; None for a new one.
        """
        fill_standard_descriptors()
        self.mark = mark or os.urandom(8).hex()
        self.pid = 0  # no more of ours once its end has been collected
        self.socket, theirs = make_pair()
        output_read, output_write = os.pipe()
        os.set_blocking(output_read, False)
        self.output = open(output_read, "rb", buffering=0)  # noqa: SIM115  (until `close`)
        null = os.open(os.devnull, os.O_RDONLY)
        number = str(theirs.fileno())
        argv = [*python_command(), ENTRY, "forkserver", number, str(os.getpid()), _ROOM]
        environ = merged_environ(contract.make_for_start(self.mark, os.environ), ())
        try:
            # Under its own number: 3 and above may be descriptors that the user hands over.
            theirs.set_inheritable(True)
            self.pid = launch_process(argv, environ, {0: null, 1: output_write, 2: output_write})
        except OSError as error:
            self.close()
            problem = f"The interpreter {argv[0]} cannot be started: {start_problem(error.errno)}."
            raise SpawnError(problem, exit_code=126) from None
        finally:
            theirs.close()
            for fd in (null, output_write):
                os.close(fd)

    def collect_exit(self) -> int | None:
        """Return its return code if it has ended, and let its process id go; else None.

        Nobody hears of a child's end before there is a loop: one that was started early is asked.
        """
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG)
        if ended is None:
            return None
        self.pid = 0
        return from_wait_status(ended.si_code, ended.si_status)

    def close(self) -> None:
        """End it, if it still runs; once more does nothing."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        self.socket.close()
        self.output.close()
