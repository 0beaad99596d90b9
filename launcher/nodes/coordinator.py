"""Who answers `join` and `settle` for a node. On one node that is this file; several nodes bring a
remote one.

`join` says which ranks this node has in the next attempt and where its process group store is;
`settle` turns what happened into a verdict.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from launcher.diagnosis.outcome import AttemptOutcome
from launcher.diagnosis.report import FailureReport
from launcher.horovod.store import HorovodStore
from launcher.nodes import restart
from launcher.nodes.restart import Verdict
from launcher.ranks import Assignment
from launcher.system.network import reserve_port

_LOOPBACK = "127.0.0.1"

_ELASTIC_HINT = (
    "with --max-restarts 1 a lost rank would be replaced while the others keep their state"
    " (hvd.elastic)"
)


class Elastic(NamedTuple):
    """What it takes to replace a lost worker while the others keep their state
    (launcher/horovod/replacing.py).
    """

    store: HorovodStore
    # How long workers that wait for others wait at most, in seconds.
    timeout_s: float
    # Whether a worker may be replaced, given the report about it and how many are lost; and the
    # note that it was.
    may_replace: Callable[[FailureReport, int], bool]
    note_replacement: Callable[[FailureReport], None]


class Coordinator(Protocol):
    """The two questions that a supervisor asks about the whole run."""

    # None where workers that are lost end the attempt.
    elastic: Elastic | None

    def join(self, attempt: int) -> Assignment: ...
    def settle(self, outcome: AttemptOutcome, report: FailureReport | None) -> Verdict: ...
    def close(self) -> None: ...


class LocalCoordinator:
    """The coordinator of a run with one node."""

    def __init__(
        self,
        local_world_size: int,
        policy: restart.RestartPolicy,
        master_addr: str | None = None,
        master_port: int | None = None,
        open_store: Callable[[], HorovodStore] | None = None,
        elastic_timeout_s: float = 0.0,
    ) -> None:
        self._local_world_size = local_world_size
        self._policy = policy
        self._past: list[restart.FailedAttempt] = []
        self._master_addr = master_addr
        self._master_port = master_port
        self._reserved: socket.socket | None = None
        self._open_store = open_store
        self._store: HorovodStore | None = None
        self._elastic_timeout_s = elastic_timeout_s  # 0: the program does not use elastic Horovod
        self.elastic: Elastic | None = None

    def join(self, attempt: int) -> Assignment:
        """Return the layout of the next attempt, with a port that no attempt before it has had."""
        self.close()
        if self._open_store is not None:
            self._store = self._open_store()
            if self._elastic_timeout_s and self._policy.max_restarts:
                self.elastic = Elastic(
                    self._store, self._elastic_timeout_s, self._may_replace, self._note
                )
        return Assignment(
            attempt=attempt,
            node_rank=0,
            local_world_sizes=(self._local_world_size,),
            master_addr=self._master_addr or _LOOPBACK,
            master_port=self._master_port or self._reserve_port(),
            horovod_addr=self._store.address if self._store else "",
            horovod_port=self._store.port if self._store else 0,
            is_elastic=self.elastic is not None,
        )

    def settle(self, outcome: AttemptOutcome, report: FailureReport | None) -> Verdict:
        """Decide what follows an attempt, and remember it."""
        now = time.monotonic()
        verdict = restart.decide(
            outcome, report, self._past, self._policy, now, os.urandom(1)[0] / 255
        )
        if report is not None:
            self._note(report)
            if (
                self._elastic_timeout_s
                and not self._policy.max_restarts
                and report.error_type not in restart.UNHEALABLE
            ):
                verdict = verdict._replace(reason=_ELASTIC_HINT)
        return verdict

    def _may_replace(self, report: FailureReport, num_lost: int) -> bool:
        return restart.may_replace(report, num_lost, self._past, self._policy, time.monotonic())

    def _note(self, report: FailureReport) -> None:
        self._past.append(
            restart.FailedAttempt(time.monotonic(), report.duration_s, restart.signature_of(report))
        )

    def close(self) -> None:
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        if self._store is not None:
            self._store.close()
            self._store = self.elastic = None

    def _reserve_port(self) -> int:
        """Keep a free port for rank 0 while the attempt lasts."""
        self._reserved = reserve_port(_LOOPBACK)
        port: int = self._reserved.getsockname()[1]
        return port
