"""References to contract names in arguments, and names that must not be inherited.

What workers get: launch/test_environment.py.
"""

from __future__ import annotations

import pytest

from launcher.contract import environment
from launcher.ranks import Assignment, Place, make_places

VARIABLES = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "a"}


@pytest.mark.parametrize(
    ("argument", "expanded"),
    [
        ("$RANK", "3"),
        ("${RANK}", "3"),
        ("x$RANK-y", "x3-y"),
        ("$RANK$LOCAL_RANK", "31"),
        ("${RANK}${RANK}", "33"),
        ("$RANK_", "$RANK_"),
        ("$RANKé", "3é"),
        ("$HOME", "$HOME"),
        ("${HOME}", "${HOME}"),
        ("${RANK", "${RANK"),
        ("${}", "${}"),
        ("$", "$"),
        ("$$RANK", "$3"),
        ("$MASTER_PORT", "$MASTER_PORT"),
        ("plain", "plain"),
        ("", ""),
        ("\udcff$RANK", "\udcff3"),
    ],
)
def test_contract_names_are_expanded_and_other_dollars_stay(argument: str, expanded: str) -> None:
    assert environment.expand(argument, VARIABLES) == expanded


def stall_check(hang_timeout_s: float, port: int = 1, **environ: str) -> str | None:
    run = environment.Run("id", "default", "auto", hang_timeout_s=hang_timeout_s)
    assignment = Assignment(
        0, make_places(0, (2,)), "127.0.0.1", 5000, "127.0.0.1" if port else "", port
    )
    return environment.make_common(run, assignment, environ, 4).get(
        "HOROVOD_STALL_CHECK_TIME_SECONDS"
    )


@pytest.mark.parametrize(
    ("timeout_s", "check"), [(0.5, "1"), (2, "1"), (10, "2"), (100, "25"), (600, "60")]
)
def test_horovod_looks_for_stalls_often_enough_for_the_hang_timeout(
    timeout_s: float, check: str
) -> None:
    assert stall_check(timeout_s) == check


def test_horovod_keeps_its_own_interval_unless_there_is_a_reason_to_change_it() -> None:
    assert stall_check(0) is None
    assert stall_check(100, port=0) is None
    assert stall_check(100, HOROVOD_STALL_CHECK_TIME_SECONDS="7") is None


def elastic(environ: dict[str, str], is_elastic: bool = True) -> dict[str, str]:
    assignment = Assignment(
        0, make_places(0, (2,)), "127.0.0.1", 1, "127.0.0.1:2/secret", 2, is_elastic
    )
    run = environment.Run("id", "default", "auto", max_restarts=1)
    return environment.make_common(run, assignment, environ, 2)


def test_elastic_ranks_notice_soon_that_another_has_gone() -> None:
    found = elastic({})
    assert (found["HOROVOD_ELASTIC"], found["HOROVOD_GLOO_TIMEOUT_SECONDS"]) == ("1", "5")
    assert "HOROVOD_GLOO_TIMEOUT_SECONDS" not in elastic({"HOROVOD_GLOO_TIMEOUT_SECONDS": "7"})
    other = elastic({}, is_elastic=False)
    assert "HOROVOD_ELASTIC" not in other
    assert other["HOROVOD_GLOO_TIMEOUT_SECONDS"] == "600"


@pytest.mark.parametrize(
    ("environ", "direct"),
    [
        ({}, None),
        ({"http_proxy": "p"}, "127.0.0.1"),
        ({"HTTP_PROXY": "p", "NO_PROXY": "a,b"}, "a,b,127.0.0.1"),
        ({"http_proxy": "p", "no_proxy": "c", "NO_PROXY": "a"}, "c,127.0.0.1"),
    ],
)
def test_horovod_never_asks_a_proxy_for_the_store(
    environ: dict[str, str], direct: str | None
) -> None:
    assert elastic(environ).get("no_proxy") == direct


def test_an_engines_rank_and_a_supervisors_worker_are_told_alike_who_they_are() -> None:
    run = environment.Run("id", "default", "auto", mark="mark", hostname="here")
    assignment = Assignment(2, make_places(1, (2, 3)), "10.0.0.1", 5000)
    place = assignment.places[1]
    told = environment.make_identity(run, place, 2, ("10.0.0.1", 5000))
    assert environment.make_per_rank(run, assignment, place, None) == told
    assert (told["RANK"], told["NODE_RANK"], told["GROUP_WORLD_SIZE"]) == ("3", "1", "2")


def test_a_rank_is_told_nothing_of_nodes_that_nobody_has_counted() -> None:
    told = environment.make_identity(environment.Run("id", "", ""), Place("openmpi"), 0, ("a", 1))
    assert set(told) & set(environment.NODE_VARIABLES) == set()
