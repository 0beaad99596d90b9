"""A rank in the engine's own process: the contract that it sets, what it says, when it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from launcher.attached import in_place
from launcher.attached.in_place import become_rank, dry_run, end_with_engine
from launcher.errors import UsageError
from launcher.options.spec import LaunchSpec
from launcher.ranks import Place
from launcher.system.processes import ProcessInfo

ONE_HOST = Place("openmpi", 1, 1, 2, 2, sources={"local_world_size": "OMPI"})
TWO_HOSTS = Place("mpich", 3, 1, 4, 2)


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of the rank, as its engine has made it."""
    variables: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", variables)
    return variables


@pytest.mark.parametrize(
    ("given", "port", "expected"),
    [
        ({}, 4000, ("127.0.0.1", "4000")),
        ({"MASTER_PORT": "29500"}, 4000, ("127.0.0.1", "29500")),
        ({"MASTER_ADDR": "head"}, 4000, ("head", "4000")),
        ({"MASTER_ADDR": "head", "MASTER_PORT": "1"}, 0, ("head", "1")),
    ],
)
def test_ranks_of_one_host_meet_where_they_are_told_or_the_user_says(
    environ: dict[str, str], given: dict[str, str], port: int, expected: tuple[str, str]
) -> None:
    environ.update(given)
    become_rank(LaunchSpec(script="train.py"), ONE_HOST, port)
    assert (environ["MASTER_ADDR"], environ["MASTER_PORT"]) == expected
    assert (environ["RANK"], environ["WORLD_SIZE"]) == ("1", "2")


def test_without_a_port_all_derive_the_same_one_from_the_job(environ: dict[str, str]) -> None:
    found = set()
    for rank in (0, 1):
        environ.clear()
        environ["PMIX_NAMESPACE"] = "job"
        place = ONE_HOST._replace(rank=rank, local_rank=rank)
        become_rank(LaunchSpec(script="train.py"), place, 0)
        found.add((environ["MASTER_ADDR"], environ["MASTER_PORT"]))
    assert len(found) == 1


def test_what_refers_to_the_rank_in_the_arguments_is_replaced(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def run(spec: LaunchSpec, args: list[str]) -> int:
        ran.append(args)
        return 0

    monkeypatch.setattr(in_place, "_run", run)
    spec = LaunchSpec(script="train.py", script_args=("$RANK", "$MASTER_PORT", "$HOME"))
    start: Callable[[], int] = become_rank(spec, ONE_HOST, 4000)
    assert ran == []
    assert start() == 0
    assert ran == [["1", "4000", "$HOME"]]


def test_options_that_need_a_supervisor_are_said_to_have_no_effect_by_one_rank(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"max_restarts": 3, "devices": ("0", "1"), "virtual_local_rank": True}
    flags = {name: "--" + name.replace("_", "-") for name in (*given, "nproc_per_node")}
    spec = LaunchSpec(script="train.py", nproc_per_node="1", **given, provenance=flags)
    for rank in (0, 1):
        become_rank(spec, ONE_HOST._replace(rank=rank, local_rank=rank), 4000)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" has no effect: the ranks run in the ")[0] for line in lines] == [
        "launcher: --max-restarts 3",
        "launcher: --devices 0,1",
        "launcher: --virtual-local-rank",
    ]


def test_ranks_of_several_hosts_without_an_address_are_told_what_to_set(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.worker.agreement._world_communicator", lambda size: None)
    with pytest.raises(UsageError, match="MASTER_ADDR=<host of rank 0>"):
        become_rank(LaunchSpec(script="train.py"), TWO_HOSTS, 0)


@pytest.mark.parametrize("place", [ONE_HOST, TWO_HOSTS])
def test_a_dry_run_says_what_is_not_known_yet(place: Place) -> None:
    text = dry_run(LaunchSpec(script="train.py"), place, {})
    assert "MASTER_PORT=told when the ranks have met" in text
    assert "MASTER_PORT=29500" in dry_run(
        LaunchSpec(script="train.py"), place, {"MASTER_ADDR": "head", "MASTER_PORT": "29500"}
    )


@pytest.mark.parametrize(
    ("parent", "is_rank", "signum"),
    [
        ("mpirun", True, signal.SIGKILL),
        ("slurmstepd", False, signal.SIGTERM),
        ("bash", True, None),
        ("horovodrun", True, None),
    ],
)
def test_it_ends_with_its_engine_but_not_with_a_program_of_the_users(
    monkeypatch: pytest.MonkeyPatch, parent: str, is_rank: bool, signum: int | None
) -> None:
    asked: list[int] = []

    def die(number: int, pid: int) -> bool:
        asked.append(number)
        return True

    def look(pid: int) -> ProcessInfo:
        return ProcessInfo(pid, parent, "S", 1, 1, "")

    monkeypatch.setattr(in_place, "process_info", look)
    monkeypatch.setattr(in_place, "die_with_parent", die)
    end_with_engine(is_rank=is_rank)
    assert asked == ([] if signum is None else [signum])


def test_an_engine_that_has_gone_already_is_followed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised: list[int] = []
    daemon = ProcessInfo(70, "orted", "S", 1, 1, "")
    monkeypatch.setattr(in_place, "process_info", lambda pid: daemon)
    monkeypatch.setattr(in_place, "die_with_parent", lambda signum, pid: False)
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    end_with_engine(is_rank=True)
    assert raised == [signal.SIGKILL]
