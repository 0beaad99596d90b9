"""What `launcher.ctl` asks of a run, and what the run answers: one JSON object in, one out.

The command and the launcher may be of different versions: fields go by their names, and those that
are not known are left out. How a request and its answer travel is in service.py.
"""

from __future__ import annotations

import binascii
import json
import signal
from collections.abc import Mapping, Sequence

from launcher.attempt.worker import WorkerStatus
from launcher.named import NamedTuple
from launcher.runs.parts import Part
from launcher.stats.figures import Sample, decode_sample


class AskStatus(NamedTuple):
    """How is the run? Answered by `RunStatus`."""


class AskStacks(NamedTuple):
    """Where is every rank? Answered by `Done`."""


class AskUse(NamedTuple):
    """What do ranks and nodes use? Answered by `Use`."""


class AskLogs(NamedTuple):
    """What have these ranks written, as far as it is not known? Answered by `Logs`."""

    ranks: tuple[int, ...]
    # Which attempt, as the folder of its files below that of the first.
    folder: str
    # File -> how much of it is known.
    known: Mapping[str, int]
    # How much each node may answer.
    most_bytes: int


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
    # Host -> the ranks that it has, where there are several.
    hosts: Mapping[str, Sequence[int]] = {}


class Use(NamedTuple):
    """What the nodes that have answered use, and their ranks."""

    samples: tuple[Sample, ...]


class Logs(NamedTuple):
    """What is in log files of the nodes that have answered."""

    # The folders of all attempts; see `AskLogs`.
    folders: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()


class Done(NamedTuple):
    """What was asked for has been done; with what there is to show of it."""

    text: str = ""


class Refused(NamedTuple):
    """What was asked for cannot be done, and why."""

    error: str


Request = AskStatus | AskStacks | AskUse | AskLogs | Attach | Stop | SendSignal
Answer = RunStatus | Use | Logs | Done | Refused

_CLASSES: Mapping[str, type[Request | Answer]] = {
    "status": AskStatus,
    "stacks": AskStacks,
    "use": AskUse,
    "read": AskLogs,
    "attach": Attach,
    "stop": Stop,
    "signal": SendSignal,
    "run": RunStatus,
    "figures": Use,
    "logs": Logs,
    "done": Done,
    "refused": Refused,
}
_TAGS = {kind: tag for tag, kind in _CLASSES.items()}


def encode(message: Request | Answer) -> bytes:
    """Return a request or an answer as one line."""
    fields = message._asdict()
    if isinstance(message, Use):
        fields["samples"] = [json.loads(sample.to_json()) for sample in message.samples]
    elif isinstance(message, Logs):
        fields["parts"] = [
            (name, offset, binascii.b2a_base64(data, newline=False).decode(), size)
            for name, offset, data, size in message.parts
        ]
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
        return _combine_statuses([(h, a) for h, a in (own, *others) if isinstance(a, RunStatus)])
    if isinstance(first, Use):
        uses = [answer for _, answer in (own, *others) if isinstance(answer, Use)]
        return Use(tuple(sample for use in uses for sample in use.samples))
    if isinstance(first, Logs):
        answers = [answer for _, answer in (own, *others) if isinstance(answer, Logs)]
        folders = dict.fromkeys(folder for answer in answers for folder in answer.folders)
        return Logs(tuple(folders), tuple(part for answer in answers for part in answer.parts))
    if not isinstance(first, Done) or not others:
        return first
    texts = [(host, answer.text) for host, answer in (own, *others) if isinstance(answer, Done)]
    return Done("\n".join(f"{host}:\n{text}" for host, text in texts if text))


def _combine_statuses(named: list[tuple[str, RunStatus]]) -> RunStatus:
    statuses = [status for _, status in named]
    hosts: dict[str, list[int]] = {}
    for host, status in named:
        hosts.setdefault(host, []).extend(worker.rank for worker in status.workers)
    memory = [status.memory for status in statuses if status.memory is not None]
    rates = [status.steps_per_s for status in statuses if status.steps_per_s is not None]
    return statuses[0]._replace(
        workers=tuple(sorted(worker for status in statuses for worker in status.workers)),
        num_nodes=len(statuses),
        memory=sum(memory) if memory else None,
        steps_per_s=min(rates, default=None),
        hosts=hosts if len(named) > 1 else {},
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
        elif kind is AskLogs:
            fields["ranks"] = tuple(map(int, fields["ranks"]))
            fields["folder"] = str(fields["folder"])
            known = dict(fields["known"])
            fields["known"] = {str(name): max(0, int(size)) for name, size in known.items()}
            fields["most_bytes"] = max(1, int(fields["most_bytes"]))
        elif kind is Use:
            fields["samples"] = tuple(map(decode_sample, fields["samples"]))
        elif kind is Logs:
            fields["folders"] = tuple(fields["folders"])
            fields["parts"] = tuple(
                Part(str(name), int(offset), binascii.a2b_base64(data), int(size))
                for name, offset, data, size in fields["parts"]
            )
        return kind(**fields)
    except (LookupError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError("neither a request nor an answer") from error
