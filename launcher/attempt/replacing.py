"""Replaces lost workers of elastic Horovod while the others keep the state that they committed in
memory.

Horovod's own driver would give up the whole machine with the first worker that is lost on it. Who
is waited for and who gets which rank is decided in elastic.py; here the store holds and answers,
lines are said and plans made. One object for each attempt; group.py starts the newcomers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.diagnosis.report import FailureReport, make_report
from launcher.horovod.roster import Roster
from launcher.nodes.coordinator import Elastic
from launcher.output.console import Console
from launcher.output.pipes import WorkerPipes
from launcher.plan.plan import LaunchPlan, WorkerPlan, plan_replacement
from launcher.ranks import format_ranks
from launcher.start.worker import Worker
from launcher.system.loop import Loop

MEETING_TIMER = "meet again"


class Replacing:
    """Knows which workers of an attempt have been lost, and brings the others together with their
    replacements.
    """

    def __init__(
        self,
        elastic: Elastic,
        plan: LaunchPlan,
        workers: Sequence[Worker],
        pipes: WorkerPipes,
        loop: Loop,
        console: Console,
    ) -> None:
        self._elastic = elastic
        self._plan = plan
        self._workers = workers
        self._pipes = pipes
        self._loop = loop
        self._console = console
        self._roster = Roster(len(workers))
        self._began_at = loop.clock()
        # Of newcomers only, by local rank.
        self._started_at: dict[int, float] = {}
        self._lost: dict[int, FailureReport] = {}
        self._is_timed = False
        self._is_anybody_new = False
        self._num_started = 0
        # A line for each worker that was replaced; and why there is no going on, when there is
        # none.
        self.replaced: list[str] = []
        self.obstacle = ""
        self._expect(range(len(workers)))

    def ask(self, local_rank: int) -> None:
        """A worker waits for its place among those that are left, or has come for the first
        time.
        """
        self._roster.ask(local_rank)
        self._watch_the_clock()

    def finish(self, local_rank: int) -> None:
        """A worker has ended well. It is not waited for, and only missed if another is lost."""
        self._roster.leave(local_rank)

    def lose(self, local_rank: int, outcome: WorkerOutcome) -> bool:
        """A worker has failed. Returns whether the others may go on without it until it is
        replaced.
        """
        self._roster.leave(local_rank)
        age_s = self._loop.clock() - self._started_at.get(local_rank, self._began_at)
        alone = AttemptOutcome(self._plan.attempt, (outcome,), duration_s=age_s)
        report = make_report(alone, hostname=self._plan.prefix_names["hostname"], run_dir=None)
        self._lost[local_rank] = report
        self._watch_the_clock()
        return self._roster.has_state and self._elastic.may_replace(report, len(self._lost))

    def take_newcomers(self) -> list[WorkerPlan]:
        """Let all go on if they have met; return the workers that are to be started now."""
        had_met = self._roster.has_state
        if self._roster.admit():
            self._is_timed = False
            self._loop.cancel_timer(MEETING_TIMER)
            self._elastic.store.admit(dict(enumerate(self._roster.ranks)))
            if had_met and not self._is_anybody_new:
                self._console.say(
                    "all ranks have met again in hvd.init(), and go on from their last commit; none"
                    " was lost"
                )
            self._is_anybody_new = False
        newcomers = self._roster.invite()
        if newcomers and not self._lost:
            self.obstacle = (
                "the other ranks have gone back to their last commit, but one has ended with exit"
                " code 0"
            )
            return []
        if newcomers:
            self._announce(self._rename_heir())
            self._expect(newcomers)
        return [self._make_plan(local_rank) for local_rank in newcomers]

    def run_out_of_time(self) -> None:
        """The time to meet is over."""
        self._is_timed = False
        missing = self._roster.missing
        who = format_ranks(missing) if missing else "a rank that has ended"
        self.obstacle = (
            f"{who} did not come to hvd.init() in {self._elastic.timeout_s:g} s"
            " (HOROVOD_ELASTIC_TIMEOUT)"
        )

    def end(self) -> None:
        self._loop.cancel_timer(MEETING_TIMER)

    def _watch_the_clock(self) -> None:
        if not self._is_timed:
            self._is_timed = True
            self._loop.set_timer(MEETING_TIMER, self._elastic.timeout_s)

    def _expect(self, newcomers: Iterable[int]) -> None:
        self._elastic.store.expect(
            {local_rank: self._roster.ranks[local_rank] for local_rank in newcomers}
        )

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
        duration_s = self._loop.clock() - self._began_at
        members = self._roster.members
        keep = "keeps its" if len(members) == 1 else "keep their"
        for report in self._lost.values():
            line = f"attempt {self._plan.attempt} ({duration_s:.1f} s): {report.summary()}; "
            line += f"replacing it, {format_ranks(members)} {keep} state"
            self._console.say(line + heir)
            self.replaced.append(line)
            self._elastic.note_replacement(report)
        self._lost.clear()

    def _make_plan(self, local_rank: int) -> WorkerPlan:
        self._num_started += 1
        self._is_anybody_new = True
        self._started_at[local_rank] = self._loop.clock()
        return plan_replacement(
            self._plan, local_rank, self._roster.ranks[local_rank], self._num_started
        )
