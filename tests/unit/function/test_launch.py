"""launcher.launch() before anything starts: which arguments are none, and what is preloaded for a
function.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

import launcher
from launcher.errors import UsageError
from launcher.function.launch import launch, make_preload_options


def place(*args: object) -> tuple[object, ...]:
    return args


class Unwilling:
    """As an array without a dimension: has the method of an iterable, and refuses."""

    def __iter__(self) -> Any:
        raise TypeError("iteration over a 0-d array")

    def __repr__(self) -> str:
        return "array(3)"


@pytest.mark.parametrize(
    ("args", "says", "hint"),
    [
        (3.0, "args=3.0 must be a list or a tuple.", "Type: launch(place, (3.0,))"),
        (None, "args=None must be a list or a tuple.", "Leave it out."),
        (Unwilling(), "args=array(3) must be", "Type: launch(place, (array(3),))"),
        ("abc", "and not a text: each of its characters", "Type: launch(place, ('abc',))"),
        (b"abc", "args=b'abc' must be", "Type: launch(place, (b'abc',))"),
        ({"lr": 1}, "and not a mapping: only its keys", "Type: launch(place, kwargs={'lr': 1})"),
    ],
)
def test_arguments_that_are_no_list_are_named_with_what_to_type(
    args: Any, says: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        launch(place, args)
    assert says in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize("args", ["--lr 0.1", 0.1, {"--lr": 0.1}])
def test_arguments_of_a_command_that_are_no_list_are_named_too(args: Any) -> None:
    with pytest.raises(UsageError, match="must be a list or a tuple") as caught:
        launch("train.py", args)
    assert """launch('train.py', ["--lr", "0.1"])""" in str(caught.value)


def test_a_value_of_any_size_is_one_line_of_the_message() -> None:
    with pytest.raises(UsageError) as caught:
        launch(place, "x" * 100_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kwargs", [3.0, [("lr", 1)], "lr", {1: 2}, 0])
def test_keyword_arguments_that_are_no_names_and_values_are_named(kwargs: Any) -> None:
    with pytest.raises(UsageError, match=r"kwargs=.* must ") as caught:
        launch(place, (), kwargs)
    assert "launch(place, kwargs={'lr': 0.1})" in str(caught.value)


@pytest.mark.parametrize("kwargs", [3.0, {"lr": 1}])
def test_keyword_arguments_are_refused_for_a_command(kwargs: Any) -> None:
    with pytest.raises(UsageError, match="go to a function"):
        launch("train.py", (), kwargs)


@pytest.mark.parametrize("function", [3.0, None, 0])
def test_what_is_neither_function_nor_command_is_named(function: Any) -> None:
    with pytest.raises(UsageError, match="a function is needed, or a command"):
        launch(function)


def with_torch() -> None:
    import torch

    torch.ones(1)


def with_helpers() -> None:
    launcher.init()


def sets_threads() -> None:
    os.environ["OMP_NUM_THREADS"] = "3"
    import torch

    torch.ones(1)


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (place, []),
        (with_torch, ["--preload", "torch"]),
        (with_helpers, ["--preload", "torch"]),
        (sets_threads, []),
        (print, []),
    ],
)
def test_only_what_the_function_needs_is_imported_beforehand(
    function: Callable[..., Any], options: list[str]
) -> None:
    assert make_preload_options(function) == options
