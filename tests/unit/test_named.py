"""`NamedTuple` of ours is what that of `typing` is, to whoever uses it."""

from __future__ import annotations

import inspect
import json
import pickle
import typing
from typing import Any

import pytest

from launcher.named import NamedTuple


class Ours(NamedTuple):
    """What somebody says."""

    rank: int
    text: str = ""
    codes: tuple[int, ...] = (1,)

    @property
    def length(self) -> int:
        return len(self.text)


class Theirs(typing.NamedTuple):
    rank: int
    text: str = ""
    codes: tuple[int, ...] = (1,)


class Empty(NamedTuple):
    """Says only that it is there."""


class More(Ours):
    """Ours, with a method more."""

    def shout(self) -> str:
        return self.text.upper()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((1, "a", ()), {}),
        ((1,), {}),
        ((1,), {"codes": (2,)}),
        ((), {"text": "a", "rank": 3}),
        ((), {}),
        ((1, "a", (), 4), {}),
        ((1,), {"rank": 1}),
        ((1,), {"missing": 1}),
    ],
)
def test_made_of_values_and_names(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    def make(kind: Any) -> Any:
        try:
            return kind(*values, **named)
        except TypeError:
            return TypeError

    assert make(Ours) == make(Theirs)


def test_what_can_be_asked_and_done() -> None:
    ours, theirs = Ours(1, "a"), Theirs(1, "a")
    assert ours._asdict() == theirs._asdict()
    assert ours._replace(rank=2) == theirs._replace(rank=2)
    assert repr(ours).removeprefix("Ours") == repr(theirs).removeprefix("Theirs")
    assert Ours._fields == Theirs._fields
    assert Ours._make([3, "b", ()]) == Theirs._make([3, "b", ()])
    assert json.dumps(ours) == json.dumps(theirs)
    assert (ours.rank, ours.text, ours.codes, ours.length) == (1, "a", (1,), 1)
    assert typing.get_type_hints(Ours) == typing.get_type_hints(Theirs)
    assert str(inspect.signature(Ours)) == (
        "(rank: 'int', text: 'str' = '', codes: 'tuple[int, ...]' = (1,))"
    )
    assert pickle.loads(pickle.dumps(ours)) == ours
    assert isinstance(pickle.loads(pickle.dumps(ours)), Ours)
    match ours:
        case Ours(rank, text):
            assert (rank, text) == (1, "a")


def test_it_cannot_be_changed() -> None:
    ours: Any = Ours(1)
    for name in ("rank", "other"):
        with pytest.raises(AttributeError):
            setattr(ours, name, 2)
    with pytest.raises(TypeError):
        hash(Ours(1, "", [2]))  # type: ignore[arg-type]
    assert hash(Ours(1)) == hash(Theirs(1))


def test_without_fields_and_with_a_child() -> None:
    assert Empty() == ()
    assert More(1, "a").shout() == "A"
    assert More(1, "a")._replace(text="b").shout() == "B"


def test_a_default_before_a_field_without_one_is_refused() -> None:
    with pytest.raises(TypeError, match="without a default"):
        type(Ours)("Wrong", (NamedTuple,), {"__annotations__": {"a": "int", "b": "int"}, "a": 1})
