"""Which node a launcher is on, by the variables of whoever started one on each: environment in."""

from __future__ import annotations

import json

import pytest

from launcher.errors import EnvironmentMismatch, UsageError
from launcher.starters.meeting import derive_port
from launcher.starters.nodes import find_placement

# Open MPI 4.1 with --map-by ppr:1:node on h1, h2, h3; mpirun runs on h1. As seen on h2.
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_COMM_WORLD_NODE_RANK": "0",
    "OMPI_MCA_orte_hnp_uri": "2594897920.0;tcp://10.77.0.1:35159",
    "OMPI_MCA_orte_local_daemon_uri": "2594897920.1;tcp://10.77.0.2:45207",
    "OMPI_MCA_orte_node_regex": "h[1:1-3]@0(3)",
    "OMPI_MCA_orte_precondition_transports": "14b923adc45c3237-a6476050f014530d",
    "PMIX_NAMESPACE": "2594897921",
    "PMIX_RANK": "1",
    "PMIX_SERVER_URI41": "2594897920.1;tcp4://127.0.0.1:60361",
}
# Open MPI 5: the daemons' names are not told, but the job is named after the host of mpirun.
OPENMPI_5 = {
    **{name: value for name, value in OPENMPI.items() if name.startswith("OMPI_COMM_")},
    "PMIX_NAMESPACE": "prterun-gpu-node-01-4711@1",
    "PMIX_RANK": "1",
    "PMIX_SERVER_URI41": "prterun-gpu-node-01-4711@0.1;tcp4://127.0.0.1:60361",
}
HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"}
WORKER = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "h1", "NODE_RANK": "1"}
SAGEMAKER = {"SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": "algo-2"}
VERTEX = {
    "CLUSTER_SPEC": json.dumps(
        {
            "cluster": {
                "workerpool0": ["cmle-training-workerpool0-ab-0:2222"],
                "workerpool1": ["cmle-training-workerpool1-ab-0:2222", "other:2222"],
            },
            "environment": "cloud",
            "task": {"type": "workerpool1", "index": 1},
        }
    )
}


def _find(environ: dict[str, str], full_name: str = "h1") -> tuple[object, ...] | None:
    found = find_placement(environ, lambda: full_name)
    return found and (found.starter, found.num_nodes, found.node_rank, found.host)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WORLD_SIZE": "4"},
        {"RANK": "x", "WORLD_SIZE": "4"},
        {"RANK": "9", "WORLD_SIZE": "99", "LOCAL_RANK": "8", "MASTER_PORT": "1"},
        {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500", "RANK": "0", "WORLD_SIZE": "1"},
        {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "4"},
        {**WORKER, "LAUNCHER_RUN_ID": "swift-fox"},
        {**WORKER, **OPENMPI, "TORCHELASTIC_RUN_ID": "swift-fox"},
        {**OPENMPI, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        {"SM_HOSTS": '["algo-1"]', "SM_CURRENT_HOST": "algo-1"},
        {"CLUSTER_SPEC": "[]"},
        {"CLUSTER_SPEC": VERTEX["CLUSTER_SPEC"].replace('"type": "workerpool1"', '"type": "ps"')},
    ],
)
def test_a_launcher_alone_has_no_place_whatever_is_left_over(environ: dict[str, str]) -> None:
    assert _find(environ) is None


