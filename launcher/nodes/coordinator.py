"""Who answers `join` and `settle` for a node: what a supervisor asks about the whole run.

`join` says which ranks this node has in the next attempt and where its process group store is;
`settle` turns what happened into a verdict. On one node that is this file; several nodes bring a
remote one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from launcher.diagnosis.outcome import AttemptOutcome
from launcher.diagnosis.report import FailureReport, make_report
from launcher.named import NamedTuple
from launcher.nodes import restart
from launcher.ranks import Assignment, Place
from launcher.system.network import KeptPort

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.horovod.service import HorovodService

_LOOPBACK = "127.0.0.1"

_ELASTIC_HINT = (
    "with --max-restarts 1 a lost rank would be replaced while the others keep their state"
    " (hvd.elastic)"
)


class Elastic(NamedTuple):
    """What it takes to replace a lost worker while the others keep their state."""

    horovod: HorovodService
    # Whether a worker may be replaced, given the report about it and how many are lost; and the
    # note that it was.
    may_replace: Callable[[FailureReport, int], bool]
    note_replacement: Callable[[FailureReport], None]


class LocalCoordinator:
    """The coordinator of a run with one node."""

    def __init__(
        self,
        places: tuple[Place, ...],
        policy: restart.RestartPolicy,
        master_addr: str | None = None,
        master_port: int | None = None,
        horovod: HorovodService | None = None,
        hostname: str = "",
        run_dir: str | None = None,
    ) -> None:
        """places: of the node's workers. Without an address it is loopback, without a port a free
        one; with an empty address the workers find one by themselves. hostname, run_dir: for the
        report.
        """
        self._places = places
        self._policy = policy
        self._hostname = hostname
        self._run_dir = run_dir
        self._past: list[restart.FailedAttempt] = []
        # A line for each failed attempt, and each replaced worker.
        self._history: list[str] = []
        self._master_addr = master_addr
        self._master_port = master_port
        self._kept_port = KeptPort(_LOOPBACK)
        self._horovod = horovod
        # There is no other node.
        self.peers: None = None
        # None where workers that are lost end the attempt.
        self.elastic: Elastic | None = None
        if horovod is not None and horovod.is_elastic and policy.max_restarts:
            self.elastic = Elastic(horovod, self._may_replace, self._note)

    def join(self, attempt: int, turn: Callable[[], bool] | None = None) -> Assignment:
        """Return the layout of the next attempt, with a port that no attempt before it has had.

        Nobody is waited for: `turn` is for those who must.
        """
        master_addr = _LOOPBACK if self._master_addr is None else self._master_addr
        master_port = self._kept_port.renew() if self._master_port is None else self._master_port
        horovod_addr, horovod_port = self._horovod.open_store() if self._horovod else ("", 0)
        return Assignment(
            attempt=attempt,
            places=self._places,
            master_addr=master_addr,
            master_port=master_port,
            horovod_addr=horovod_addr,
            horovod_port=horovod_port,
            is_elastic=self.elastic is not None,
        )

    def settle(
        self, outcome: AttemptOutcome, turn: Callable[[], object] | None = None
    ) -> restart.Verdict:
        """Explain an attempt, decide what follows, and remember it."""
        now, chance = time.monotonic(), os.urandom(1)[0] / 255
        report = self._make_report(outcome)
        verdict = restart.decide(outcome, report, self._past, self._policy, now, chance)
        if report is not None:
            self._note(report)
            self._history.append(report.attempt_summary())
            if self._could_be_elastic(report):
                verdict = verdict._replace(reason=_ELASTIC_HINT)
        return verdict._replace(report=report, exit_code=restart.exit_code_of(outcome, report))

    def _make_report(self, outcome: AttemptOutcome) -> FailureReport | None:
        """Explain a failure; None for a success, and for a stop that somebody asked for."""
        self._history.extend(outcome.replaced)
        if outcome.succeeded or outcome.signum is not None:
            return None
        report = make_report(outcome, hostname=self._hostname, run_dir=self._run_dir)
        return report._replace(history=tuple(self._history))

    def verdict(self) -> restart.Verdict | None:
        """Return what was decided without this node: nothing is."""
        return None

    def close(self) -> None:
        """Let go of what the last attempt had: its port, and Horovod's store."""
        self._kept_port.close()
        if self._horovod is not None:
            self._horovod.close()

    def _could_be_elastic(self, report: FailureReport) -> bool:
        """Tell whether the rank of this report would have been replaced with --max-restarts."""
        is_elastic = self._horovod is not None and self._horovod.is_elastic
        is_healable = report.error_type not in restart.UNHEALABLE
        return is_elastic and is_healable and not self._policy.max_restarts

    def _may_replace(self, report: FailureReport, num_lost: int) -> bool:
        return restart.may_replace(report, num_lost, self._past, self._policy, time.monotonic())

    def _note(self, report: FailureReport) -> None:
        self._past.append(restart.FailedAttempt(time.monotonic(), report.duration_s))
