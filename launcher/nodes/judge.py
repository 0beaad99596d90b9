"""The verdict on an attempt over all nodes, by what has failed before in the run. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.diagnosis.outcome import AttemptOutcome
from launcher.diagnosis.report import FailureReport, make_report
from launcher.named import NamedTuple
from launcher.nodes import restart
from launcher.nodes.ending import Ending
from launcher.nodes.messages import Decided, Released
from launcher.nodes.roster import Entry
from launcher.nodes.rules import LOST_CODE, Rules

_NOT_THE_LARGER_PART = restart.Verdict(
    "give_up",
    "not restarted: no more than half of the nodes can be reached from here, and the others may go"
    " on without them",
)

_WITHOUT_IT = "the others have ended the attempt without this node, which they could not reach"


class Judgement(NamedTuple):
    """What follows an attempt, and why."""

    verdict: restart.Verdict
    # None where nothing has failed.
    report: FailureReport | None
    outcome: AttemptOutcome


class Judge:
    """The failures of the run so far, and what they leave of the restarts that are allowed."""

    def __init__(self, rules: Rules, num_failures: int, now: float) -> None:
        """num_failures: how many attempts have failed under a coordinator before this one."""
        self._rules = rules
        self._past = [restart.FailedAttempt(now, 0.0)] * num_failures
        self._history: list[str] = []

    @property
    def num_failures(self) -> int:
        """How many attempts have failed that cost one of --max-restarts."""
        return len(self._past)

    def learn(self, num_failures: int, now: float) -> None:
        """Take note of how many attempts a node has seen fail."""
        num_unknown = max(0, num_failures - len(self._past))
        self._past += [restart.FailedAttempt(now, 0.0)] * num_unknown

    def judge(self, ending: Ending, nodes: Sequence[Entry], now: float) -> Judgement:
        """Return what follows an attempt; `nodes` are those of it that are left."""
        may_go_on = ending.may_go_on(len(nodes))
        outcome = ending.merge(nodes, may_go_on=may_go_on)
        report = self._make_report(outcome, ending, nodes)
        verdict = self._decide(outcome, report, ending, nodes, now)
        if verdict.action == "restart" and not may_go_on:
            verdict = _NOT_THE_LARGER_PART
        if report is not None:
            if not self._is_free(report, ending):
                self._past.append(restart.FailedAttempt(now, report.duration_s))
            self._history.append(report.attempt_summary())
            if verdict.action != "restart":
                report = report._replace(verdict=verdict.reason)
        return Judgement(verdict, report, outcome)

    def judge_smaller_part(self, ending: Ending, nodes: Sequence[Entry]) -> Judgement:
        """Return the end of what is left of a run between two attempts, where others may go on."""
        outcome = ending.losses.blame(AttemptOutcome(ending.generation, ()))
        return Judgement(_NOT_THE_LARGER_PART, self._make_report(outcome, ending, nodes), outcome)

    def judge_stop(self, signum: int, reason: str, ending: Ending) -> Judgement:
        """Return the end of a run that is asked to stop between two attempts."""
        outcome = AttemptOutcome(ending.generation, (), signum)
        return Judgement(restart.Verdict("give_up", reason), None, outcome)

    def release(self, node: Entry, ending: Ending) -> Released:
        """Return with which exit code a node leaves a run that goes on."""
        outcome = node.outcome or AttemptOutcome(ending.generation, ())
        signum = node.leaves_for
        return Released(restart.exit_code_of(outcome._replace(signum=signum), None))

    def tell_latecomer(self, generation: int) -> Decided:
        """Return what a node is told whose last attempt was judged before it came again."""
        again = generation, "restart", _WITHOUT_IT, 0.0, LOST_CODE, None, False, ""
        return Decided(*again, self.num_failures)

    def put_in_words(self, judgement: Judgement, ending: Ending, nodes: Sequence[Entry]) -> Decided:
        """Return a judgement as all nodes are told it."""
        verdict, report, outcome = judgement
        return Decided(
            ending.generation,
            verdict.action,
            verdict.reason,
            verdict.delay_s,
            restart.exit_code_of(outcome, report),
            None if report is None else report.to_dict(),
            is_reporter=False,
            reporter=nodes[0].join.hostname if nodes else "",
            num_failures=len(self._past),
        )

    def _make_report(
        self, outcome: AttemptOutcome, ending: Ending, nodes: Sequence[Entry]
    ) -> FailureReport | None:
        self._history.extend(outcome.replaced)
        if outcome.signum is not None or ending.is_rescale(outcome, nodes) or outcome.succeeded:
            return None
        report = make_report(outcome, hostname=self._rules.hostname, run_dir=self._rules.run_dir)
        return report._replace(history=tuple(self._history))

    def _is_free(self, report: FailureReport, ending: Ending) -> bool:
        """Tell whether an attempt's end costs none of --max-restarts: nodes come and go.

        One that is lost at the start of each attempt must not keep the others from an end.
        """
        is_loss = report.rank < 0 and ending.losses.is_failure
        return is_loss and self._rules.is_elastic and report.duration_s > restart.STARTUP_S

    def _decide(
        self,
        outcome: AttemptOutcome,
        report: FailureReport | None,
        ending: Ending,
        nodes: Sequence[Entry],
        now: float,
    ) -> restart.Verdict:
        is_rescale = report is None and ending.is_rescale(outcome, nodes)
        if outcome.signum is not None or (outcome.succeeded and not is_rescale):
            return restart.decide(outcome, report, self._past, self._rules.policy, now, 0.0)
        if report is None:
            changes = ", and ".join(ending.changes(nodes))
            return restart.Verdict("restart", f"{changes}; starting all ranks again")
        if self._is_free(report, ending):
            return restart.Verdict("restart")
        counted = outcome._replace(attempt=len(self._past))
        chance = ending.generation * 37 % 101 / 100
        return restart.decide(counted, report, self._past, self._rules.policy, now, chance)
