"""What `launcher.ctl` asks of a run, and what the run answers: one JSON object in, one out.

The command and the launcher may be of different versions: fields go by their names, and those that
are not known are left out. How a request and its answer travel is in service.py.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping

from launcher.attempt.worker import WorkerStatus
from launcher.named import NamedTuple
from launcher.stats.figures import Sample, decode_sample


class AskStatus(NamedTuple):
    """How is the run? Answered by `RunStatus`."""


class AskStacks(NamedTuple):
    """Where is every rank? Answered by `Done`."""


class AskUse(NamedTuple):
    """What do ranks and nodes use? Answered by `Use`."""


class Attach(NamedTuple):
    """What does the first terminal show? Answered by `Done`, then as attach.py says."""


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
    # Where the log files are; "" when there are none.
    logs: str = ""
    # Bytes of all ranks, and the steps that the slowest one makes in a second; None when nobody
    # knows.
    memory: int | None = None
    steps_per_s: float | None = None


class Use(NamedTuple):
    """What the nodes that have answered use, and their ranks."""

    samples: tuple[Sample, ...]


class Done(NamedTuple):
    """What was asked for has been done; with what there is to show of it."""

    text: str = ""


class Refused(NamedTuple):
    """What was asked for cannot be done, and why."""

    error: str


Request = AskStatus | AskStacks | AskUse | Attach | Stop | SendSignal
Answer = RunStatus | Use | Done | Refused

_CLASSES: Mapping[str, type[Request | Answer]] = {
    "status": AskStatus,
    "stacks": AskStacks,
    "use": AskUse,
    "attach": Attach,
    "stop": Stop,
    "signal": SendSignal,
    "run": RunStatus,
    "figures": Use,
    "done": Done,
    "refused": Refused,
}
_TAGS = {kind: tag for tag, kind in _CLASSES.items()}


def encode(message: Request | Answer) -> bytes:
    """Return a request or an answer as one line."""
    fields = message._asdict()
    if isinstance(message, Use):
        fields["samples"] = [json.loads(sample.to_json()) for sample in message.samples]
    return json.dumps({"type": _TAGS[type(message)], **fields}).encode() + b"\n"


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
        return _combine_statuses([a for _, a in (own, *others) if isinstance(a, RunStatus)])
    if isinstance(first, Use):
        uses = [answer for _, answer in (own, *others) if isinstance(answer, Use)]
        return Use(tuple(sample for use in uses for sample in use.samples))
    if not isinstance(first, Done) or not others:
        return first
    texts = [(host, answer.text) for host, answer in (own, *others) if isinstance(answer, Done)]
    return Done("\n".join(f"{host}:\n{text}" for host, text in texts if text))


def _combine_statuses(statuses: list[RunStatus]) -> RunStatus:
    memory = [status.memory for status in statuses if status.memory is not None]
    rates = [status.steps_per_s for status in statuses if status.steps_per_s is not None]
    return statuses[0]._replace(
        workers=tuple(sorted(worker for status in statuses for worker in status.workers)),
        num_nodes=len(statuses),
        memory=sum(memory) if memory else None,
        steps_per_s=min(rates, default=None),
    )


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
        elif kind is Use:
            fields["samples"] = tuple(map(decode_sample, fields["samples"]))
        return kind(**fields)
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError("neither a request nor an answer") from error
