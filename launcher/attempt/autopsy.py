"""How one worker ended, and why: its error file, what it wrote last, and what the kernel knows."""

from __future__ import annotations

import signal

from launcher.contract.error_file import WorkerError, decode, find_traceback
from launcher.diagnosis.evidence import Evidence
from launcher.diagnosis.outcome import WorkerOutcome
from launcher.diagnosis.stacks import shorten_crash
from launcher.nodes.restart import UNHEALABLE
from launcher.output.pipes import WorkerPipes
from launcher.start.worker import Starter, Worker
from launcher.system.processes import kill_sessions

# How many lines of a failed worker the report may show.
_LAST_LINES = 20


class Autopsy:
    """Finds out how workers ended."""

    def __init__(self, evidence: Evidence, pipes: WorkerPipes) -> None:
        self._evidence = evidence
        self._pipes = pipes

    def examine(self, worker: Worker, starter: Starter) -> None:
        """Ask the kernel why a worker was killed, while that can still be told.

        The peak of its memory is known once its process id is given back; whatever is left of its
        session goes before.
        """
        assert worker.returncode is not None
        peak_kib = self.bury(worker, starter) if worker.returncode == -signal.SIGKILL else None
        worker.evidence = self._evidence.explain(worker.returncode, worker.pid, peak_kib)

    def bury(self, worker: Worker, starter: Starter) -> int | None:
        """End what is left of a dead worker's session, and let its process id go. Returns its peak
        memory as `reap` does.
        """
        if not worker.pid or worker.is_reaped:
            return None
        worker.is_reaped = True
        kill_sessions([worker.pid])
        return starter.reap(worker.pid)

    def will_hit_all(self, worker: Worker) -> bool:
        """Whether a worker's error is one that every rank meets by itself: in the program's text,
        or its arguments.
        """
        error = _read_error(worker.plan.error_file)
        return error is not None and (
            error.type in UNHEALABLE or (error.type == "SystemExit" and error.message == "2")
        )

    def outcome_of(self, worker: Worker) -> WorkerOutcome:
        """Return what is known of a worker's end by now."""
        local_rank = worker.plan.local_rank
        error = _read_error(worker.plan.error_file) if worker.returncode != 0 else None
        if error is None and worker.returncode not in (None, 0):
            error = find_traceback(self._pipes.error_text(local_rank))
        if not worker.evidence and error is not None and error.lost_data_worker:
            # Kept: the kernel's counters tell of each kill once.
            worker.evidence = self._evidence.explain_data_worker("\n".join(error.messages()))
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
            evidence=worker.evidence,
        )

    def _last_lines(self, worker: Worker) -> tuple[str, ...]:
        local_rank = worker.plan.local_rank
        if worker.returncode == 0:
            return ()
        if worker.returncode is not None and worker.returncode < 0:
            crash = shorten_crash(
                tuple(self._pipes.error_text(local_rank).splitlines()), _LAST_LINES
            )
            if any(line.strip() for line in crash):
                return crash
        return self._pipes.last_lines(local_rank, _LAST_LINES)


def _read_error(path: str | None) -> WorkerError | None:
    if path is None:
        return None
    for name in (path, path + ".torch"):
        try:
            with open(name, encoding="utf-8", errors="surrogatepass") as file:
                error = decode(file.read())
        except (OSError, ValueError):
            continue
        if error is not None:
            return error
    return None
