"""What nodes say to each other arrives as it was said; all else is no message, and no crash."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from launcher.nodes import messages
from launcher.nodes.messages import (
    Answer,
    Ask,
    Assigned,
    Decided,
    Deputy,
    Failing,
    Farewell,
    Forsake,
    Heard,
    Join,
    Leave,
    Message,
    Ping,
    Pong,
    Ready,
    Refused,
    Released,
    Relocate,
    Settled,
    Still,
    Stop,
    Stopping,
    Waiting,
    Well,
    decode,
    encode,
)

DEPUTIES = (Deputy("m1", "h1", "10.0.0.1", 4711, 1), Deputy("m2", "h2", "fe80::2", 4712, 2))

EVERY: list[Message] = [
    Join("m0", "h0", 8, -1, 2, 4, 3, {"the script": "é"}, "", 0, 29500, 1, 2, 3, 4, [0], "1/x"),
    Ready(2, 29500, "4711/secret"),
    Failing(1, is_hang=True),
    Still(1, is_still=False),
    Stopping(0, 15, is_for_all=True, is_forced=True),
    Settled(1, {"duration": 1.5, "ranks": [0], "asked": False}),
    Heard(),
    Leave("it has left", [1, 2]),
    Forsake(),
    Ping(),
    Relocate("10.0.0.1", 29400),
    Ask(1, "ps"),
    Answer(1, "h1", "two lines\nof text"),
    Assigned(1, "run", 0, 3, 0, 24, "h", 1, "a", 2, DEPUTIES, 1, "h1", "4711/x", 9, "h0 8,h1 8"),
    Waiting("all are there", DEPUTIES),
    Stop(1, "a rank has failed", 0, is_hang=False, is_forced=True),
    Decided(1, "give_up", "why", 0.5, 7, {"rank": 1}, True, "h1", 2),
    Farewell(),
    Well(),
    Released(143),
    Refused("no", "do this", 2),
    Pong(),
]
KINDS = [type(message) for message in EVERY]
WITH_FIELDS = [message for message in EVERY if message]


def name(message: Message) -> str:
    return type(message).__name__


def travel(message: Message) -> Message:
    return decode(json.loads(json.dumps(encode(message))))


def test_no_kind_of_message_is_left_out_here() -> None:
    assert sorted(messages._CLASSES.values(), key=str) == sorted(KINDS, key=str)


@pytest.mark.parametrize("message", EVERY, ids=name)
def test_every_message_arrives_as_it_was_said(message: Message) -> None:
    heard = travel(message)
    assert (type(heard), heard) == (type(message), message)


@pytest.mark.parametrize("message", [Decided(0, "finish", "", 0.0, 0, None, False), Leave("bye")])
def test_what_may_be_left_out_may_be_empty(message: Message) -> None:
    short = encode(message)[: 1 + len(message) - len(message._field_defaults)]
    assert decode(short) == message


def test_an_older_form_without_the_last_fields_has_their_defaults() -> None:
    assert decode(["failing", 3]) == Failing(3, is_hang=False)
    assert decode(["ready", 3, 29500]) == Ready(3, 29500, "")


@pytest.mark.parametrize(
    "value",
    [None, 5, True, "", "ping", {}, {"ping": 1}, [], [[]], [None], [5], [{}], ["unknown"], ["PING"]]
    + [["__class__"], ["deputy", "m", "h", "a", 1, 1], ["ping", []], [["ping"]]],
    ids=repr,
)
def test_what_is_no_message_is_called_so(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^no message of a node$"):
        decode(value)


@pytest.mark.parametrize("message", EVERY, ids=name)
def test_a_field_too_many_is_no_message(message: Message) -> None:
    with pytest.raises(ValueError, match=r"^no message of a node$"):
        decode([*encode(message), 0])


@pytest.mark.parametrize("message", WITH_FIELDS, ids=name)
def test_a_field_that_is_missing_makes_no_message(message: Message) -> None:
    needed = len(message) - len(message._field_defaults)
    for number in range(needed):
        with pytest.raises(ValueError, match=r"^no message of a node$"):
            decode(encode(message)[: number + 1])


# What a field does not take, by its annotation in the class of the message.
NOT_IN: dict[str, list[Any]] = {
    "int": [None, True, 0.5, "7", [], 1 << 63],
    "str": [None, True, 7, ["x"], {}],
    "bool": [None, 0, 1, "true"],
    "float": [None, True, "0.5", [], math.nan, -math.inf, 10**400],
    "dict[str, str]": [None, [], "x", {"a": 1}, {"a": None}],
    "dict[str, Any]": [None, [], [["a", 1]], "x"],
    "dict[str, Any] | None": [False, 0, [], "x"],
    "Sequence[int]": [None, 7, "7", {}, {"7": 7}, [None], ["7"], [0.5], [[7]]],
    "tuple[Deputy, ...]": [None, 7, "x", {}, [7], ["mhabc"], [{}], [["m", "h", "a", 1]]]
    + [[["m", "h", "a", "1", 1]], [["m", "h", "a", 1, 1, 1]], [[None, "h", "a", 1, 1]]],
}


@pytest.mark.parametrize("message", WITH_FIELDS, ids=name)
def test_a_field_of_a_wrong_type_makes_no_message(message: Message) -> None:
    kinds = [str(getattr(k, "__forward_arg__", k)) for k in type(message).__annotations__.values()]
    for place, kind in enumerate(kinds):
        for value in NOT_IN[kind]:
            told = encode(message)
            told[place + 1] = value
            with pytest.raises(ValueError, match=r"^no message of a node$"):
                decode(told)
