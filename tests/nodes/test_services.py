"""Launchers on hosts whose variables a service has set: they are one run, or say what is not clear.

The variables are those that the services' documentation and source code name; none of the services
is here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.conftest import Completed, Script, command
from tests.lab.lab import Lab

SAY_PLACE = """
import os
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
print(os.uname().nodename, *(os.environ[name] for name in names))
"""

MASTER = {"MASTER_ADDR": "h1", "MASTER_PORT": "23456"}
SECRET = {"LAUNCHER_SECRET": "word"}

VERTEX = {
    "cluster": {"workerpool0": ["h1:2222"], "workerpool1": ["h2:2222"]},
    "environment": "cloud",
}


def _run(
    lab: Lab, script: Script, options: Sequence[str], environs: Sequence[dict[str, str]]
) -> list[Completed]:
    """Run the launcher on as many hosts as there are environments."""
    argv = command(*options, script(SAY_PLACE))
    running = [
        lab.hosts[index].start(*argv, env={**SECRET, **environ})
        for index, environ in enumerate(environs)
    ]
    return [each.finish() for each in running]


@pytest.mark.parametrize(
    ("service", "note"),
    [
        # One process for each node, and WORLD_SIZE counts them: Volcano, PAI, AI Platform.
        (lambda node: {**MASTER, "RANK": str(node), "WORLD_SIZE": "2"}, True),
        # Azure ML with one process per instance.
        (
            lambda node: {
                **MASTER,
                "NODE_RANK": str(node),
                "RANK": str(node),
                "LOCAL_RANK": "0",
                "WORLD_SIZE": "2",
                "AZUREML_NODE_COUNT": "2",
            },
            False,
        ),
        # Kubeflow's PyTorchJob, where WORLD_SIZE counts workers.
        (
            lambda node: {
                **MASTER,
                **{f"PET_{name}": value for name, value in MASTER.items()},
                "RANK": str(node),
                "WORLD_SIZE": "6",
                "PET_NNODES": "2",
                "PET_NODE_RANK": str(node),
                "PET_NPROC_PER_NODE": "3",
            },
            False,
        ),
    ],
    ids=["volcano", "azure ml", "pytorchjob"],
)
def test_what_a_service_sets_makes_one_run(
    lab: Lab, script: Script, service: Any, note: bool
) -> None:
    jobs = _run(lab, script, ("--nproc-per-node", "3"), [service(0), service(1)])
    for node, done in enumerate(jobs):
        assert done.code == 0, done.err
        ranks = range(3 * node, 3 * node + 3)
        assert done.lines == [
            f"[h{node + 1}:{rank}] h{node + 1} {rank} {rank % 3} 6 {node} h1 23456"
            for rank in ranks
        ]
        said = "[launcher] WORLD_SIZE=2 is taken as the number of nodes\n"
        assert done.err == (said if note else "")


@pytest.mark.parametrize(
    "environs",
    [
        [{"SM_HOSTS": '["h1", "h2"]', "SM_CURRENT_HOST": name} for name in ("h1", "h2")],
        [
            {"CLUSTER_SPEC": json.dumps({**VERTEX, "task": {"type": pool, "index": 0}})}
            for pool in ("workerpool0", "workerpool1")
        ],
    ],
    ids=["sagemaker", "vertex ai"],
)
def test_services_that_list_their_hosts_need_no_flag(
    lab: Lab, script: Script, environs: list[dict[str, str]]
) -> None:
    jobs = _run(lab, script, ("--nproc-per-node", "2"), environs)
    assert [(done.code, done.err) for done in jobs] == [(0, "")] * 2
    lines = [line.split()[:5] for done in jobs for line in done.lines]
    assert lines == [
        [f"[h{rank // 2 + 1}:{rank}]", f"h{rank // 2 + 1}", str(rank), str(rank % 2), "4"]
        for rank in range(4)
    ]


def test_a_service_that_starts_each_rank_has_them_run_in_its_processes(
    lab: Lab, script: Script
) -> None:
    environs = [
        {**MASTER, "RANK": str(2 * node), "LOCAL_RANK": "0", "WORLD_SIZE": "4"} for node in (0, 1)
    ]
    environs = [{**environ, "NODE_RANK": str(node)} for node, environ in enumerate(environs)]
    jobs = _run(lab, script, (), environs)
    assert [(done.code, done.out, done.err) for done in jobs] == [
        (0, f"h{node + 1} {2 * node} 0 4 {node} h1 23456\n", "") for node in (0, 1)
    ]


@pytest.mark.parametrize(
    ("options", "variables", "words"),
    [
        (
            ("--nproc-per-node", "2"),
            {"WORLD_SIZE": "4"},
            ["can mean 4 nodes", "4 workers on 2 nodes", "--nnodes 4", "--nnodes 2"],
        ),
        (
            ("--nproc-per-node", "2"),
            {"WORLD_SIZE": "2"},
            ["can mean 2 nodes", "2 workers on 1 node"],
        ),
        (
            ("--nproc-per-node", "2", "--nnodes", "2"),
            {"WORLD_SIZE": "6"},
            ["WORLD_SIZE=6 is neither", "2 by --nnodes", "4 with --nproc-per-node 2"],
        ),
        (("--nproc-per-node", "2"), {}, ["says that this is one of several nodes"]),
    ],
)
def test_no_node_trains_alone_where_it_is_not_clear_how_many_there_are(
    lab: Lab, script: Script, options: tuple[str, ...], variables: dict[str, str], words: list[str]
) -> None:
    environs = [{**MASTER, **variables, "NODE_RANK": str(node)} for node in (0, 1)]
    for done in _run(lab, script, options, environs):
        assert (done.code, done.out) == (2, "")
        for word in words:
            assert word in done.err


def test_a_world_size_alone_is_no_run_of_one_worker(lab: Lab, script: Script) -> None:
    (done,) = _run(lab, script, (), [{"WORLD_SIZE": "2"}])
    assert (done.code, done.out) == (2, "")
    assert "WORLD_SIZE=2 is set, and this command starts one worker" in done.err
