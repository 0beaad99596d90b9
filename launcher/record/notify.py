"""The user's commands for the end of a run: `--on-failure` and `--on-end`.

Each runs in a shell, has its output in a file of the run, and may take so long; whatever becomes of
it, the run has ended as it has.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Mapping

from launcher.contract.files import RunPaths
from launcher.events import ChildrenChanged, Event, Signalled
from launcher.system.loop import Loop
from launcher.system.processes import kill_sessions, launch_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.diagnosis.report import LaunchResult
    from launcher.options.spec import LaunchSpec

# How long a command may take, and then, killed, to end.
NOTIFY_S = 30.0
_GIVE_UP_S = 2.0


class Notifier:
    """Runs commands of the user to their end, one after the other."""

    def __init__(
        self,
        loop: Loop,
        stop_signals: Collection[int],
        on_start: Callable[[int], None],
        say: Callable[[str], None],
        longest_s: float = NOTIFY_S,
    ) -> None:
        """stop_signals: end a command, too. on_start: hears of the session of each."""
        self._loop = loop
        self._stop_signals = stop_signals
        self._on_start = on_start
        self._say = say
        self._longest_s = longest_s
        self._pid = 0
        self._status: int | None = None
        self._problem = ""

    def tell(self, spec: LaunchSpec, paths: RunPaths, result: LaunchResult) -> None:
        """Run those of a spec's commands that this end calls for; a problem is one line."""
        end = paths.end(0)
        report = paths.report if os.path.exists(paths.report) else ""
        commands = [("--on-end", spec.on_end, end)]
        if result.report is not None:
            commands.insert(0, ("--on-failure", spec.on_failure, report or end))
        environ = {
            **os.environ,
            "LAUNCHER_RUN_DIR": paths.run_dir,
            "LAUNCHER_EXIT_CODE": str(result.exit_code),
            "LAUNCHER_END_FILE": end,
            "LAUNCHER_REPORT_FILE": report,
        }
        for flag, command, path in commands:
            problem = self.run(command, path, environ, paths.notify_log) if command else ""
            if problem:
                self._say(f"{flag}: {problem} (its output: {paths.notify_log})")

    def run(self, command: str, path: str, environ: Mapping[str, str], log: str) -> str:
        """Run a command with a file's path as `$1` and its output in `log`.

        Returns what went wrong, or "".
        """
        argv = ["/bin/sh", "-c", command, "sh", path]
        self._status, self._problem = None, ""
        try:
            self._pid = _start(argv, environ, log)
        except OSError as error:
            return f"cannot be started: {error.strerror}"
        self._on_start(self._pid)
        self._loop.set_timer(self._end_time, self._longest_s)
        while self._status is None:
            self._loop.turn(self._handle)
        for timer in (self._end_time, self._give_up):
            self._loop.cancel_timer(timer)
        kill_sessions([self._pid])
        return self._problem or (f"exit code {self._status}" if self._status else "")

    def _handle(self, event: Event) -> None:
        if isinstance(event, ChildrenChanged):
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        elif isinstance(event, Signalled) and event.signum in self._stop_signals:
            self._kill("it was ended by a signal to the launcher")

    def _end_time(self) -> None:
        self._kill(f"it did not end within {self._longest_s:g} s, and was killed")

    def _kill(self, why: str) -> None:
        self._problem = why
        kill_sessions([self._pid])
        self._loop.set_timer(self._give_up, _GIVE_UP_S)

    def _give_up(self) -> None:
        self._status = -signal.SIGKILL  # the kernel holds it


def _start(argv: list[str], environ: Mapping[str, str], log: str) -> int:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    output = null
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        output = os.open(log, flags, 0o644)
    except OSError:
        pass  # a full or read-only disk: nobody will read what it says
    try:
        return launch_process(argv, environ, {0: null, 1: output, 2: output})
    finally:
        for fd in {null, output}:
            os.close(fd)
