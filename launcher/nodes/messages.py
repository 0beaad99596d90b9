"""What the nodes of a run say to each other, and to the one that coordinates them.

One class for each message; on the wire a list with a tag and the fields in order, which both sides
know because they have compared their protocol version. How it travels is in wire.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from launcher.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# --- from a node to its coordinator -------------------------------------------------------------


class Join(NamedTuple):
    """A node wants to take part."""

    # A random word, the name of this supervisor for as long as it lives.
    member: str
    hostname: str
    num_workers: int
    # The node rank that it has been given; -1 for any.
    node_rank: int
    min_nodes: int
    max_nodes: int
    # Value of --max-restarts.
    max_restarts: int
    # What all nodes must have alike, in words: name -> value.
    alike: dict[str, str]
    # Its address for the others, "" for the one from which it has connected; the port at which it
    # listens itself, and one at which its rank 0 could serve torch's store.
    address: str
    port: int
    master_port: int
    # Of a node that has lost its coordinator: the last attempt in which it has a part, its node
    # rank there, and how many nodes that attempt has; and how many attempts have failed before.
    generation: int = -1
    old_rank: int = -1
    num_nodes: int = 0
    num_failures: int = 0
    # The node ranks of those that are known to have ended, as nobody listens at their port.
    dead: Sequence[int] = ()
    # Port and secret path of the store that it could serve for Horovod; "" without Horovod.
    horovod: str = ""


class Ready(NamedTuple):
    """All ranks of the last attempt have ended here; the next one may come."""

    generation: int
    master_port: int
    horovod: str = ""


class Failing(NamedTuple):
    """A rank has failed here: the others need not wait to hear how."""

    generation: int
    # A rank has not been heard of: the others are to look where theirs are before they end them.
    is_hang: bool = False


class Still(NamedTuple):
    """Nothing has moved here for --hang-timeout, or it moves again."""

    generation: int
    is_still: bool


class Stopping(NamedTuple):
    """A signal has asked this node to stop."""

    generation: int
    signum: int
    # Whether it was meant for the run; else a node of an elastic one leaves.
    is_for_all: bool = False
    # Whether it was the second one, which does not wait for ranks that take their time.
    is_forced: bool = False


class Settled(NamedTuple):
    """How the attempt has ended here, as far as is known; see account.py."""

    generation: int
    account: dict[str, Any]


class Heard(NamedTuple):
    """The node knows how the run has ended, and is ready to go."""


class Leave(NamedTuple):
    """The node takes no part any more; the coordinator says it, too."""

    reason: str
    # From the coordinator: the node ranks of those that have ended in the last attempt.
    dead: Sequence[int] = ()
    # From who serves where the coordinator was: that one has ended, and has not left.
    was_lost: bool = False


class Forsake(NamedTuple):
    """The node has not heard of its coordinator for too long, and turns to another one."""


class Ping(NamedTuple):
    """The node is there."""


class Relocate(NamedTuple):
    """The run goes on under another coordinator, at this address."""

    host: str
    port: int


# --- in both directions: what somebody asks at one node goes to all, and their answers come back --


class Ask(NamedTuple):
    """Somebody asks all nodes; see the room ctl for the text, and for that of the answers."""

    number: int
    text: str


class Answer(NamedTuple):
    """What one node says to the `Ask` with this number."""

    number: int
    hostname: str
    text: str


# --- from the coordinator to a node -------------------------------------------------------------


class Deputy(NamedTuple):
    """A node that can take the coordinator's place."""

    member: str
    hostname: str
    host: str
    port: int
    node_rank: int


class Assigned(NamedTuple):
    """The next attempt, and this node's part in it."""

    generation: int
    run_name: str
    node_rank: int
    num_nodes: int
    first_rank: int
    world_size: int
    master_addr: str
    master_port: int
    # This node's address as the others know it.
    address: str
    # How many attempts have failed.
    num_failures: int
    # Who takes over when the coordinator is lost, in order.
    deputies: tuple[Deputy, ...]
    # The node rank of the coordinator, and its name.
    coordinator_rank: int = 0
    coordinator_host: str = ""
    # Port and path of Horovod's store on the host of the master address.
    horovod: str = ""
    # The length of the longest name among the hosts: their lines are aligned by it.
    hostname_width: int = 0
    # Each node's host and number of workers, in the order of rank: `h1 8,h2 8`; "" for very many.
    hosts: str = ""


