"""What `launcher.ctl` asks of a run, and what the run answers: one JSON object in, one out.

The command and the launcher may be of different versions: fields go by their names, and those that
are not known are left out. How a request and its answer travel is in service.py.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from typing import NamedTuple

from launcher.attempt.worker import WorkerStatus


class AskStatus(NamedTuple):
    """How is the run? Answered by `RunStatus`."""


class AskStacks(NamedTuple):
    """Where is every rank? Answered by `Done`."""


class Stop(NamedTuple):
    """Stop as SIGTERM does. Answered by `Done`, at once."""


class SendSignal(NamedTuple):
    """Send a signal to every rank. Answered by `Done`."""

    signum: int


class RunStatus(NamedTuple):
    """A run, and its ranks."""

    run_id: str
    pid: int
    script: str
    age_s: float
    attempt: int
    workers: tuple[WorkerStatus, ...]
    # Of those that have answered.
    num_nodes: int = 1


class Done(NamedTuple):
    """What was asked for has been done; with what there is to show of it."""

    text: str = ""


class Refused(NamedTuple):
    """What was asked for cannot be done, and why."""

    error: str


Request = AskStatus | AskStacks | Stop | SendSignal
Answer = RunStatus | Done | Refused

_CLASSES: Mapping[str, type[Request | Answer]] = {
    "status": AskStatus,
    "stacks": AskStacks,
    "stop": Stop,
    "signal": SendSignal,
    "run": RunStatus,
    "done": Done,
    "refused": Refused,
}
_TAGS = {kind: tag for tag, kind in _CLASSES.items()}


def encode(message: Request | Answer) -> bytes:
    """Return a request or an answer as one line."""
    return json.dumps({"type": _TAGS[type(message)], **message._asdict()}).encode() + b"\n"


def decode_request(data: bytes) -> Request:
    """Read a request; ValueError for everything else."""
    message = decode(data)
    if not isinstance(message, Request):
        raise ValueError("no request")
    return message


def decode_answer(data: bytes) -> Answer:
    """Read an answer; what is none is a refusal."""
    try:
        message = decode(data)
    except ValueError:
        return Refused("no answer")
    return message if isinstance(message, Answer) else Refused("no answer")


def combine(own: tuple[str, Answer], others: list[tuple[str, Answer]]) -> Answer:
    """Return the answers of several nodes as one; each with the name of its host."""
    _, first = own
    if isinstance(first, RunStatus):
        workers = [
            worker for _, a in (own, *others) if isinstance(a, RunStatus) for worker in a.workers
        ]
        return first._replace(workers=tuple(sorted(workers)), num_nodes=1 + len(others))
    if not isinstance(first, Done) or not others:
        return first
    texts = [(host, answer.text) for host, answer in (own, *others) if isinstance(answer, Done)]
    return Done("\n".join(f"{host}:\n{text}" for host, text in texts if text))


def decode(data: bytes) -> Request | Answer:
    """Read what `encode` wrote; ValueError for everything else."""
    try:
        given = json.loads(data)
        kind = _CLASSES[given["type"]]
        fields = {name: given[name] for name in kind._fields if name in given}
        if kind is SendSignal:
            fields["signum"] = signal.Signals(fields["signum"])
        elif kind is RunStatus:
            fields["workers"] = tuple(WorkerStatus(*worker) for worker in fields["workers"])
        return kind(**fields)
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError("neither a request nor an answer") from error
