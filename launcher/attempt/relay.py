"""Between the processes that an engine has started and the workers that stand in their place.

A signal to a process is one to its worker, a process that is killed takes its worker along, one
that is stopped stops it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

from launcher.attempt.stop import FORWARDED_SIGNALS, Kernel
from launcher.attempt.worker import Worker
from launcher.system.loop import Loop
from launcher.system.processes import maps_library, process_info

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.attached.crew import Crew
    from launcher.diagnosis.outcome import WorkerOutcome

# Nobody tells us when a process of the engine is stopped: its state is read so often.
_LOOK_S = 0.5


class Relay:
    """What passes between processes and workers in one attempt."""

    def __init__(
        self,
        crew: Crew,
        workers: Sequence[Worker],
        loop: Loop,
        kernel: Kernel,
        stopping: Sequence[int],
        on_stopped: Callable[[], None],
    ) -> None:
        """`stopping` are the signals after which a worker ends because it was told to.

        `on_stopped` is called again and again while a worker is stopped with its process.
        """
        self._crew = crew
        self._workers = workers
        self._loop = loop
        self._kernel = kernel
        self._stopping = frozenset(stopping)
        self._on_stopped = on_stopped
        # Local ranks and signals of workers that are just being started.
        self._unborn: list[tuple[int, int]] = []
        self._stopped: set[int] = set()

    def begin(self) -> None:
        """Start to look after the processes."""
        self._loop.set_timer(self._look, _LOOK_S)

    def end(self) -> None:
        """Look no more: all workers have ended."""
        self._loop.cancel_timer(self._look)

    def pass_on(self, local_rank: int, signum: int) -> None:
        """Let the worker have a signal that its process has got."""
        worker = self._workers[local_rank]
        if signum == signal.SIGCONT:
            self._stopped.discard(local_rank)
            self._send_group(worker, signal.SIGCONT)
        elif signum == signal.SIGTSTP:
            self._stop(local_rank)
        else:
            self._deliver(worker, signum)

    def greet(self, local_rank: int) -> None:
        """Let a worker that has come to be have what has come for it before."""
        if self._crew.links[local_rank].has_gone:
            self.lose(local_rank)
        self._stopped.discard(local_rank)  # is looked at again
        early = [signum for owner, signum in self._unborn if owner == local_rank]
        self._unborn = [each for each in self._unborn if each[0] != local_rank]
        worker = self._workers[local_rank]
        is_stopping = worker.asked_to_stop_at is not None
        for signum in early:
            if not (is_stopping and signum in self._stopping):
                self._deliver(worker, signum)

    def lose(self, local_rank: int) -> None:
        """End the worker whose process has been killed."""
        worker = self._workers[local_rank]
        pid = self._crew.links[local_rank].facts.pid
        worker.known_cause = f"the process that stood for it (pid {pid}) was killed"
        if worker.is_running:
            self._kernel.kill_sessions([worker.pid])

    def find_restart_obstacle(self, outcomes: Sequence[WorkerOutcome]) -> str:
        """Return why ranks of this engine cannot be started again, or "".

        Those that have failed may have said it, of those that run the kernel knows it.
        """
        said = any(outcome.error is not None and outcome.error.used_mpi for outcome in outcomes)
        if said or any(
            worker.is_running and maps_library(worker.pid, "libmpi") for worker in self._workers
        ):
            return "the ranks use MPI, which their engine lets them initialise only once"
        return ""

    def _deliver(self, worker: Worker, signum: int) -> None:
        if worker.state == "starting":
            self._unborn.append((worker.plan.local_rank, signum))
            return
        if signum in self._stopping:
            worker.told_signum, worker.told_at = signum, self._loop.clock()
        if worker.is_running:
            is_command = worker.plan.kind == "command" and signum not in FORWARDED_SIGNALS
            send = self._kernel.signal_group if is_command else self._kernel.signal
            send(worker.pid, signum)

    def _look(self) -> None:
        self._loop.set_timer(self._look, _LOOK_S)
        for local_rank, link in enumerate(self._crew.links):
            info = process_info(link.facts.pid)
            is_stopped = info is not None and info.state == "T"
            if is_stopped and local_rank not in self._stopped:
                self._stop(local_rank)
            elif not is_stopped and local_rank in self._stopped:
                self._stopped.discard(local_rank)
                self._send_group(self._workers[local_rank], signal.SIGCONT)
        if self._stopped:
            self._on_stopped()

    def _stop(self, local_rank: int) -> None:
        self._stopped.add(local_rank)
        self._send_group(self._workers[local_rank], signal.SIGSTOP)

    def _send_group(self, worker: Worker, signum: int) -> None:
        if worker.is_running:
            self._kernel.signal_group(worker.pid, signum)
