"""What a process was given, and whether another can take it on."""

from __future__ import annotations

import os
import resource

import pytest

from launcher.system.inheritance import find_obstacle, read_inheritance


def _refuse(*args: object) -> None:
    raise ValueError("not allowed to raise maximum limit")


def test_what_this_process_has_itself_is_no_obstacle() -> None:
    assert find_obstacle(read_inheritance(os.getpid(), [])) == ""


@pytest.mark.parametrize("hard", [1000, resource.RLIM_INFINITY])
def test_a_higher_limit_is_an_obstacle_where_it_may_not_be_raised(
    monkeypatch: pytest.MonkeyPatch, hard: int
) -> None:
    own = read_inheritance(os.getpid(), [])
    higher = own._replace(limits=[(resource.RLIMIT_CORE, 0, hard)])
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (0, 100))
    tried: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, both: tried.append((kind, both)))
    assert find_obstacle(higher) == ""
    assert tried == [(resource.RLIMIT_CORE, (0, hard)), (resource.RLIMIT_CORE, (0, 100))]
    # As root in a container may not.
    monkeypatch.setattr(resource, "setrlimit", _refuse)
    assert find_obstacle(higher) == "a higher limit than others (RLIMIT_CORE)"


def test_a_higher_priority_is_an_obstacle_where_it_may_not_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = read_inheritance(os.getpid(), [])
    tried: list[int] = []
    monkeypatch.setattr(os, "setpriority", lambda which, who, nice: tried.append(nice))
    assert find_obstacle(own._replace(nice=own.nice - 1)) == ""
    assert tried == [own.nice - 1, own.nice]

    def refuse(*args: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    assert find_obstacle(own._replace(nice=own.nice - 1)) == f"a niceness of {own.nice - 1}"
