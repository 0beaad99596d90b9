"""Starting workers by exec, one interpreter for each: the `spawn` start method.

Owns the command line of a worker process and the exit statuses of processes that are our own
children. A worker that has ended stays a zombie until `reap`, so that its process id cannot be
reused while its session is still being cleaned up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from launcher.events import Event, Exited, Started, StartFailed
from launcher.exits import from_wait_status
from launcher.plan.interpreter import make_command_line
from launcher.system.processes import launch_process, merged_environ, start_problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.plan.plan import WorkerPlan
    from launcher.plan.task import Task


class SpawnStarter:
    """Starts each worker by exec, and sees their exits through SIGCHLD."""

    is_ready = True
    pid = 0

    def __init__(self) -> None:
        self._running: dict[int, int] = {}  # pid -> local rank

    def start(self, worker: WorkerPlan, descriptors: Sequence[int]) -> Iterable[Event]:
        """Start one worker with these descriptors as its stdin, stdout and stderr."""
        argv = make_command_line(worker, os.getpid())
        environ = merged_environ({**worker.common_env, **worker.env}, worker.unset)
        ours = os.sched_getaffinity(0) if worker.cpus else ()
        try:
            if worker.cpus:
                # Inherited, and so in force before the worker's first thread.
                os.sched_setaffinity(0, worker.cpus)
            prepare = _assume_task(worker.task) if worker.task else None
            pid = launch_process(argv, environ, dict(enumerate(descriptors)), prepare)
        except OSError as error:
            problem = f"cannot start {argv[0]}: {start_problem(error.errno)}"
            return [StartFailed(worker.local_rank, problem, 126)]
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
        """Let the process id of an ended worker go; return its peak memory in KiB."""
        return os.wait4(pid, 0)[2].ru_maxrss

    def forget(self, pid: int) -> None:
        """Say nothing more of a worker that was given up."""
        self._running.pop(pid, None)

    def close(self) -> None:
        """Do nothing: nothing stays behind with this start method."""


def _assume_task(task: Task) -> Callable[[], None]:
    """Return what makes a new process one that the task's own process could have started."""

    from launcher.system.inheritance import assume

    def prepare() -> None:
        # The numbers of what is handed over are ours, and stay so for a restart.
        assume(task.inheritance, [os.dup(fd) for fd in task.handed])

    return prepare
