"""Who answers `join` and `settle` for a node. On one node that is this file; several nodes bring a remote one.

`join` says which ranks this node has in the next attempt and where its process group store is; `settle` turns what happened
into a verdict. Layer 4.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Protocol

from launcher import restart
from launcher.failure import FailureReport
from launcher.horovod_store import HorovodStore
from launcher.outcome import AttemptOutcome, Verdict
from launcher.ranks import Assignment

_LOOPBACK = "127.0.0.1"


class Coordinator(Protocol):
    """The two questions that a supervisor asks about the whole run."""

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
    ) -> None:
        self._local_world_size = local_world_size
        self._policy = policy
        self._past: list[restart.FailedAttempt] = []
        self._master_addr = master_addr
        self._master_port = master_port
        self._reserved: socket.socket | None = None
        self._open_store = open_store
        self._store: HorovodStore | None = None

    def join(self, attempt: int) -> Assignment:
        """Return the layout of the next attempt, with a port that no attempt before it has had."""
        self.close()
        if self._open_store is not None:
            self._store = self._open_store()
        return Assignment(
            attempt=attempt,
            node_rank=0,
            local_world_sizes=(self._local_world_size,),
            master_addr=self._master_addr or _LOOPBACK,
            master_port=self._master_port or self._reserve_port(),
            horovod_addr=self._store.address if self._store else "",
            horovod_port=self._store.port if self._store else 0,
        )

    def settle(self, outcome: AttemptOutcome, report: FailureReport | None) -> Verdict:
        """Decide what follows an attempt, and remember it."""
        now = time.monotonic()
        verdict = restart.decide(outcome, report, self._past, self._policy, now, os.urandom(1)[0] / 255)
        if report is not None:
            self._past.append(restart.FailedAttempt(now, outcome.duration_s, restart.signature_of(report)))
        return verdict

    def close(self) -> None:
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        if self._store is not None:
            self._store.close()
            self._store = None

    def _reserve_port(self) -> int:
        """Keep a free port for rank 0 while the attempt lasts."""
        self._reserved = reserve_port(_LOOPBACK)
        port: int = self._reserved.getsockname()[1]
        return port


def reserve_port(address: str) -> socket.socket:
    """Bind a free port without listening, so that nobody takes it before rank 0 does; the caller keeps the socket.

    The kernel gives a bound port to nobody who asks for any free one, but it does let rank 0 bind it by number, as long as
    both sides set SO_REUSEADDR and we do not listen.
    """
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((address, 0))
    return reserved
