"""One attempt on one simulated host: its workers, and how each of them ends."""

from __future__ import annotations

from typing import NamedTuple

from launcher.contract.error_file import WorkerError
from launcher.diagnosis.hang import Hang
from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.ranks import Assignment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tests.unit.nodes.simulation.supervisor import Supervisor

# Longer than any story.
NEVER_S = 1e6


class Fate(NamedTuple):
    """How a worker ends if nobody stops it: when, with which exit code, and which exception."""

    after_s: float
    code: int = 0
    error: str = ""


class _Worker:
    def __init__(self, rank: int, fate: Fate) -> None:
        self.rank = rank
        self.fate = fate
        self.code: int | None = None
        self.ended_at = 0.0
        self.order = 0
        self.error = ""
        self.asked_at: float | None = None
        # Whether it is there, whether or not the supervisor has seen its end.
        self.is_alive = True


class Attempt:
    """The workers of a supervisor in one attempt; the supervisor is told when one has ended."""

    def __init__(
        self, supervisor: Supervisor, assignment: Assignment, fates: list[Fate], *, saves: bool
    ) -> None:
        """saves: whether workers end with 0 when they are asked to stop."""
        place = assignment.places[0]
        self.assignment = assignment
        self.generation = assignment.attempt
        self.node_rank = place.node_rank
        self.num_nodes = place.num_nodes or 0
        # No two attempts have the same: where a coordinator has died as it told of one, and the
        # next one may have the same number and store, there is a node less.
        store = assignment.master_addr, assignment.master_port
        self.key = (assignment.attempt, *store, place.world_size, self.num_nodes)
        self._supervisor, self._world = supervisor, supervisor.world
        self._saves = saves
        self.began_at = self._world.now
        # When the last of its workers was gone; None while some are there.
        self.ended_at: float | None = None
        # Whether the verdict on it was that the run has succeeded.
        self.is_finished = False
        # Whether the node has left the run after it, as it was asked to.
        self.has_left = False
        # The exit codes of those that ended badly by themselves, and not as they missed a peer.
        self.failed_codes: set[int] = set()
        self.is_stopping = False
        self.hang: Hang | None = None
        self._num_ended = 0
        self.workers = [
            _Worker(each.rank, fate) for each, fate in zip(assignment.places, fates, strict=True)
        ]
        for worker in self.workers:
            if worker.fate.after_s < NEVER_S:
                self._world.call_in(worker.fate.after_s, self._meet_fate, worker)

    @property
    def has_succeeded(self) -> bool:
        """Whether all workers have ended with 0, be it that they were asked to end."""
        return all(worker.code == 0 for worker in self.workers)

    @property
    def have_all_ended(self) -> bool:
        return all(worker.code is not None for worker in self.workers)

    def end_all(self, code: int, error: str) -> None:
        """Let all workers that are there end, as those do that miss a peer."""
        for worker in self.workers:
            self._end(worker, code, error)

    def vanish(self) -> None:
        """Let all workers be gone with their supervisor."""
        for worker in self.workers:
            worker.is_alive = False
        self._note_end()

    def stop(self, after_s: float) -> None:
        """Ask all workers to end, which takes them so long."""
        if self.is_stopping:
            return
        self.is_stopping = True
        for worker in self.workers:
            if worker.code is None:
                worker.asked_at = self._supervisor.loop.clock()
                self._world.call_in(after_s, self._end, worker, 0 if self._saves else -15, "")

    def kill(self) -> None:
        for worker in self.workers:
            if worker.is_alive:
                self._world.call_in(0.001, self._end, worker, -9, "")

    def outcome(self, signum: int | None) -> AttemptOutcome:
        return AttemptOutcome(
            attempt=self.generation,
            workers=tuple(map(self._outcome_of, self.workers)),
            signum=signum,
            hang=self.hang,
            duration_s=self._world.now - self.began_at,
        )

    def _outcome_of(self, worker: _Worker) -> WorkerOutcome:
        error = WorkerError("RuntimeError", worker.error, worker.error) if worker.error else None
        return WorkerOutcome(
            worker.rank,
            100 + worker.rank,
            worker.code,
            worker.ended_at,
            worker.order,
            worker.asked_at,
            error,
            hostname=self._supervisor.host.name,
        )

    def _meet_fate(self, worker: _Worker) -> None:
        self._end(worker, worker.fate.code, worker.fate.error)

    def _end(self, worker: _Worker, code: int, error: str) -> None:
        if worker.is_alive:
            worker.is_alive = False
            self._note_end()
            if code == worker.fate.code and code and not error:
                self.failed_codes.add(code)
            self._supervisor.run(self._see_end, worker, code, error)

    def _note_end(self) -> None:
        if self.ended_at is None and not any(worker.is_alive for worker in self.workers):
            self.ended_at = self._world.now

    def _see_end(self, worker: _Worker, code: int, error: str) -> None:
        self._num_ended += 1
        worker.code, worker.error = code, error
        worker.ended_at, worker.order = self._supervisor.loop.clock(), self._num_ended
        self._supervisor.see_end(code)
