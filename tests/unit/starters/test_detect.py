"""Whose variables say which rank this is: environment in, place out."""

from __future__ import annotations

import pytest

from launcher.errors import EnvironmentMismatch, UsageError
from launcher.ranks import Place
from launcher.starters.detect import detect, detect_engine, find_mpi_engine, restart_count
from launcher.starters.meeting import find_job_id, find_master, find_nodes

# What one rank of each starter finds; MASTER_* and the like left out where they do not matter.
LAUNCHER = {
    "LAUNCHER_RUN_ID": "swift-fox",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "TORCHELASTIC_RUN_ID": "swift-fox",
    "TORCHELASTIC_RESTART_COUNT": "2",
}
TORCHRUN = {name: value for name, value in LAUNCHER.items() if name != "LAUNCHER_RUN_ID"}
SERVICE = {
    "MASTER_ADDR": "worker-0.svc",
    "MASTER_PORT": "23456",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "NODE_RANK": "1",
}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_NODE_RANK": "1",  # not the number of the node, whatever the name says
    "PMIX_RANK": "1",
    "PMIX_NAMESPACE": "2544762881",
}
HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
MVAPICH = {
    "MV2_COMM_WORLD_RANK": "1",
    "MV2_COMM_WORLD_SIZE": "2",
    "MV2_COMM_WORLD_LOCAL_RANK": "1",
    "MV2_COMM_WORLD_LOCAL_SIZE": "2",
}
HOROVOD = {
    "HOROVOD_RANK": "1",
    "HOROVOD_SIZE": "2",
    "HOROVOD_LOCAL_RANK": "0",
    "HOROVOD_LOCAL_SIZE": "1",
    "HOROVOD_CROSS_RANK": "1",
}
# srun -N2 -n4 on nodes of which the first takes three tasks; this is the only task of the second.
SLURM = {
    "SLURM_JOB_ID": "71",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "3,1",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURMD_NODENAME": "n2",
}
BATCH_SCRIPT = {
    "SLURM_JOB_ID": "71",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "4",
}
# salloc -N2 -n4 mpirun: each of Open MPI's daemons is one task of a step of its own.
DAEMON = {
    **SLURM,
    "SLURM_PROCID": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}


