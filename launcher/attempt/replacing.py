"""Replaces lost workers of elastic Horovod while the others keep the state that they committed.

Who is waited for and who gets which rank is decided in launcher/horovod; here lines are said and
plans made. One object for each attempt that may replace workers; the group starts the newcomers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from launcher.attempt.worker import Worker
from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.diagnosis.report import FailureReport, make_report
from launcher.nodes.coordinator import Elastic
from launcher.output.pipes import WorkerPipes
from launcher.plan.plan import LaunchPlan, WorkerPlan, plan_replacement
from launcher.ranks import format_ranks


class Replacing:
    """The lost workers of an attempt, and how the others and their replacements meet."""

    def __init__(
        self,
        elastic: Elastic,
        plan: LaunchPlan,
        workers: Sequence[Worker],
        pipes: WorkerPipes,
        say: Callable[[str], None],
        clock: Callable[[], float],
        on_news: Callable[[], None],
    ) -> None:
        """`on_news` is called when time has run out: the owner asks `take_newcomers` then."""
        self._elastic = elastic
        self._plan = plan
        self._workers = workers
        self._pipes = pipes
        self._say = say
        self._clock = clock
        self._on_news = on_news
        self._world = elastic.horovod.make_world(len(workers), self._run_out_of_time)
        self._roster = self._world.roster
        self._began_at = clock()
        # Of newcomers only, by local rank.
        self._started_at: dict[int, float] = {}
        self._lost: dict[int, FailureReport] = {}
        self._is_anybody_new = False
        self._num_started = 0
        # A line for each worker that was replaced; and why there is no going on, or "".
        self.replaced: list[str] = []
        self.obstacle = ""

    def ask(self, local_rank: int) -> None:
        """Note that a worker waits for its rank among those that are left, or is a newcomer."""
        self._world.ask(local_rank)

    def finish(self, local_rank: int) -> None:
        """Note that a worker has ended well: it is missed only if another is lost."""
        self._roster.leave(local_rank)

    def lose(self, local_rank: int, outcome: WorkerOutcome) -> bool:
        """Note that a worker has failed.

        Returns whether the others may go on without it until it is replaced.
        """
        self._roster.leave(local_rank)
        age_s = self._clock() - self._started_at.get(local_rank, self._began_at)
        alone = AttemptOutcome(self._plan.attempt, (outcome,), duration_s=age_s)
        hostname = self._plan.prefix_names["hostname"]
        report = make_report(alone, hostname=hostname, run_dir=None)
        self._lost[local_rank] = report
        self._world.limit_time()
        return self._roster.has_state and self._elastic.may_replace(report, len(self._lost))

    def take_newcomers(self) -> list[WorkerPlan]:
        """Let all go on if they have met; return the workers that are to be started now."""
        had_met = self._roster.has_state
        if self._world.admit():
            if had_met and not self._is_anybody_new:
                self._say(
                    "all ranks have met again in hvd.init(), and go on from their last commit; none"
                    " was lost"
                )
            self._is_anybody_new = False
        newcomers = self._world.invite()
        if newcomers and not self._lost:
            self.obstacle = (
                "the other ranks have gone back to their last commit, but one has ended with exit"
                " code 0"
            )
            return []
        if newcomers:
            self._announce(self._rename_heir())
        return [self._make_plan(local_rank) for local_rank in newcomers]

    def end(self) -> None:
        """Forget the time limit."""
        self._world.end()

    def _run_out_of_time(self) -> None:
        missing = self._roster.missing
        who = format_ranks(missing) if missing else "a rank that has ended"
        timeout_s = self._world.timeout_s
        self.obstacle = (
            f"{who} did not come to hvd.init() in {timeout_s:g} s (HOROVOD_ELASTIC_TIMEOUT)"
        )
        self._on_news()

    def _rename_heir(self) -> str:
        """Show the worker that has become rank 0 as that; returns a text that says so, or ""."""
        for worker, rank in zip(self._workers, self._roster.ranks, strict=True):
            if worker.is_running and worker.plan.rank != rank:
                text = f"; rank {worker.plan.rank} is rank {rank} from now on"
                worker.plan = worker.plan._replace(place=worker.plan.place._replace(rank=rank))
                self._pipes.rename(worker.plan)
                return text
        return ""

    def _announce(self, heir: str) -> None:
        duration_s = self._clock() - self._began_at
        members = self._roster.members
        keep = "keeps its" if len(members) == 1 else "keep their"
        for report in self._lost.values():
            line = f"attempt {self._plan.attempt} ({duration_s:.1f} s): {report.summary()}; "
            line += f"replacing it, {format_ranks(members)} {keep} state"
            self._say(line + heir)
            self.replaced.append(line)
            self._elastic.note_replacement(report)
        self._lost.clear()

    def _make_plan(self, local_rank: int) -> WorkerPlan:
        self._num_started += 1
        self._is_anybody_new = True
        self._started_at[local_rank] = self._clock()
        rank = self._roster.ranks[local_rank]
        return plan_replacement(self._plan, local_rank, rank, self._num_started)
