"""Steps of Slurm with one launcher on each node: values that were seen in such steps."""

from __future__ import annotations

import pytest

from launcher.errors import EnvironmentMismatch, UsageError
from launcher.starters.placement import Placement
from launcher.starters.slurm_nodes import place_slurm

# As `srun -N3 --ntasks-per-node=1` sets them on the second of its nodes, in an allocation of five.
STEP = {
    "SLURM_JOB_ID": "71",
    "SLURM_STEP_ID": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "3",
    "SLURM_NNODES": "5",
    "SLURM_JOB_NODELIST": "n[1-5]",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
    "SLURM_STEP_NODELIST": "n[2,4-5]",
    "SLURMD_NODENAME": "n4",
}


def _place(**changes: str | None) -> Placement:
    environ = {name: value for name, value in {**STEP, **changes}.items() if value is not None}
    placement = place_slurm(environ)
    assert placement is not None
    return placement


def test_a_launcher_learns_its_node_among_those_of_the_step_and_not_of_the_job() -> None:
    placement = _place()
    assert (placement.starter, placement.num_nodes, placement.node_rank) == ("srun", 3, 1)
    assert (placement.host, placement.job) == ("n2", "71.2")
    assert (placement.master_addr, placement.master_port) == ("", 0)
    assert placement.sources["node_rank"] == "SLURM_STEP_NODELIST"


def test_all_nodes_of_a_step_derive_the_same_meeting_place() -> None:
    places = [
        _place(SLURMD_NODENAME=name, SLURM_PROCID=str(rank))
        for rank, name in enumerate(("n2", "n4", "n5"))
    ]
    assert [place.node_rank for place in places] == [0, 1, 2]
    assert len({(place.host, place.port, place.job) for place in places}) == 1


@pytest.mark.parametrize(
    "other",
    [{"SLURM_JOB_ID": "72"}, {"SLURM_STEP_ID": "3"}],
    ids=["another job", "another step at the same time"],
)
def test_other_runs_meet_at_other_ports_under_other_names(other: dict[str, str]) -> None:
    mine, its = _place(), _place(**other)
    assert mine.port != its.port
    assert mine.job != its.job


def test_after_a_requeue_a_run_has_its_name_and_meets_at_another_port() -> None:
    first, again = _place(), _place(SLURM_RESTART_COUNT="1")
    assert first.job == again.job
    assert first.port != again.port


def test_a_port_lies_below_those_that_the_kernel_gives_to_outgoing_connections() -> None:
    ports = [_place(SLURM_JOB_ID=str(job)).port for job in range(1000)]
    assert min(ports) > 1024 and max(ports) < 32768


def test_an_address_for_all_tasks_takes_the_place_of_the_name_that_slurm_has() -> None:
    placement = _place(MASTER_ADDR="10.0.0.2", MASTER_PORT="29500")
    assert (placement.host, placement.master_addr, placement.master_port) == (
        "10.0.0.2",
        "10.0.0.2",
        29500,
    )
    assert placement.port == _place().port
    assert placement.sources["host"] == "MASTER_ADDR"


def test_a_node_that_is_called_otherwise_in_the_list_counts_by_its_task() -> None:
    placement = _place(SLURMD_NODENAME="n4.cluster.org", SLURM_PROCID="1")
    assert (placement.node_rank, placement.sources["node_rank"]) == (1, "SLURM_PROCID")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_ID": "71", "SLURM_JOB_NODELIST": "n[1-5]", "SLURM_PROCID": "0"},
        {**STEP, "SLURM_STEP_ID": "4294967291"},
        {**STEP, "SLURM_STEP_NODELIST": "n4", "SLURM_STEP_TASKS_PER_NODE": "1"},
    ],
    ids=["no Slurm", "a batch script", "the batch step", "one node"],
)
def test_where_slurm_has_started_one_launcher_it_says_nothing(environ: dict[str, str]) -> None:
    assert place_slurm(environ) is None


def test_nodes_with_different_numbers_of_tasks_cannot_have_one_launcher_each() -> None:
    with pytest.raises(EnvironmentMismatch, match=r"3 launchers on 2 nodes") as caught:
        _place(SLURM_STEP_NODELIST="n[4-5]", SLURM_STEP_TASKS_PER_NODE="1,2")
    assert "SLURM_STEP_TASKS_PER_NODE=1,2" in caught.value.message
    assert "srun --nodes=2 --ntasks-per-node=1" in caught.value.hint


def test_a_port_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="MASTER_PORT='many'"):
        _place(MASTER_PORT="many")