@pytest.mark.parametrize(
    ("changes", "host"),
    [
        ({}, "10.77.0.1"),
        ({"MASTER_ADDR": "h1-ib"}, "h1-ib"),
        ({"AZ_BATCH_MASTER_NODE": "10.0.0.4:6105"}, "10.0.0.4"),
        # Which of its addresses the others can reach, its daemons have tried, and we shall.
        (
            {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.77.0.1,192.168.5.1:35159;tcp6://[fd00::1]:44"},
            "10.77.0.1,192.168.5.1,fd00::1",
        ),
        # mpirun runs on a host that takes no part: daemon 2 has launcher 1, so launcher 0 has 1.
        ({"PMIX_SERVER_URI41": "2594897920.2;tcp4://127.0.0.1:50883"}, "h2"),
        (
            {
                "PMIX_SERVER_URI41": "2594897920.2;tcp4://127.0.0.1:50883",
                "OMPI_MCA_orte_node_regex": "login,gpu[3:7,9-10]-ib,[2:10].77.0.9@0(4),-1(1)",
            },
            "gpu007-ib",
        ),
        (
            {
                "PMIX_SERVER_URI41": "2594897920.2;tcp4://127.0.0.1:50883",
                "OMPI_MCA_orte_node_regex": "login,a,b,c@0,-1(1),1(2)",
            },
            "b",
        ),
        (
            {
                "PMIX_SERVER_URI41": "2594897920.2;tcp4://127.0.0.1:50883",
                "OMPI_MCA_orte_node_regex": "[2:10].77.0.8,[2:10].77.0.9@0(2)",
            },
            "10.77.0.9",
        ),
        (
            {
                "PMIX_SERVER_URI41": "2594897920.2;tcp4://127.0.0.1:50883",
                "OMPI_MCA_orte_node_regex": "what nobody[x writes",
            },
            "",
        ),
    ],
)
def test_under_open_mpi_the_launchers_meet_where_the_first_one_is(
    changes: dict[str, str], host: str
) -> None:
    environ = {**OPENMPI, **changes}
    assert _find(environ) == ("mpirun", 3, 1, host)


def test_under_open_mpi_the_job_gives_its_name_a_port_and_a_secret() -> None:
    found = find_placement(OPENMPI, lambda: "h2")
    assert found is not None
    assert (found.job, found.port) == ("2594897921", derive_port("2594897921"))
    assert found.secret == OPENMPI["OMPI_MCA_orte_precondition_transports"]
    assert (found.master_addr, found.master_port) == ("", 0)
    assert found.sources == {
        "num_nodes": "OMPI_COMM_WORLD_SIZE",
        "node_rank": "OMPI_COMM_WORLD_RANK",
        "host": "OMPI_MCA_orte_hnp_uri",
    }


def test_what_mpirun_passes_on_for_the_workers_is_theirs() -> None:
    found = find_placement({**OPENMPI, "MASTER_ADDR": "h1", "MASTER_PORT": "29500"}, lambda: "h2")
    assert found is not None
    assert (found.host, found.master_addr, found.master_port) == ("h1", "h1", 29500)


@pytest.mark.parametrize(
    ("changes", "host"),
    [
        ({}, "gpu-node-01"),
        # mpirun's host takes no part, and nothing names the first one that does.
        ({"PMIX_SERVER_URI41": "prterun-gpu-node-01-4711@0.2;tcp4://127.0.0.1:1"}, ""),
        ({"PMIX_NAMESPACE": "4711"}, ""),
    ],
)
def test_open_mpi_5_names_its_job_after_the_host_of_mpirun(
    changes: dict[str, str], host: str
) -> None:
    assert _find({**OPENMPI_5, **changes}) == ("mpirun", 3, 1, host)


def test_under_mpich_nothing_says_where_the_others_are() -> None:
    assert _find(HYDRA) == ("mpirun", 3, 2, "")
    assert _find({**HYDRA, "MASTER_ADDR": "h1"}) == ("mpirun", 3, 2, "h1")


def test_several_ranks_on_a_host_are_no_launchers_of_nodes() -> None:
    assert _find({**OPENMPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}) is None


@pytest.mark.parametrize(
    ("environ", "number", "rank", "world_size"),
    [
        # One process for each node: Azure ML, PyTorchJob, Volcano, Vertex AI's older sister.
        ({"NODE_RANK": "1", "WORLD_SIZE": "2"}, None, 1, 2),
        ({"NODE_RANK": "1", "RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, None, 1, 2),
        ({"RANK": "1", "WORLD_SIZE": "2"}, None, 1, 2),
        ({"NODE_RANK": "1", "GROUP_WORLD_SIZE": "2", "WORLD_SIZE": "16"}, 2, 1, 16),
        ({"NODE_RANK": "1", "AZUREML_NODE_COUNT": "2"}, 2, 1, 0),
        ({"NODE_RANK": "1", "NUM_NODES": "2"}, 2, 1, 0),
        ({"WORLD_SIZE": "2"}, None, None, 2),
    ],
)
def test_services_number_the_nodes_and_count_nodes_or_workers(
    environ: dict[str, str], number: int | None, rank: int | None, world_size: int
) -> None:
    master = {"MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}
    found = find_placement({**environ, **master, "AZUREML_RUN_ID": "fox"}, lambda: "h2")
    assert found is not None
    assert (found.num_nodes, found.node_rank, found.world_size) == (number, rank, world_size)
    assert (found.host, found.master_addr, found.master_port) == (
        "job-master-0",
        "job-master-0",
        23456,
    )
    assert (found.port, found.job) == (0, "fox")


def test_launchers_on_loopback_are_nodes_where_they_are_numbered_as_such() -> None:
    environ = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "RANK": "1"}
    assert _find(environ) is None
    assert _find({**environ, "NODE_RANK": "1"}) == ("the environment", None, 1, "127.0.0.1")


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"NODE_RANK": "2", "WORLD_SIZE": "2"}, ["NODE_RANK=2", "WORLD_SIZE=2", "0 to 1"]),
        ({"NODE_RANK": "2", "NNODES": "2"}, ["NODE_RANK=2", "NNODES=2"]),
        ({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}, ["LOCAL_RANK=1", "--nproc-per-node"]),
        (
            {"RANK": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"},
            ["LOCAL_WORLD_SIZE=2"],
        ),
    ],
)
def test_numbers_that_do_not_go_together_are_named(
    environ: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(EnvironmentMismatch) as caught:
        find_placement({**environ, "MASTER_ADDR": "h1"}, lambda: "h1")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (SAGEMAKER, ("SageMaker", 2, 1, "algo-1")),
        ({**SAGEMAKER, "MASTER_ADDR": "10.0.0.1"}, ("SageMaker", 2, 1, "10.0.0.1")),
        (VERTEX, ("Vertex AI", 3, 2, "cmle-training-workerpool0-ab-0")),
        ({**OPENMPI, **SAGEMAKER}, ("mpirun", 3, 1, "10.77.0.1")),
    ],
)
def test_services_that_list_their_hosts(
    environ: dict[str, str], expected: tuple[object, ...]
) -> None:
    assert _find(environ) == expected


def test_a_list_of_hosts_that_cannot_be_read_is_named() -> None:
    with pytest.raises(UsageError, match="SM_HOSTS is not JSON"):
        find_placement({**SAGEMAKER, "SM_HOSTS": "algo-1"}, lambda: "algo-1")


@pytest.mark.parametrize(
    ("full_name", "host"),
    [
        (
            "train-1.train-svc.default.svc.cluster.local",
            "train-0.train-svc.default.svc.cluster.local",
        ),
        # Without a headless service as the pods' subdomain they have no names for each other.
        ("train-1", ""),
        ("node-7.example.org", ""),  # hostNetwork
    ],
)
def test_a_pod_of_an_indexed_job_knows_its_index_and_the_name_of_the_first(
    full_name: str, host: str
) -> None:
    environ = {"JOB_COMPLETION_INDEX": "1"}
    assert _find(environ, full_name) == ("Kubernetes", None, 1, host)
    named = {**environ, "MASTER_ADDR": "train-0.train-svc"}
    assert _find(named, full_name) == ("Kubernetes", None, 1, "train-0.train-svc")
