"""Which of several failures came first, and which only followed from it. Pure.

The first cause is the earliest failure that is nobody else's doing: workers that we stopped are not
blamed, and errors that only say that a peer has gone (connection reset, say) are put behind those
that say why.
"""

from __future__ import annotations

import signal

from launcher.ranks import format_ranks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome

# What the others say when a rank has gone: true, but not the cause.
_SECONDARY_TEXTS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Socket Timeout",
    "ncclRemoteError",
    "NCCL remote error",
    "Horovod has been shut down",
    "HTTP request failed.",
    "gloo::IoException",
    "DistStoreError",
    "recvValue failed",
    "sendBytes failed",
    "recvVector failed",
)
# Who lost its peer in a collective names one of these, in the message or the traceback; a web
# service that is away does not.
_COLLECTIVE_TEXTS = (
    "torch/distributed",
    "c10d",
    "gloo",
    "nccl",
    "horovod",
    "mpi4py",
    "waited in a collective",
)

# How we ask workers to stop, and for how long after that an end may have nothing to do with it.
_OUR_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ENDING_S = 0.25

# Ranks that have agreed to leave end within so many seconds of each other.
_TOGETHER_S = 0.25


def in_order_of_blame(outcome: AttemptOutcome) -> list[WorkerOutcome]:
    """Return the workers that failed by themselves, the first cause first."""
    failures = sorted((w for w in outcome.workers if w.failed_at is not None), key=_blame)
    if failures and is_secondary(failures[0]):
        # All noticed that a peer had gone: one whose end we heard of after we had asked for it.
        ending = [worker for worker in outcome.workers if _was_ending(worker)]
        failures = sorted([*failures, *ending], key=is_secondary)
    return _speaker_first(failures) if failures else []


def _blame(worker: WorkerOutcome) -> tuple[bool, float, int]:
    """Return the sort key: the first cause comes first."""
    return is_secondary(worker), worker.failed_at or 0.0, worker.order


def _speaker_first(failures: list[WorkerOutcome]) -> list[WorkerOutcome]:
    """Put the one that said why before those that left alike, together and without a word.

    Ranks that agree to leave let one of them speak, and any of them may be the first to end.
    """
    first = failures[0]
    if not is_bare_exit(first) or first.last_lines or first.start_failure:
        return failures
    for worker in failures:
        if (
            worker.returncode == first.returncode
            and worker.last_lines
            and is_bare_exit(worker)
            and not is_secondary(worker)
            and (worker.failed_at or 0.0) - (first.failed_at or 0.0) < _TOGETHER_S
        ):
            return [worker, *(other for other in failures if other is not worker)]
    return failures


def is_bare_exit(worker: WorkerOutcome) -> bool:
    """Tell whether a worker ended with an exit code alone: no exception, no text for sys.exit."""
    if worker.error is None:
        return (worker.returncode or 0) > 0
    return worker.error.type == "SystemExit" and worker.error.message.lstrip("-").isdigit()


def is_secondary(worker: WorkerOutcome) -> bool:
    """Tell whether a worker says only that a peer has gone."""
    if (
        worker.error is None
        and (worker.returncode or 0) < 0
        and worker.returncode != -signal.SIGABRT
    ):
        return False
    if worker.error is not None and worker.error.lost_data_worker:
        return False
    if worker.error is not None and (worker.error.type, worker.error.message) == ("EOFError", ""):
        return True  # a pipe of `multiprocessing`: at the end of a file there is a message
    # A library that aborts, or a script that logs its exception, leaves only these lines.
    return any(secondary in line for secondary in _SECONDARY_TEXTS for line in words_of(worker))


def _was_ending(worker: WorkerOutcome) -> bool:
    """Tell whether a worker was about to end in its own way when we asked it to stop."""
    if worker.asked_to_stop_at is None or worker.returncode is None or worker.error is not None:
        return False
    ours = {0, *(code for signum in _OUR_SIGNALS for code in (-signum, 128 + signum))}
    if not worker.evidence:  # else it was not we who killed it
        ours.add(-signal.SIGKILL)
    return worker.returncode not in ours and worker.ended_at - worker.asked_to_stop_at < _ENDING_S


def early_end(outcome: AttemptOutcome, first: WorkerOutcome) -> str:
    """Say who had ended well, where the others only miss a peer: nobody else can be the cause."""
    ended = [
        worker.rank
        for worker in outcome.workers
        if worker.returncode == 0 and worker.asked_to_stop_at is None
    ]
    if not ended or not is_secondary(first):
        return ""
    said = "\n".join((first.error.traceback if first.error else "", *words_of(first))).lower()
    if not any(text in said for text in _COLLECTIVE_TEXTS):
        return ""
    return (
        f"{format_ranks(ended)} had ended with exit code 0 while others still waited: each rank"
        " must take part in every collective"
    )


def words_of(worker: WorkerOutcome) -> list[str]:
    """Return what a worker said about its failure: its exceptions, or its last lines."""
    if worker.error is None or worker.error.type == "SystemExit":
        return [worker.error.message if worker.error else "", *worker.last_lines]
    return worker.error.messages()
