"""A node's account of an attempt, for the coordinator; and all accounts as one outcome.

No clock of another host is compared with ours: an account says how long ago things happened, and
is dated when it comes. What is long is cut, so that a thousand nodes can tell at once. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from launcher.contract.error_file import WorkerError
from launcher.diagnosis.hang import Hang
from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.diagnosis.stacks import Frame, RankStack, odd_rank

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# How much one node tells of its failed workers' words, in characters.
_MOST_TEXT = 200_000
_MOST_LINES = 60
_LONGEST_LINE = 2000


def make_account(outcome: AttemptOutcome, now: float) -> dict[str, Any]:
    """Return the account of an outcome; `now` is by the clock that its times are of."""
    if outcome.succeeded and outcome.signum is None:
        was_asked = any(worker.asked_to_stop_at is not None for worker in outcome.workers)
        ranks = [worker.rank for worker in outcome.workers]
        return {"duration": outcome.duration_s, "ranks": ranks, "asked": was_asked}
    left = _MOST_TEXT
    workers = []
    for worker in sorted(outcome.workers, key=lambda worker: (worker.order == 0, worker.order)):
        told = _tell_worker(worker, now, outcome, is_short=left <= 0)
        left -= sum(map(len, told.get("lines", ()))) + len((told.get("error") or ("",) * 3)[2])
        workers.append(told)
    account: dict[str, Any] = {
        "duration": outcome.duration_s,
        "workers": workers,
        "node_failure": outcome.node_failure,
        "obstacle": outcome.obstacle,
        "replaced": outcome.replaced,
    }
    if outcome.hang:
        account["hang"] = [
            [[stack.rank, stack.frames, stack.condition] for stack in outcome.hang.where],
            outcome.hang.still_s,
            outcome.hang.odd_rank,
            outcome.hang.waits_for,
        ]
    return account


def _tell_worker(
    worker: WorkerOutcome, now: float, outcome: AttemptOutcome, *, is_short: bool
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "rank": worker.rank,
        "pid": worker.pid,
        "code": worker.returncode,
        "ended": now - worker.ended_at,
        "order": worker.order,
    }
    if worker.asked_to_stop_at is not None:
        told["asked"] = now - worker.asked_to_stop_at
    if worker.failed_at is None and worker.returncode in (None, 0):
        return told
    told.update(log=worker.log_path, start=worker.start_failure, evidence=worker.evidence)
    if worker.error is not None:
        error = worker.error
        age = now - error.monotonic_ns / 1e9 if error.monotonic_ns else None
        traceback = "" if is_short else error.traceback[-40_000:]
        words = [error.type, error.message[:4000], traceback]
        told["error"] = [*words, age, error.used_mpi, error.exit_code]
    if not is_short:
        told["lines"] = [line[:_LONGEST_LINE] for line in worker.last_lines[-_MOST_LINES:]]
    return told


def read_account(
    account: dict[str, Any], hostname: str, attempt: int, now: float
) -> AttemptOutcome:
    """Return the outcome that an account tells of, dated by our clock; `now` is when it came.

    ValueError for what is no account.
    """
    try:
        if "ranks" in account:
            asked_at = now if account["asked"] else None
            done = (
                WorkerOutcome(int(rank), 0, 0, now, asked_to_stop_at=asked_at, hostname=hostname)
                for rank in account["ranks"]
            )
            return AttemptOutcome(attempt, tuple(done), duration_s=float(account["duration"]))
        return AttemptOutcome(
            attempt,
            tuple(_read_worker(told, hostname, now) for told in account["workers"]),
            node_failure=str(account["node_failure"]),
            hang=_read_hang(account["hang"]) if "hang" in account else None,
            duration_s=float(account["duration"]),
            obstacle=str(account["obstacle"]),
            replaced=tuple(account["replaced"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError("no account of an attempt") from error


def _read_worker(told: dict[str, Any], hostname: str, now: float) -> WorkerOutcome:
    error = None
    if "error" in told:
        kind, message, traceback, age, used_mpi, code = told["error"]
        at_ns = 0 if age is None else max(1, int((now - age) * 1e9))
        words = str(kind), str(message), str(traceback)
        error = WorkerError(*words, at_ns, bool(used_mpi), int(code))
    return WorkerOutcome(
        rank=int(told["rank"]),
        pid=int(told["pid"]),
        returncode=None if told["code"] is None else int(told["code"]),
        ended_at=now - float(told["ended"]),
        order=int(told["order"]),
        asked_to_stop_at=now - float(told["asked"]) if "asked" in told else None,
        error=error,
        last_lines=tuple(map(str, told.get("lines", ()))),
        log_path=str(told.get("log", "")),
        start_failure=str(told.get("start", "")),
        evidence=str(told.get("evidence", "")),
        hostname=hostname,
    )


def _read_hang(told: Any) -> Hang:
    where, still_s, odd_rank, waits_for = told
    stacks = (
        RankStack(int(rank), tuple(Frame(*frame) for frame in frames), str(condition))
        for rank, frames, condition in where
    )
    return Hang(tuple(stacks), float(still_s), odd_rank, str(waits_for))


def merge(outcomes: Iterable[AttemptOutcome], attempt: int) -> AttemptOutcome:
    """Return the outcome of an attempt over all nodes, in the order of rank."""
    every = list(outcomes)
    workers = sorted((w for one in every for w in one.workers), key=lambda worker: worker.rank)
    hangs = [one.hang for one in every if one.hang]
    return AttemptOutcome(
        attempt,
        tuple(workers),
        node_failure=next((one.node_failure for one in every if one.node_failure), ""),
        hang=_merge_hangs(hangs) if hangs else None,
        duration_s=max((one.duration_s for one in every), default=0.0),
        obstacle=next((one.obstacle for one in every if one.obstacle), ""),
        replaced=tuple(line for one in every for line in one.replaced),
    )


def _merge_hangs(hangs: list[Hang]) -> Hang:
    first = max(hangs, key=lambda hang: hang.still_s)
    where = tuple(sorted((stack for hang in hangs for stack in hang.where), key=lambda s: s.rank))
    return first._replace(
        where=where, odd_rank=first.odd_rank if first.waits_for else odd_rank(where)
    )