@pytest.mark.parametrize(
    ("environ", "starter", "rank", "local_rank", "world_size", "local_world_size", "node_rank"),
    [
        ({}, "none", 0, 0, 1, 1, 0),
        ({"WORLD_SIZE": "1", "LOCAL_RANK": "5"}, "none", 0, 0, 1, 1, 0),
        ({"RANK": "", "WORLD_SIZE": ""}, "none", 0, 0, 1, 1, 0),
        (LAUNCHER, "launcher", 3, 1, 4, 2, 1),
        (TORCHRUN, "torchrun", 3, 1, 4, 2, 1),
        (SERVICE, "contract", 3, 1, 4, 2, 1),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, "contract", 1, 1, 2, 2, 0),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "pod-0"}, "contract", 1, 0, 2, 1, 0),
        (OPENMPI, "openmpi", 1, 1, 2, 2, 0),
        ({**OPENMPI, **DAEMON}, "openmpi", 1, 1, 2, 2, 0),
        ({**HYDRA, **DAEMON}, "mpich", 2, 0, 4, 2, 0),
        (MVAPICH, "mvapich", 1, 1, 2, 2, 0),
        (HOROVOD, "horovod", 1, 0, 2, 1, 1),
        (HYDRA, "mpich", 2, 0, 4, 2, 0),
        (SLURM, "slurm", 3, 0, 4, 1, 1),
        (
            {**SLURM, "SLURM_PROCID": "2", "SLURM_LOCALID": "2", "SLURMD_NODENAME": "n1"},
            "slurm",
            2,
            2,
            4,
            3,
            0,
        ),
        # The step uses the second of the job's nodes only.
        (
            {**SLURM, "SLURM_STEP_NODELIST": "n2", "SLURM_STEP_TASKS_PER_NODE": "4"},
            "slurm",
            3,
            0,
            4,
            4,
            0,
        ),
        ({**SLURM, "PMIX_RANK": "3"}, "slurm", 3, 0, 4, 1, 1),
        ({**SLURM, "PMI_RANK": "3", "PMI_SIZE": "4"}, "slurm", 3, 0, 4, 1, 1),  # srun --mpi=pmi2
        (BATCH_SCRIPT, "none", 0, 0, 1, 1, 0),
        (
            {**BATCH_SCRIPT, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"},
            "none",
            0,
            0,
            1,
            1,
            0,
        ),
        # Exported in the batch script for scripts that want them; RANK comes from Slurm.
        (
            {**SLURM, "WORLD_SIZE": "4", "MASTER_ADDR": "n1", "MASTER_PORT": "29500"},
            "slurm",
            3,
            0,
            4,
            1,
            1,
        ),
        # Our workers below one srun task per node, or below one mpirun process per node.
        ({**DAEMON, **LAUNCHER}, "launcher", 3, 1, 4, 2, 1),
        ({**OPENMPI, **LAUNCHER}, "launcher", 3, 1, 4, 2, 1),
        # A script's own ranks below one MPI process per node.
        ({**OPENMPI, **SERVICE}, "contract", 3, 1, 4, 2, 1),
        # The script sets RANK from Open MPI's numbers, as many do.
        ({**OPENMPI, "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "contract", 1, 1, 2, 2, 0),
    ],
)
def test_each_starter_tells_this_processs_place(
    environ: dict[str, str],
    starter: str,
    rank: int,
    local_rank: int,
    world_size: int,
    local_world_size: int,
    node_rank: int,
) -> None:
    place = detect(environ)
    assert place[:6] == (starter, rank, local_rank, world_size, local_world_size, node_rank)


def test_the_place_says_which_variable_each_number_came_from() -> None:
    assert detect(SLURM).sources == {
        "rank": "SLURM_PROCID",
        "world_size": "SLURM_STEP_NUM_TASKS",
        "local_rank": "SLURM_LOCALID",
        "local_world_size": "SLURM_STEP_TASKS_PER_NODE",
        "node_rank": "SLURM_STEP_NODELIST",
    }


@pytest.mark.parametrize(
    ("environ", "kind", "words"),
    [
        (
            {"RANK": "3", "WORLD_SIZE": "2"},
            EnvironmentMismatch,
            ["RANK=3", "WORLD_SIZE=2", "0 to 1"],
        ),
        ({"RANK": "3"}, UsageError, ["RANK=3 is set", "WORLD_SIZE is not", "unset RANK"]),
        ({"WORLD_SIZE": "2"}, UsageError, ["WORLD_SIZE=2", "RANK", "python -m launcher"]),
        ({"RANK": "one", "WORLD_SIZE": "2"}, UsageError, ["RANK='one' is not a number"]),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, UsageError, ["RANK='-1'"]),
        ({"RANK": "0", "WORLD_SIZE": "0"}, UsageError, ["WORLD_SIZE='0' is not a number from 1"]),
        ({"RANK": "0", "WORLD_SIZE": "²"}, UsageError, ["WORLD_SIZE='²'"]),
        (
            {**SERVICE, "LOCAL_RANK": "2"},
            EnvironmentMismatch,
            ["LOCAL_RANK=2", "LOCAL_WORLD_SIZE=2"],
        ),
        (
            {**SERVICE, "LOCAL_WORLD_SIZE": "8"},
            EnvironmentMismatch,
            ["LOCAL_WORLD_SIZE=8", "WORLD_SIZE=4"],
        ),
        (
            {"OMPI_COMM_WORLD_RANK": "1"},
            UsageError,
            ["OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE is not"],
        ),
        ({"PMIX_RANK": "1"}, UsageError, ["PMIX_RANK=1", "mpirun"]),
        # A container that sets RANK=0 for everyone, and mpirun in it.
        (
            {**OPENMPI, "RANK": "0", "WORLD_SIZE": "1"},
            EnvironmentMismatch,
            ["RANK=0", "OMPI_COMM_WORLD_RANK=1"],
        ),
        (
            {**OPENMPI, "RANK": "0", "WORLD_SIZE": "2"},
            EnvironmentMismatch,
            ["RANK=0", "OMPI_COMM_WORLD_RANK=1"],
        ),
        (
            {**SLURM, "WORLD_SIZE": "8"},
            EnvironmentMismatch,
            ["WORLD_SIZE=8", "SLURM_STEP_NUM_TASKS=4"],
        ),
        ({**BATCH_SCRIPT, "WORLD_SIZE": "4"}, UsageError, ["WORLD_SIZE=4", "srun"]),
        ({**SLURM, "SLURM_STEP_NODELIST": "n[1-"}, UsageError, ["n[1-"]),
    ],
)
def test_values_that_cannot_be_are_named(
    environ: dict[str, str], kind: type[UsageError], words: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        detect(environ)
    assert type(caught.value) is kind
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        (OPENMPI, "127.0.0.1"),
        (SLURM, "n1"),
        ({**SLURM, "SLURM_STEP_NODELIST": "n2", "SLURM_STEP_TASKS_PER_NODE": "4"}, "127.0.0.1"),
        ({**SLURM, "MASTER_ADDR": "n1-ib"}, "n1-ib"),
        (
            {
                **OPENMPI,
                "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
                "OMPI_COMM_WORLD_LOCAL_RANK": "0",
                "MASTER_ADDR": "h1",
            },
            "h1",
        ),
    ],
)
def test_ranks_without_a_port_all_derive_the_same_one(
    environ: dict[str, str], address: str
) -> None:
    place = detect(environ)
    found, port = find_master(place, environ)
    assert found == address
    assert 20000 <= port < 32000
    for other in range(place.world_size):
        assert find_master(place._replace(rank=other), environ) == (address, port)


def test_a_given_address_and_port_are_used() -> None:
    assert find_master(detect(SERVICE), SERVICE) == ("worker-0.svc", 23456)


