"""Starting workers by exec, one interpreter for each: the `spawn` start method.

Owns the command line of a worker process and the exit statuses of processes that are our own children. A worker that has
ended stays a zombie until `reap`, so that its process id cannot be reused while its session is still being cleaned up.
Layer 1.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence

from launcher.events import Event, Exited, Started, StartFailed
from launcher.exits import from_wait_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.plan.plan import WorkerPlan

_WORKER_DIR = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "worker")
ENTRY = os.path.join(_WORKER_DIR, "__main__.py")
_EXEC_ENTRY = os.path.join(_WORKER_DIR, "exec_command.py")

# Python ignores these for itself; a child must find them as a shell would leave them.
RESTORED_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)

# The signals that were blocked when we were started: the loop unblocks its own, workers get them as they were.
_INHERITED_MASK = signal.pthread_sigmask(signal.SIG_BLOCK, ())


def interpreter_flags() -> list[str]:
    """Return the options with which this interpreter was started, as they were typed, for the workers' interpreters."""
    options: list[str] = []
    arguments = iter(sys.orig_argv[1:])
    for argument in arguments:
        if argument == "--check-hash-based-pycs":
            options += [argument, next(arguments)]
            continue
        if len(argument) < 2 or argument[0] != "-":
            break
        letters = ""
        for index, letter in enumerate(argument[1:], start=1):
            if letter in "cm":  # the program begins
                return [*options, "-" + letters] if letters else options
            if letter in "WX":
                options += ["-" + letter, argument[index + 1 :] or next(arguments)]
                break
            # Workers have no terminal to be interactive on, and their entry has no first line to skip.
            letters += letter if letter not in "ix" else ""
        if letters:
            options.append("-" + letters)
    return options


def python_command() -> list[str]:
    """Return the interpreter with its options. PYTHON_EXEC names another interpreter, as under torchrun."""
    return [os.environ.get("PYTHON_EXEC") or sys.executable, *interpreter_flags()]


def command_line(worker: WorkerPlan, parent_pid: int) -> list[str]:
    """Return what is executed for one worker."""
    if worker.kind == "command":
        return [sys.executable, "-I", "-S", _EXEC_ENTRY, str(parent_pid), worker.target, *worker.args]
    return [*python_command(), ENTRY, "run", worker.kind, str(parent_pid), worker.title, worker.target, *worker.args]


def launch_process(argv: Sequence[str], environ: Mapping[str, str], descriptors: Mapping[int, int]) -> int:
    """Execute a command in a session of its own; `descriptors` maps its descriptor numbers to ours. Returns the pid."""
    actions = [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in descriptors.items()]
    return os.posix_spawnp(
        argv[0],
        list(argv),
        dict(environ),
        file_actions=actions,
        setsid=True,
        setsigdef=list(RESTORED_SIGNALS),
        setsigmask=list(_INHERITED_MASK),
    )


def start_problem(number: int | None) -> str:
    """Say why the system has not started a process, from the error's number."""
    if number == errno.E2BIG:
        return "the arguments are too long"
    if number == errno.EAGAIN:
        return "no more processes are allowed (`ulimit -u` shows the user's limit; a container may have one of its own)"
    return os.strerror(number or 0)


def merged_environ(additions: Mapping[str, str], removed: Sequence[str]) -> dict[str, str]:
    """Return our own environment with the contract put on top."""
    environ = {name: value for name, value in os.environ.items() if name not in removed}
    environ.update(additions)
    return environ


class SpawnStarter:
    """Starts each worker by exec, and sees their exits through SIGCHLD."""

    method = "spawn"
    is_ready = True

    def __init__(self) -> None:
        self._running: dict[int, int] = {}  # pid -> local rank

    def start(self, worker: WorkerPlan, descriptors: Sequence[int]) -> Iterable[Event]:
        """Start one worker with these descriptors as its stdin, stdout and stderr."""
        argv = command_line(worker, os.getpid())
        environ = merged_environ({**worker.common_env, **worker.env}, worker.unset)
        ours = os.sched_getaffinity(0) if worker.cpus else ()
        try:
            if worker.cpus:
                os.sched_setaffinity(0, worker.cpus)  # inherited, and so in force before the worker's first thread
            pid = launch_process(argv, environ, dict(enumerate(descriptors)))
        except OSError as error:
            return [StartFailed(worker.local_rank, f"cannot start {argv[0]}: {start_problem(error.errno)}", 126)]
        finally:
            if ours:
                os.sched_setaffinity(0, ours)
        self._running[pid] = worker.local_rank
        return [Started(worker.local_rank, pid)]

    def collect_exits(self) -> list[Event]:
        """Return the exits that have happened since the last call. Called on SIGCHLD."""
        events: list[Event] = []
        for pid, local_rank in list(self._running.items()):
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                del self._running[pid]
                events.append(Exited(local_rank, from_wait_status(ended.si_code, ended.si_status)))
        return events

    def reap(self, pid: int) -> int | None:
        """Let the process id of an ended worker go. Returns its peak memory in KiB, None where that is not known."""
        return os.wait4(pid, 0)[2].ru_maxrss

    def take_set_aside(self) -> Iterable[Event]:
        """Return events that came while an answer was awaited: never any here."""
        return ()

    def close(self) -> None:
        """Nothing stays behind with this start method."""
