"""The hosts of an engine's ranks: how many there are, and where the supervisors meet."""

from __future__ import annotations

import pytest

from launcher.ranks import Place
from launcher.starters.rank_nodes import place_ranks

# mpirun -np 4 -H h1:2,h2:2, as rank 2 finds it on h2.
OPENMPI = {
    "OMPI_MCA_orte_num_nodes": "2",
    "OMPI_MCA_orte_hnp_uri": "2594897920.0;tcp://10.77.0.1:35159",
    "OMPI_MCA_orte_node_regex": "h[1:1-2]@0(2)",
    "OMPI_MCA_orte_precondition_transports": "14b923adc45c3237-a6476050f014530d",
    "PMIX_NAMESPACE": "2594897921",
}
SLURM = {"SLURM_JOB_ID": "71", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "n[1-2]"}


def _place(starter: str, local: int = 2) -> Place:
    return Place(starter, rank=2, local_rank=0, world_size=4, local_world_size=local)


def test_open_mpi_counts_the_hosts_and_names_those_where_rank_0_may_be() -> None:
    found = place_ranks(_place("openmpi"), OPENMPI)
    assert found is not None
    assert (found.starter, found.num_nodes, found.node_rank) == ("mpirun", 2, None)
    assert found.host == "10.77.0.1,h2"
    assert (found.job, found.is_named) == ("2594897921", False)
    assert found.secret == OPENMPI["OMPI_MCA_orte_precondition_transports"]
    # On the host of mpirun itself the names are not told; rank 0 is there, or it knows better.
    first = {name: value for name, value in OPENMPI.items() if "regex" not in name}
    here = place_ranks(_place("openmpi"), first)
    assert here is not None
    assert (here.host, here.port, here.job) == ("10.77.0.1", found.port, found.job)


def test_slurm_s_first_node_has_rank_0() -> None:
    found = place_ranks(_place("slurm"), SLURM)
    assert found is not None
    assert (found.starter, found.num_nodes, found.host) == ("srun", 2, "n1")
    assert (found.job, found.secret) == ("71.0", "")
    again = place_ranks(_place("slurm"), {**SLURM, "SLURM_RESTART_COUNT": "1"})
    assert again is not None and again.port != found.port


def test_an_address_of_the_user_s_comes_first() -> None:
    environ = {**SLURM, "MASTER_ADDR": "n1-ib", "MASTER_PORT": "29500"}
    found = place_ranks(_place("slurm"), environ)
    assert found is not None
    assert (found.host, found.master_addr, found.master_port) == ("n1-ib", "n1-ib", 29500)


@pytest.mark.parametrize(
    ("starter", "environ"),
    [
        ("openmpi", {**OPENMPI, "OMPI_MCA_orte_num_nodes": ""}),  # Open MPI 5
        ("openmpi", {"OMPI_MCA_orte_num_nodes": "2", "PMIX_NAMESPACE": "1"}),
        ("mpich", {}),
        ("horovod", {}),
        ("slurm", {**SLURM, "SLURM_DISTRIBUTION": "arbitrary"}),
        ("slurm", {}),
    ],
)
def test_where_too_little_is_known_each_host_is_alone(
    starter: str, environ: dict[str, str]
) -> None:
    assert place_ranks(_place(starter), environ) is None


def test_ranks_of_one_host_have_nobody_to_find() -> None:
    assert place_ranks(_place("openmpi", local=4), OPENMPI) is None
