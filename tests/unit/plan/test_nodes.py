"""How many nodes a run has and where they meet: flags first, then what a starter says."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import EnvironmentMismatch, UsageError
from launcher.options.spec import LaunchSpec
from launcher.plan.nodes import NodeGroup, find_nodes, find_nodes_of_ranks
from launcher.ranks import Place
from launcher.starters.meeting import derive_port

MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_MCA_orte_hnp_uri": "2594897920.0;tcp://10.77.0.1:35159",
    "OMPI_MCA_orte_precondition_transports": "14b923adc45c3237-a6476050f014530d",
    "PMIX_NAMESPACE": "2594897921",
    "PMIX_SERVER_URI41": "2594897920.1;tcp4://127.0.0.1:60361",
}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "3", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"}
SERVICE = {"MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456", "NODE_RANK": "1"}


def _find(environ: dict[str, str], **options: object) -> NodeGroup | None:
    provenance = {name: "--" + name.replace("_", "-") for name in options}
    return find_nodes(LaunchSpec(script="train.py", **options, provenance=provenance), environ)


def _group(environ: dict[str, str], **options: object) -> NodeGroup:
    group = _find(environ, **options)
    assert group is not None
    return group


def test_one_node_needs_nobody_to_meet() -> None:
    assert _find({}) is None
    assert _find({}, nnodes="1", rdzv_endpoint="h1:29400") is None
    assert _find(MPIRUN, standalone=True) is None


@pytest.mark.parametrize("stale", [{"WORLD_SIZE": "4"}, {"RANK": "3", "WORLD_SIZE": "2"}])
def test_a_number_that_is_left_over_means_nothing_beside_one_that_was_typed(
    stale: dict[str, str],
) -> None:
    assert _find(stale, nproc_per_node="2") is None
    with pytest.raises(EnvironmentMismatch) as caught:
        _find(stale)
    for word in (f"WORLD_SIZE={stale['WORLD_SIZE']} is set", "--nproc-per-node", "unset"):
        assert word in str(caught.value)


def test_a_launcher_that_a_worker_starts_makes_a_run_of_its_own() -> None:
    worker = {"RANK": "1", "WORLD_SIZE": "2", "LAUNCHER_RUN_ID": "fox", "NODE_RANK": "0"}
    assert _find(worker) is None
    assert _find({**worker, **SERVICE}) is None


def test_several_nodes_by_hand_need_a_place_to_meet() -> None:
    with pytest.raises(UsageError) as caught:
        _find({}, nnodes="2")
    assert "needs to know where the nodes meet" in str(caught.value)
    assert "--nnodes 2 --rdzv-endpoint HOST:29400 train.py" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "host", "port", "is_host", "master"),
    [
        ({"rdzv_endpoint": "h1:1234"}, "h1", 1234, None, ("", 0)),
        ({"rdzv_endpoint": "h1", "node_rank": 0}, "h1", 29400, None, ("", 0)),
        ({"rdzv_endpoint": "h1", "rdzv_conf": "is_host=1"}, "h1", 29400, True, ("", 0)),
        ({"master_addr": "h1", "node_rank": 0}, "h1", 29400, True, ("h1", 0)),
        ({"master_addr": "h1", "node_rank": 1, "master_port": 500}, "h1", 501, False, ("h1", 500)),
        ({"master_addr": "h1", "master_port": 65535}, "h1", 65534, None, ("h1", 65535)),
        ({"master_addr": "h1", "master_port": 500, "control_port": 7}, "h1", 7, None, ("h1", 500)),
    ],
)
def test_by_hand_the_flags_say_where(
    options: dict[str, object], host: str, port: int, is_host: bool | None, master: tuple[str, int]
) -> None:
    group = _group({}, nnodes="2", **options)
    assert (group.host, group.port, group.is_host) == (host, port, is_host)
    assert (group.master_addr, group.master_port) == master
    assert (group.min_nodes, group.max_nodes, group.run_id) == (2, 2, "none")


def test_under_mpirun_nothing_has_to_be_typed() -> None:
    group = _group(MPIRUN, nproc_per_node="8")
    assert (group.min_nodes, group.max_nodes, group.node_rank) == (3, 3, 1)
    assert (group.host, group.port) == ("10.77.0.1", derive_port("2594897921"))
    assert (group.is_host, group.run_id) == (False, "2594897921")
    assert group.secret == b"14b923adc45c3237-a6476050f014530d"
    assert (group.master_addr, group.master_port, group.note) == ("", 0, "")
    first = {**MPIRUN, "OMPI_COMM_WORLD_RANK": "0"}
    first["PMIX_SERVER_URI41"] = "2594897920.0;tcp4://127.0.0.1:60361"
    assert _group(first, nproc_per_node="8").is_host


def test_what_was_typed_comes_before_what_mpirun_says() -> None:
    group = _group(
        {**MPIRUN, "LAUNCHER_SECRET": "mine"},
        nproc_per_node="8",
        nnodes="3",
        node_rank=1,
        rdzv_endpoint="h2:700",
        rdzv_id="fox",
    )
    assert (group.host, group.port, group.is_host, group.run_id) == ("h2", 700, None, "fox")
    assert group.secret == b"mine"
    assert group.sources["max_nodes"] == "--nnodes"
    group = _group(MPIRUN, nproc_per_node="8", nnodes="2:3", control_port=700)
    assert (group.min_nodes, group.max_nodes, group.port) == (2, 3, 700)
    group = _group(MPIRUN, nproc_per_node="8", nnodes="1:2")  # the third is a spare
    assert (group.min_nodes, group.max_nodes) == (1, 2)


@pytest.mark.parametrize(
    ("environ", "options", "words"),
    [
        (
            MPIRUN,
            {"nnodes": "2"},
            ["--nnodes 2", "3 nodes", "mpirun", "OMPI_COMM_WORLD_SIZE", "--nnodes 3"],
        ),
        (MPIRUN, {"nnodes": "4:5"}, ["--nnodes 4:5", "3 nodes"]),
        (MPIRUN, {"nnodes": "1"}, ["--nnodes 1", "3 nodes", "--standalone"]),
        (
            MPIRUN,
            {"nnodes": "3", "node_rank": 2},
            ["--node-rank 2", "OMPI_COMM_WORLD_RANK=1", "Leave --node-rank out"],
        ),
        ({**SERVICE, "NNODES": "3"}, {"nnodes": "2"}, ["--nnodes 2", "3 nodes", "NNODES"]),
        (SERVICE, {"nnodes": "1"}, ["--nnodes 1", "number 1", "NODE_RANK", "--nnodes 2"]),
        (
            {**SERVICE, "WORLD_SIZE": "6"},
            {"nnodes": "2", "nproc_per_node": "8"},
            ["WORLD_SIZE=6", "2 by --nnodes", "16 with --nproc-per-node 8", "unset WORLD_SIZE"],
        ),
        (
            {**SERVICE, "WORLD_SIZE": "6", "NUM_NODES": "2"},
            {"nproc_per_node": "8"},
            ["WORLD_SIZE=6", "2 by NUM_NODES"],
        ),
        # Either could be meant, so neither is done.
        (
            {**SERVICE, "WORLD_SIZE": "16"},
            {"nproc_per_node": "8"},
            [
                "WORLD_SIZE=16 and --nproc-per-node 8 can mean 16 nodes",
                "16 workers on 2 nodes",
                "--nnodes 16 --nproc-per-node 8 train.py",
                "--nnodes 2 --nproc-per-node 8 train.py",
            ],
        ),
        (
            {**SERVICE, "WORLD_SIZE": "2"},
            {"nproc_per_node": "2"},
            ["WORLD_SIZE=2", "2 workers on 1 node.", "--nnodes 2", "--nnodes 1"],
        ),
        # Nobody says how many: each would train alone.
        (SERVICE, {"nproc_per_node": "2"}, ["NODE_RANK=1", "not of how many", "--nnodes 2"]),
        (
            {**SERVICE, "NODE_RANK": "0"},
            {"nproc_per_node": "2"},
            ["NODE_RANK=0", "not of how many"],
        ),
        ({"NODE_RANK": "3"}, {"nproc_per_node": "2"}, ["NODE_RANK=3", "--nnodes 4"]),
        ({"MASTER_ADDR": "h1", "RANK": "1"}, {"nproc_per_node": "2"}, ["RANK=1", "--nnodes 2"]),
        (
            {"MASTER_ADDR": "h1", "WORLD_SIZE": "4"},
            {"nproc_per_node": "2"},
            ["WORLD_SIZE=4", "MASTER_ADDR=h1", "NODE_RANK"],
        ),
    ],
)
def test_what_does_not_go_together_is_named_with_what_to_type(
    environ: dict[str, str], options: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(EnvironmentMismatch) as caught:
        _find(environ, **options)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("engine", [HYDRA, {**MPIRUN, "OMPI_MCA_orte_hnp_uri": ""}])
def test_launchers_that_are_not_told_where_to_meet_are_told_what_to_type(
    engine: dict[str, str],
) -> None:
    with pytest.raises(UsageError) as caught:
        _find(engine, nproc_per_node="8")
    assert "mpirun has started a launcher on each node, and does not say where" in str(caught.value)
    assert "launcher --nproc-per-node 8 --rdzv-endpoint HOST:29400 train.py" in str(caught.value)
    group = _group(engine, nproc_per_node="8", rdzv_endpoint="h1")
    assert (group.host, group.node_rank, group.max_nodes) == ("h1", 1, 3)


@pytest.mark.parametrize(
    ("environ", "options", "number"),
    [
        ({"WORLD_SIZE": "2"}, {"nproc_per_node": "8"}, 2),
        ({"WORLD_SIZE": "12"}, {"nproc_per_node": "8"}, 12),
        ({"WORLD_SIZE": "3"}, {}, 3),
    ],
)
def test_a_world_size_that_can_only_be_the_number_of_nodes_is_taken_as_that(
    environ: dict[str, str], options: dict[str, object], number: int
) -> None:
    group = _group({**SERVICE, **environ}, **options)
    assert (group.max_nodes, group.node_rank) == (number, 1)
    assert group.note == f"WORLD_SIZE={number} is taken as the number of nodes"
    assert (group.host, group.port, group.is_host) == ("job-master-0", 23457, False)
    assert (group.master_addr, group.master_port) == ("job-master-0", 23456)


@pytest.mark.parametrize("world_size", ["2", "16"])
@pytest.mark.parametrize(
    ("environ", "options"),
    [
        ({}, {"nnodes": "2"}),
        ({"GROUP_WORLD_SIZE": "2"}, {}),
        ({"AZUREML_NODE_COUNT": "2"}, {}),
        ({"SM_HOSTS": '["a", "b"]', "SM_CURRENT_HOST": "b"}, {}),
    ],
)
def test_where_the_nodes_are_counted_the_world_size_may_count_them_or_their_workers(
    environ: dict[str, str], options: dict[str, object], world_size: str
) -> None:
    environ = {**SERVICE, "WORLD_SIZE": world_size, **environ}
    group = _group(environ, nproc_per_node="8", **options)
    assert (group.min_nodes, group.max_nodes, group.node_rank, group.note) == (2, 2, 1, "")


@pytest.mark.parametrize(
    "environ",
    [
        {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "RANK": "0", "WORLD_SIZE": "2"},
        {"MASTER_ADDR": "10.0.0.1", "WORLD_SIZE": "2"},
        {**SERVICE, "NODE_RANK": "0", "WORLD_SIZE": "1"},
        {"MASTER_ADDR": "10.0.0.1"},
        {"MASTER_ADDR": "10.0.0.1", "RANK": "0"},
        {"NODE_RANK": "0"},
        {"JOB_COMPLETION_INDEX": "3"},  # pods may as well be runs of their own
    ],
)
def test_variables_of_a_single_node_do_not_make_it_several(environ: dict[str, str]) -> None:
    assert _find(environ, nproc_per_node="2") is None


def _spec_of_pod(environ: dict[str, str]) -> LaunchSpec:
    return LaunchSpec.from_sources({}, environ, script="train.py", script_args=())


def test_the_training_operator_sets_torchruns_variables() -> None:
    """PyTorchJob with a master and nprocPerNode: 8; as version 1.9 sets them."""
    environ = {
        "MASTER_ADDR": "job-master-0",
        "MASTER_PORT": "23456",
        "RANK": "1",
        "WORLD_SIZE": "16",
        "PET_MASTER_ADDR": "job-master-0",
        "PET_MASTER_PORT": "23456",
        "PET_NODE_RANK": "1",
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "8",
    }
    group = find_nodes(_spec_of_pod(environ), environ)
    assert group is not None
    assert (group.max_nodes, group.node_rank, group.is_host) == (2, 1, False)
    assert (group.host, group.port) == ("job-master-0", 23457)
    assert (group.master_addr, group.master_port) == ("job-master-0", 23456)


def test_the_training_operator_s_elastic_jobs_meet_at_an_endpoint() -> None:
    environ = {
        "PET_RDZV_ENDPOINT": "job-worker-0:23456",
        "PET_RDZV_BACKEND": "c10d",
        "PET_NNODES": "1:3",
        "PET_MAX_RESTARTS": "10",
        "PET_NPROC_PER_NODE": "2",
    }
    group = find_nodes(_spec_of_pod(environ), environ)
    assert group is not None
    assert (group.min_nodes, group.max_nodes, group.node_rank) == (1, 3, None)
    assert (group.host, group.port, group.is_host) == ("job-worker-0", 23456, None)


def test_the_trainer_gives_the_index_of_a_pod_as_its_rank() -> None:
    """TrainJob, as version 2 of the trainer sets them; the index is the Job's own."""
    environ = {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "2",
        "PET_NODE_RANK": "0",
        "PET_MASTER_ADDR": "job-node-0-0.job",
        "PET_MASTER_PORT": "29500",
        "JOB_COMPLETION_INDEX": "0",
    }
    group = find_nodes(_spec_of_pod(environ), environ)
    assert group is not None
    assert (group.node_rank, group.is_host, group.host) == (0, True, "job-node-0-0.job")


