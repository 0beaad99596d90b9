"""How one worker ended, and why: its error file, what it wrote last, and what the kernel knows."""

from __future__ import annotations

import signal

from launcher.attempt.stop import Kernel
from launcher.attempt.worker import Worker
from launcher.contract.error_file import WorkerError, decode, find_traceback
from launcher.contract.files import torch_error_file
from launcher.diagnosis.evidence import Evidence
from launcher.diagnosis.outcome import WorkerOutcome
from launcher.diagnosis.stacks import shorten_crash
from launcher.output.pipes import WorkerPipes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.start.starter import Starter

# How many lines of a failed worker the report may show.
_LAST_LINES = 20


class Autopsy:
    """Finds out how workers ended, once for each: what the kernel counts tells of a death once."""

    def __init__(self, evidence: Evidence, pipes: WorkerPipes, kernel: Kernel) -> None:
        self._evidence = evidence
        self._pipes = pipes
        self._kernel = kernel
        self._found: dict[Worker, WorkerOutcome] = {}

    def examine(self, worker: Worker, starter: Starter, *, was_forced: bool) -> WorkerOutcome:
        """Find out how a worker has ended that has just done so; `was_forced`: killed by us."""
        assert worker.returncode is not None
        evidence = ""
        if worker.returncode < 0 and not was_forced:
            # The peak of its memory is known once its process id is given back; whatever is left of
            # its session goes before.
            is_killed = worker.returncode == -signal.SIGKILL
            peak_kib = self.bury(worker, starter) if is_killed else None
            evidence = worker.known_cause or self._evidence.explain(
                worker.returncode, worker.pid, peak_kib
            )
        outcome = self._look_at(worker)
        error = outcome.error
        if not evidence and error is not None and error.lost_data_worker:
            evidence = self._evidence.explain_data_worker("\n".join(error.messages()))
        self._found[worker] = outcome._replace(evidence=evidence)
        return self._found[worker]

    def outcome_of(self, worker: Worker) -> WorkerOutcome:
        """Return how a worker has ended; of one that still runs, what is known by now."""
        return self._found.get(worker) or self._look_at(worker)

    def bury(self, worker: Worker, starter: Starter) -> int | None:
        """End what is left of a dead worker's session, and let its process id go.

        Returns its peak memory as `reap` does.
        """
        if not worker.pid or worker.is_reaped:
            return None
        worker.is_reaped = True
        self._kernel.kill_sessions([worker.pid])
        worker.peak_kib = starter.reap(worker.pid)
        return worker.peak_kib

    def _look_at(self, worker: Worker) -> WorkerOutcome:
        local_rank = worker.plan.local_rank
        error = _read_error(worker.plan.error_file) if worker.returncode != 0 else None
        if error is None and worker.returncode not in (None, 0):
            error = find_traceback(self._pipes.error_text(local_rank))
        return WorkerOutcome(
            rank=worker.plan.rank,
            pid=worker.pid,
            returncode=worker.returncode,
            ended_at=worker.ended_at,
            order=worker.order,
            asked_to_stop_at=worker.asked_to_stop_at,
            error=error,
            last_lines=self._last_lines(worker),
            log_path=worker.plan.logs.get("err", ""),
            start_failure=worker.start_failure,
        )

    def _last_lines(self, worker: Worker) -> tuple[str, ...]:
        local_rank = worker.plan.local_rank
        if worker.returncode == 0:
            return ()
        if worker.returncode is not None and worker.returncode < 0:
            stderr = self._pipes.error_text(local_rank)
            crash = shorten_crash(tuple(stderr.splitlines()), _LAST_LINES)
            if any(line.strip() for line in crash):
                return crash
        return self._pipes.last_lines(local_rank, _LAST_LINES)


def _read_error(path: str | None) -> WorkerError | None:
    if path is None:
        return None
    for name in (path, torch_error_file(path)):
        try:
            with open(name, encoding="utf-8", errors="surrogatepass") as file:
                error = decode(file.read())
        except (OSError, ValueError):
            continue
        if error is not None:
            return error
    return None
