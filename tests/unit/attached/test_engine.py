"""A rank or a launcher: decided from who started us and what the flags ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.attached.engine import check_horovod, is_rank, is_rank_of_service
from launcher.attached.in_place import make_contract
from launcher.errors import EnvironmentMismatch, UsageError
from launcher.options.spec import LaunchSpec
from launcher.ranks import Place


def _spec(**options: object) -> LaunchSpec:
    return LaunchSpec(
        script="train.py", **options, provenance={name: f"--{name}" for name in options}
    )


def _place(starter: str, size: int, local: int) -> Place:
    return Place(starter, rank=1, local_rank=1 % local, world_size=size, local_world_size=local)


@pytest.mark.parametrize("starter", ["openmpi", "mpich", "mvapich", "slurm", "horovod"])
def test_one_of_several_processes_of_an_engine_is_a_rank(starter: str) -> None:
    assert is_rank(_spec(), _place(starter, 4, 4))


@pytest.mark.parametrize("starter", ["none", "launcher", "torchrun", "contract"])
def test_a_process_that_no_engine_started_supervises(starter: str) -> None:
    assert not is_rank(_spec(), _place(starter, 4, 4))


def test_the_only_process_of_an_engine_supervises() -> None:
    assert not is_rank(_spec(nproc_per_node="2"), Place("openmpi"))


def test_ranks_that_shall_each_start_more_ranks_are_refused() -> None:
    with pytest.raises(EnvironmentMismatch, match=r"srun -n 4 python -m launcher train\.py"):
        is_rank(_spec(nproc_per_node="2"), _place("slurm", 4, 4))


@pytest.mark.parametrize(
    "asked", [{"nproc_per_node": "8"}, {"nproc_per_node": "gpu"}, {"nnodes": "2"}]
)
def test_one_task_of_srun_on_each_of_several_nodes_is_a_launcher_if_flags_ask_for_one(
    asked: dict[str, object],
) -> None:
    assert not is_rank(_spec(**asked), _place("slurm", 2, 1))


def test_one_task_of_srun_on_each_of_several_nodes_is_a_rank_otherwise() -> None:
    assert is_rank(_spec(), _place("slurm", 2, 1))


def test_several_tasks_on_a_node_beside_a_number_of_nodes_are_refused() -> None:
    with pytest.raises(EnvironmentMismatch, match=r"--nnodes 2 is for one launcher on each") as e:
        is_rank(_spec(nnodes="2"), _place("slurm", 8, 4))
    assert "srun -n 8 python -m launcher train.py" in e.value.hint
    assert "srun --ntasks-per-node=1 python -m launcher --nproc-per-node 1 train.py" in e.value.hint


@pytest.mark.parametrize("starter", ["openmpi", "mpich", "mvapich"])
def test_one_launcher_on_each_of_several_nodes_supervises(starter: str) -> None:
    assert not is_rank(_spec(nproc_per_node="2"), _place(starter, 2, 1))
    assert is_rank(_spec(nproc_per_node="1"), _place(starter, 2, 1))


def test_launchers_of_horovodrun_could_not_meet() -> None:
    with pytest.raises(UsageError, match="mpirun --map-by ppr:1:node python -m launcher"):
        is_rank(_spec(nproc_per_node="2"), _place("horovod", 2, 1))


# What a service sets that starts a process for each rank.
CONTRACT = {"MASTER_ADDR": "h1", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("environ", "options", "expected"),
    [
        (CONTRACT, {}, True),
        (CONTRACT, {"nproc_per_node": "2"}, False),
        (CONTRACT, {"nnodes": "2"}, False),
        (CONTRACT, {"nnodes": "1"}, True),
        ({**CONTRACT, "WORLD_SIZE": "1"}, {}, False),
        ({**CONTRACT, "LOCAL_RANK": ""}, {}, False),  # it numbers its containers
        ({**CONTRACT, "MASTER_ADDR": ""}, {}, False),
        ({**CONTRACT, "LAUNCHER_RUN_ID": "fox"}, {}, False),
    ],
)
def test_a_process_with_the_whole_contract_of_a_rank_is_one(
    environ: dict[str, str], options: dict[str, object], expected: bool
) -> None:
    assert is_rank_of_service(_spec(**options), environ) is expected


def test_the_contract_of_a_rank_in_place_keeps_what_the_user_has_set() -> None:
    place = _place("mpich", 4, 2)._replace(node_rank=1, sources={"node_rank": "NODE"})
    master = ("10.0.0.1", 4000)
    variables = make_contract(_spec(), place, {"OMP_NUM_THREADS": "7"}, master)
    assert (variables["NODE_RANK"], variables["GROUP_RANK"]) == ("1", "1")
    assert (variables["RANK"], variables["GROUP_WORLD_SIZE"]) == ("1", "2")
    assert (variables["MASTER_ADDR"], variables["MASTER_PORT"]) == ("10.0.0.1", "4000")
    assert "OMP_NUM_THREADS" not in variables
    assert "GLOO_SOCKET_IFNAME" not in variables, "ranks on several nodes cannot meet on loopback"


def test_a_rank_whose_node_nobody_knows_is_not_told_a_number() -> None:
    variables = make_contract(_spec(), _place("openmpi", 4, 2), {}, ("10.0.0.1", 4000))
    assert [name for name in variables if name.startswith(("NODE_", "GROUP_"))] == []


def test_one_process_alone_is_a_rank_where_only_an_engine_can_start_ranks_of_mpi() -> None:
    assert is_rank(_spec(backend="mpi"), Place("openmpi"))
    assert not is_rank(_spec(backend="mpi", nproc_per_node="2"), Place("openmpi"))


@pytest.mark.parametrize(
    ("starter", "environ", "backend", "text", "is_refused"),
    [
        ("slurm", {}, "horovod", "", True),
        ("slurm", {}, "auto", "import horovod.torch as hvd\n", True),
        ("slurm", {}, "gloo", "import horovod.torch as hvd\n", False),
        ("slurm", {"SLURM_STEP_ID": "0", "PMIX_RANK": "1"}, "horovod", "", False),
        ("openmpi", {"OMPI_COMM_WORLD_RANK": "1"}, "horovod", "", False),
    ],
)
def test_horovod_is_refused_where_each_rank_would_train_alone(
    tmp_path: Path, starter: str, environ: dict[str, str], backend: str, text: str, is_refused: bool
) -> None:
    path = tmp_path / "train.py"
    path.write_text(text)
    spec = LaunchSpec(script=str(path), backend=backend)
    if not is_refused:
        check_horovod(spec, _place(starter, 2, 2), environ)
        return
    with pytest.raises(UsageError) as caught:
        check_horovod(spec, _place(starter, 2, 2), environ)
    for command in (
        "srun --mpi=pmix -n 2",
        "mpirun -np 2",
        "srun -n 1 python -m launcher --nproc-per-node 2",
    ):
        assert command in str(caught.value)
