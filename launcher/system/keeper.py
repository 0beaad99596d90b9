"""The keeper: a tiny process that outlives the supervisor just long enough to clean up after it.

When the supervisor is killed with SIGKILL, the kernel ends its workers (death signal), but not what
these have started. The keeper sees the pipe from the supervisor close and kills every process of
the run: those that carry the run's mark in their environment, and those in a worker's session.
Forked, not executed: it costs a millisecond.
"""

from __future__ import annotations

import os
import select
import signal

from launcher.errors import LauncherError
from launcher.system.processes import all_processes, carries_mark, send_signal, start_problem

MARK_VARIABLE = "LAUNCHER_RUN_MARK"

# How often the keeper looks for processes that were just being born, and the pause between.
_ROUNDS = 50
_PAUSE_S = 0.02

# The last word of a supervisor that has left nothing to clean up.
_DONE = b"done\n"


class Keeper:
    """The supervisor's end, as a context manager: leaving it says that all is in order."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._sessions: list[int] = []
        self.pid = 0
        self._pipe = -1

    def __enter__(self) -> Keeper:
        try:
            self._start()
        except OSError as error:
            raise LauncherError(
                f"The launcher cannot start a process: {start_problem(error.errno)}."
            ) from None
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._tell(_DONE)
        os.close(self._pipe)
        os.waitpid(self.pid, 0)

    def add_session(self, session_id: int) -> None:
        """Tell the keeper of a worker's session."""
        self._sessions.append(session_id)
        self._tell(b"%d\n" % session_id)

    def revive(self) -> bool:
        """Start a new keeper if somebody has killed the old one; tell whether."""
        if os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            return False
        os.close(self._pipe)
        self._start()
        return True

    def _tell(self, text: bytes) -> None:
        try:
            os.write(self._pipe, text)
        except OSError:
            pass  # it was killed; revive() follows

    def _start(self) -> None:
        supervisor = os.getpid()
        read_end, self._pipe = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _keep(read_end, self._mark, supervisor)
            finally:
                os._exit(0)
        os.close(read_end)
        for session_id in self._sessions:
            self._tell(b"%d\n" % session_id)


def _keep(read_end: int, mark: str, supervisor: int) -> None:
    """Wait for the end of the pipe, and kill what is left of the run unless all is in order."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    # Pipes of workers must not be held open here, or their readers would never see the end.
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != read_end:
            os.closerange(int(name), int(name) + 1)  # one may have been closed by now
    received = b""
    while True:
        data = os.read(read_end, 4096)
        if not data:
            break
        received += data
    if received.endswith(_DONE):
        return
    _clean_up(
        {int(line) for line in received.split() if line.isdigit()},
        f"{MARK_VARIABLE}={mark}".encode(),
        supervisor,
    )


def _clean_up(sessions: set[int], mark: bytes, supervisor: int) -> None:
    for _ in range(_ROUNDS):
        left = [
            info.pid
            for info in all_processes()
            if info.pid not in (os.getpid(), supervisor)
            and info.state != "Z"
            and (info.session_id in sessions or carries_mark(info.pid, mark))
        ]
        if not left:
            return
        for pid in left:
            send_signal(pid, signal.SIGKILL)
        select.select([], [], [], _PAUSE_S)
