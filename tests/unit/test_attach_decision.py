"""Supervise or attach: decided from who started us and what the flags ask for."""

from __future__ import annotations

import pytest

from launcher.attach import make_contract, should_attach
from launcher.environments import Place
from launcher.errors import EnvironmentMismatch, UsageError
from launcher.spec import LaunchSpec


def _spec(**options: object) -> LaunchSpec:
    return LaunchSpec(script="train.py", **options, provenance={name: f"--{name}" for name in options})


def _place(starter: str, size: int, local: int) -> Place:
    return Place(starter, rank=1, local_rank=1 % local, world_size=size, local_world_size=local)


@pytest.mark.parametrize("starter", ["openmpi", "mpich", "mvapich", "slurm"])
def test_one_of_several_processes_of_an_engine_is_a_rank(starter: str) -> None:
    assert should_attach(_spec(), _place(starter, 4, 4))


@pytest.mark.parametrize("starter", ["none", "launcher", "torchrun", "contract", "horovod"])
def test_a_process_that_no_engine_started_supervises(starter: str) -> None:
    assert not should_attach(_spec(), _place(starter, 4, 4))


def test_the_only_process_of_an_engine_supervises() -> None:
    assert not should_attach(_spec(nproc_per_node="2"), Place("openmpi"))


def test_ranks_that_shall_each_start_more_ranks_are_refused() -> None:
    with pytest.raises(EnvironmentMismatch, match=r"srun -n 4 python -m launcher train\.py"):
        should_attach(_spec(nproc_per_node="2"), _place("slurm", 4, 4))


def test_one_launcher_on_each_of_several_nodes_is_refused_as_not_yet_possible() -> None:
    with pytest.raises(UsageError, match="one node"):
        should_attach(_spec(nproc_per_node="2"), _place("openmpi", 2, 1))


def test_the_contract_of_an_attached_rank_keeps_what_the_user_has_set() -> None:
    variables = make_contract(_spec(), _place("openmpi", 4, 2), {"OMP_NUM_THREADS": "7"}, ("10.0.0.1", 4000))
    assert (variables["RANK"], variables["GROUP_WORLD_SIZE"], variables["MASTER_ADDR"]) == ("1", "2", "10.0.0.1")
    assert "OMP_NUM_THREADS" not in variables
    assert "GLOO_SOCKET_IFNAME" not in variables, "ranks on several nodes cannot meet on loopback"