def test_two_steps_of_a_job_and_a_requeued_job_meet_at_other_ports() -> None:
    variants = [SLURM, {**SLURM, "SLURM_STEP_ID": "1"}, {**SLURM, "SLURM_RESTART_COUNT": "1"}]
    assert len({find_job_id(detect(environ), environ) for environ in variants}) == 3
    assert len({find_master(detect(environ), environ)[1] for environ in variants}) == 3


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        (
            {**OPENMPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
            ["MASTER_ADDR", "mpirun -x MASTER_ADDR="],
        ),
        ({**HYDRA, "MPI_LOCALNRANKS": "4"}, ["MASTER_PORT is not set", "MASTER_PORT=29500"]),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "h1"}, ["h1", "MASTER_PORT is not set"]),
        ({**SERVICE, "MASTER_PORT": "70000"}, ["MASTER_PORT='70000'", "65535"]),
    ],
)
def test_an_address_that_cannot_be_derived_is_asked_for(
    environ: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        find_master(detect(environ), environ)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({}, 0),
        (LAUNCHER, 2),
        ({"SLURM_RESTART_COUNT": "1"}, 1),
        ({"TORCHELASTIC_RESTART_COUNT": "0"}, 0),
    ],
)
def test_restarts_are_counted_by_launcher_or_scheduler(environ: dict[str, str], count: int) -> None:
    assert restart_count(environ) == count


@pytest.mark.parametrize(
    ("environ", "engine"),
    [
        ({}, ""),
        (LAUNCHER, ""),
        (SLURM, ""),
        (BATCH_SCRIPT, ""),
        (OPENMPI, "mpirun"),
        (MVAPICH, "mpirun"),
        (HYDRA, "mpirun"),
        (
            {**OPENMPI, **LAUNCHER},
            "mpirun",
        ),  # a rank of mpirun that this launcher has given the contract
        ({**OPENMPI, **DAEMON}, "mpirun"),
        ({**SLURM, "PMIX_RANK": "3"}, "srun"),
        ({**SLURM, "PMI_RANK": "3", "PMI_SIZE": "4"}, "srun"),
    ],
)
def test_mpi_is_there_where_an_engine_has_started_the_rank_for_it(
    environ: dict[str, str], engine: str
) -> None:
    assert find_mpi_engine(environ) == engine


def test_the_nodes_of_a_slurm_step_are_counted_alike_on_nodes_with_more_and_with_fewer_ranks() -> (
    None
):
    first = {**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURMD_NODENAME": "n1"}
    assert [find_nodes(detect(environ), environ) for environ in (first, SLURM)] == [(0, 2), (1, 2)]


def test_the_nodes_of_mpirun_are_known_only_where_there_is_one() -> None:
    alone = {
        "OMPI_COMM_WORLD_RANK": "3",
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_LOCAL_RANK": "3",
    }
    alone["OMPI_COMM_WORLD_LOCAL_SIZE"] = "4"
    # Ranks 0, 1 and 2, 3 on two hosts, or 0, 2 and 1, 3: the variables of rank 3 are the same.
    several = {**alone, "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    assert find_nodes(detect(alone), alone) == (0, 1)
    assert find_nodes(detect(several), several) is None


@pytest.mark.parametrize(
    "environ",
    [
        {},
        LAUNCHER,
        TORCHRUN,
        SERVICE,
        {"RANK": "x"},
        {"WORLD_SIZE": "8"},
        {"RANK": "3"},
        BATCH_SCRIPT,
    ],
)
def test_without_an_engine_the_launcher_is_no_rank_whatever_somebody_has_exported(
    environ: dict[str, str],
) -> None:
    assert detect_engine(environ) == Place("none")


@pytest.mark.parametrize("environ", [OPENMPI, MVAPICH, HYDRA, SLURM, {**OPENMPI, **LAUNCHER}])
def test_with_an_engine_the_launcher_has_the_place_that_a_script_has(
    environ: dict[str, str],
) -> None:
    assert detect_engine(environ) == detect(environ)


@pytest.mark.parametrize(
    "left", [{"RANK": "3"}, {"WORLD_SIZE": "8"}, {"RANK": "0", "WORLD_SIZE": "8"}]
)
def test_one_process_of_an_engine_starts_workers_whatever_somebody_has_exported(
    left: dict[str, str],
) -> None:
    place = detect_engine(
        {**BATCH_SCRIPT, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", **left}
    )
    assert (place.starter, place.rank, place.world_size) == ("slurm", 0, 1)


@pytest.mark.parametrize(
    ("engine", "rank"), [(OPENMPI, "OMPI_COMM_WORLD_RANK"), (SLURM, "SLURM_PROCID")]
)
def test_a_wrapper_that_repeats_an_engines_numbers_changes_nothing(
    engine: dict[str, str], rank: str
) -> None:
    """Else each rank would be a run of its own, with a world of one."""
    place = detect_engine(engine)
    repeated = {
        **engine,
        "RANK": engine[rank],
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_RANK": str(place.local_rank),
    }
    assert detect_engine(repeated) == place