class Waiting(NamedTuple):
    """There is no place in the run now; there may be one after the next restart."""

    reason: str
    deputies: tuple[Deputy, ...]


class Stop(NamedTuple):
    """All ranks are to end; `signum` is that of the signal that somebody was sent, or 0."""

    generation: int
    reason: str
    signum: int = 0
    is_hang: bool = False
    is_forced: bool = False


class Decided(NamedTuple):
    """What follows the attempt; also what a node tells who takes the coordinator's place."""

    generation: int
    # "finish", "restart" or "give_up", as in a Verdict.
    action: str
    reason: str
    delay_s: float
    exit_code: int
    # The failure report, or None; and whether this node is the one that shows it.
    report: dict[str, Any] | None
    is_reporter: bool
    # Where it is shown.
    reporter: str = ""
    # How many attempts have failed, with this one.
    num_failures: int = 0


class Farewell(NamedTuple):
    """This node is not needed any more: all know how the run has ended, or that it leaves."""


class Well(NamedTuple):
    """From a node that could have followed the coordinator: that is there, and can be reached."""


class Released(NamedTuple):
    """This node may go as it was asked to: the others go on without it."""

    exit_code: int


class Refused(NamedTuple):
    """This node cannot take part; the exit code says what kind of error it is."""

    message: str
    hint: str
    exit_code: int


class Pong(NamedTuple):
    """The coordinator is there."""


Message = (
    Join
    | Ready
    | Failing
    | Still
    | Stopping
    | Settled
    | Heard
    | Leave
    | Forsake
    | Ping
    | Relocate
    | Answer
    | Assigned
    | Waiting
    | Stop
    | Decided
    | Farewell
    | Released
    | Well
    | Refused
    | Pong
    | Ask
)

_CLASSES: Mapping[str, type[Message]] = {
    kind.__name__.lower(): kind
    for kind in (
        *(Join, Ready, Failing, Still, Stopping, Settled, Heard, Leave, Forsake, Ping, Relocate),
        *(Ask, Answer, Assigned, Waiting, Stop, Decided, Farewell, Released),
        *(Well, Refused, Pong),
    )
}


# Beyond these limits no field of a message has a meaning.
_MOST = 1 << 53


def _is_int(value: Any) -> bool:
    return type(value) is int and abs(value) < _MOST


def _is_str(value: Any) -> bool:
    return isinstance(value, str)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _are_deputies(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(deputy, (list, tuple)) and _fits(Deputy, deputy) for deputy in value
    )


# How a field is written in a class above -> whether a value can be its content.
_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "int": _is_int,
    "str": _is_str,
    "bool": lambda value: isinstance(value, bool),
    "float": lambda value: _is_int(value) or (isinstance(value, float) and abs(value) < _MOST),
    "dict[str, str]": lambda value: _is_dict(value) and all(map(_is_str, value.values())),
    "dict[str, Any]": _is_dict,
    "dict[str, Any] | None": lambda value: value is None or _is_dict(value),
    "Sequence[int]": lambda value: isinstance(value, (list, tuple)) and all(map(_is_int, value)),
    "tuple[Deputy, ...]": _are_deputies,
}


def _checks_of(kind: type[Any]) -> tuple[Callable[[Any], bool], ...]:
    return tuple(_CHECKS[written] for written in kind.__annotations__.values())


_FIELDS = {kind: _checks_of(kind) for kind in (*_CLASSES.values(), Deputy)}


def _fits(kind: type[Any], fields: Sequence[Any]) -> bool:
    """Tell whether these can be the first fields of a message, or a deputy."""
    checks = _FIELDS[kind]
    return len(fields) <= len(checks) and all(
        check(field) for check, field in zip(checks, fields, strict=False)
    )


def encode(message: Message) -> list[Any]:
    """Return a message as what JSON can say."""
    return [type(message).__name__.lower(), *message]


def decode(value: Any) -> Message:
    """Read what `encode` has made; ValueError for everything else."""
    try:
        tag, *fields = value
        kind = _CLASSES[tag]
        if not isinstance(value, list) or not _fits(kind, fields):
            raise TypeError(tag)
        message = kind(*fields)
        if isinstance(message, (Assigned, Waiting)):
            deputies = tuple(Deputy(*deputy) for deputy in message.deputies)
            return message._replace(deputies=deputies)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError("no message of a node") from error
    return message
