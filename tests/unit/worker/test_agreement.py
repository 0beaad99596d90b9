"""What ranks of MPI on several hosts tell each other, with a world that is no MPI's."""

from __future__ import annotations

import os
from typing import Any

import pytest

from launcher.errors import UsageError
from launcher.ranks import Place
from launcher.worker import agreement


class World:
    """The communicator of one rank, to which rank 0 says what it is told to say."""

    def __init__(self, said: Any = None) -> None:
        self._said = said

    def bcast(self, value: Any, root: int) -> Any:
        return self._said if value is None else value


def place(rank: int = 1, **changes: Any) -> Place:
    return Place("openmpi", rank, rank % 2, 4, 2, **changes)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPI is there, and counts two nodes, of which this is the second."""
    monkeypatch.setattr(agreement, "_world_communicator", lambda size: World(("10.0.0.1", 4000)))
    monkeypatch.setattr(agreement, "_agree_on_nodes", lambda world: (1, 2))


@pytest.fixture
def no_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """mpi4py is not installed."""
    monkeypatch.setattr(agreement, "_world_communicator", lambda size: None)


@pytest.mark.parametrize(
    ("starter", "size", "environ", "sources", "expected"),
    [
        ("openmpi", 2, {}, {}, True),
        ("mpich", 2, {"MASTER_ADDR": "a", "MASTER_PORT": "1"}, {}, True),  # and nodes
        ("mvapich", 2, {"MASTER_ADDR": "a", "MASTER_PORT": "1"}, {"node_rank": "N"}, False),
        ("openmpi", 2, {"MASTER_ADDR": "a"}, {"node_rank": "N"}, True),
        ("openmpi", 4, {}, {}, False),  # one host
        ("slurm", 2, {}, {}, False),
    ],
)
def test_ranks_ask_each_other_where_their_engine_has_left_something_open(
    starter: str, size: int, environ: dict[str, str], sources: dict[str, str], expected: bool
) -> None:
    here = Place(starter, 1, 1, 4, size, sources=sources)
    assert agreement.needs_agreement(here, environ) == expected


@pytest.mark.usefixtures("world")
def test_they_agree_on_rank_0s_store_and_on_the_number_of_their_nodes() -> None:
    environ: dict[str, str] = {}
    agreement.agree(place(), environ)
    assert environ == {
        "NODE_RANK": "1",
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "4000",
    }


@pytest.mark.usefixtures("world")
def test_rank_0_keeps_the_port_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    environ: dict[str, str] = {}
    agreement.agree(place(rank=0), environ)
    assert agreement._reserved.getsockname()[1] == int(environ["MASTER_PORT"])
    agreement._reserved.close()
    monkeypatch.setattr(agreement, "_reserved", None)


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"MASTER_ADDR": "head", "MASTER_PORT": "1"}, ("head", "1")),
        ({"MASTER_PORT": "29500"}, ("10.0.0.1", "29500")),
    ],
)
def test_what_the_user_has_set_stays(given: dict[str, str], expected: tuple[str, str]) -> None:
    environ = dict(given)
    agreement.agree(place(), environ)
    assert (environ["MASTER_ADDR"], environ["MASTER_PORT"]) == expected


@pytest.mark.usefixtures("world")
def test_beside_an_address_of_the_users_the_port_is_one_that_all_hosts_derive() -> None:
    found = set()
    for rank in range(4):
        environ = {"MASTER_ADDR": "head", "PMIX_NAMESPACE": "job"}
        agreement.agree(place(rank=rank), environ)
        found.add((environ["MASTER_ADDR"], environ["MASTER_PORT"]))
    assert len(found) == 1


@pytest.mark.usefixtures("no_world")
def test_without_mpi4py_the_port_is_derived_and_put_where_the_script_finds_it() -> None:
    environ = {"MASTER_ADDR": "head", "PMIX_NAMESPACE": "job"}
    agreement.agree(place(), environ)
    assert environ["MASTER_ADDR"] == "head"
    assert 1024 < int(environ["MASTER_PORT"]) < 65536


@pytest.mark.usefixtures("no_world")
def test_without_mpi4py_and_an_address_the_user_is_told_what_to_type() -> None:
    with pytest.raises(UsageError, match="mpirun -x MASTER_ADDR"):
        agreement.agree(place(), {})


@pytest.mark.usefixtures("world")
def test_a_worker_agrees_before_its_program_runs_and_its_arguments_refer_to_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = {
        "LAUNCHER_AGREE": "1",
        "RANK": "1",
        "WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_RANK": "1",
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # so that what is put there is taken away again
    args = ["--url", "tcp://$MASTER_ADDR:${MASTER_PORT}", "$HOME"]
    found = agreement.agree_first("script", "train.py", args, None)
    assert found == ("script", "train.py", ["--url", "tcp://10.0.0.1:4000", "$HOME"], None)
    assert "LAUNCHER_AGREE" not in os.environ
    assert os.environ["NODE_RANK"] == "1"