def test_an_indexed_job_needs_only_the_number_of_its_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "train-1.train.default.svc.cluster.local"
    monkeypatch.setattr("launcher.plan.nodes.read_full_name", lambda: name)
    group = _group({"JOB_COMPLETION_INDEX": "1"}, nnodes="4", nproc_per_node="8")
    assert (group.max_nodes, group.node_rank, group.is_host) == (4, 1, False)
    assert (group.host, group.port) == ("train-0.train.default.svc.cluster.local", 29400)
    monkeypatch.setattr("launcher.plan.nodes.read_full_name", lambda: "train-1")
    with pytest.raises(UsageError, match="--nnodes 4 --nproc-per-node 8 --rdzv-endpoint HOST"):
        _find({"JOB_COMPLETION_INDEX": "1"}, nnodes="4", nproc_per_node="8")


def test_the_hosts_of_ranks_meet_where_rank_0_is_in_the_order_of_their_first_ranks() -> None:
    environ = {**MPIRUN, "OMPI_MCA_orte_num_nodes": "2"}
    groups = []
    for rank in (0, 3):
        first = Place("openmpi", rank=rank, world_size=6, local_world_size=3)
        groups.append(find_nodes_of_ranks(LaunchSpec(script="train.py"), first, environ))
    assert [group and (group.node_rank, group.is_host) for group in groups] == [
        (0, True),
        (3, False),
    ]
    for group in groups:
        assert group is not None
        assert (group.min_nodes, group.max_nodes, group.host) == (2, 2, "10.77.0.1")
        assert group.secret == b"14b923adc45c3237-a6476050f014530d"
        assert (group.has_id, group.join_timeout_s) == (False, 60.0)
    alone = Place("openmpi", world_size=6, local_world_size=6)
    assert find_nodes_of_ranks(LaunchSpec(script="train.py"), alone, environ) is None


@pytest.mark.parametrize(
    ("mode", "text", "words"),
    [
        (0o644, "secret", ["others may read it", "chmod 600"]),
        (0o600, "", ["is empty", "urandom"]),
        (None, "", ["cannot be read"]),
    ],
)
def test_a_secret_must_be_one(
    tmp_path: Path, mode: int | None, text: str, words: list[str]
) -> None:
    path = tmp_path / "secret"
    if mode is not None:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(UsageError) as caught:
        _find({}, nnodes="2", rdzv_endpoint="h1", secret_file=str(path))
    for word in words:
        assert word in str(caught.value)


def test_the_secret_of_a_file_comes_before_that_of_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("from a file\n")
    path.chmod(0o600)
    environ = {"LAUNCHER_SECRET": "from a variable"}
    assert _group(environ, nnodes="2", rdzv_endpoint="h1").secret == b"from a variable"
    options = {"nnodes": "2", "rdzv_endpoint": "h1", "secret_file": str(path)}
    assert _group(environ, **options).secret == b"from a file"
