"""Workers that stand for processes of an engine: each has what its process was given."""

from __future__ import annotations

from typing import Any

from launcher.contract.files import RunPaths
from launcher.options.spec import LaunchSpec
from launcher.plan.node import NodeFacts
from launcher.plan.plan import WorkerPlan, make_plan, plan_replacement
from launcher.plan.task import Task
from launcher.ranks import Assignment, Place
from launcher.runs.folder import NO_JOB, SlurmJob
from launcher.system.inheritance import Inheritance

# What the supervisor has: the environment of one of the processes.
OURS = {"OMPI_COMM_WORLD_RANK": "0", "HOME": "/root", "ONLY_HERE": "1"}


def task(rank: int, environ: dict[str, str], *args: str) -> Task:
    place = Place("openmpi", rank, rank, 2, 2, num_nodes=1)
    inherited = Inheritance(0o22, 0, (0, 1), (), ())
    return Task(place, args, environ, inherited, (0, 1, 2), (3,))


def plan(
    tasks: list[Task],
    environ: dict[str, str] | None = None,
    master: str = "127.0.0.1",
    job: SlurmJob = NO_JOB,
    **options: Any,
) -> tuple[WorkerPlan, ...]:
    spec = LaunchSpec(**{"script": "train.py", **options})
    facts = NodeFacts(
        run_id="id",
        mark="mark",
        paths=RunPaths("/runs/id", "/runs/id/logs", len(tasks)),
        usable_cpus=4,
        gpus=(),
        hostname="here",
        environ=OURS if environ is None else environ,
        local_world_size=len(tasks),
        tasks=tuple(tasks),
        job=job,
    )
    places = tuple(task.place for task in tasks)
    return make_plan(spec, Assignment(0, places, master, 5000), facts).workers


def environ_of(worker: WorkerPlan, ours: dict[str, str] = OURS) -> dict[str, str]:
    """Return what the worker finds, as both start methods make it: of ours, less, and more."""
    kept = {name: value for name, value in ours.items() if name not in worker.unset}
    return {**kept, **worker.common_env, **worker.env}


def test_each_finds_the_environment_of_its_own_process() -> None:
    theirs = {"OMPI_COMM_WORLD_RANK": "1", "HOME": "/root", "ONLY_THERE": "2", "EMPTY": ""}
    workers = plan([task(0, OURS), task(1, theirs)])
    for worker, given in zip(workers, (OURS, theirs), strict=True):
        found = environ_of(worker)
        assert {name: found.get(name) for name in given} == given
    assert "ONLY_HERE" not in environ_of(workers[1])
    assert "ONLY_THERE" not in environ_of(workers[0])


def test_the_contract_wins_over_what_a_process_was_given() -> None:
    given = {**OURS, "RANK": "7", "WORLD_SIZE": "9", "MASTER_ADDR": "elsewhere"}
    found = environ_of(plan([task(0, given)])[0])
    assert (found["RANK"], found["WORLD_SIZE"], found["MASTER_ADDR"]) == ("0", "2", "127.0.0.1")


def test_what_the_engine_says_to_mpi_stays() -> None:
    given = {**OURS, "PMIX_RANK": "0", "OMPI_MCA_ess_base_jobid": "7"}
    worker = plan([task(0, given)], given)[0]
    assert {name: environ_of(worker, given)[name] for name in given} == given


def test_a_default_of_ours_leaves_alone_what_the_user_has_set_for_one_process() -> None:
    workers = plan([task(0, OURS), task(1, {**OURS, "OMP_NUM_THREADS": "7"})])
    assert [environ_of(worker)["OMP_NUM_THREADS"] for worker in workers] == ["2", "7"]
    ours = {**OURS, "OMP_NUM_THREADS": "7"}
    workers = plan([task(0, ours), task(1, OURS)], ours)
    assert [environ_of(worker, ours)["OMP_NUM_THREADS"] for worker in workers] == ["7", "2"]


def test_devices_that_are_typed_are_those_of_all_ranks() -> None:
    given = [{**OURS, "CUDA_VISIBLE_DEVICES": device} for device in ("0", "1")]
    tasks = [task(rank, environ) for rank, environ in enumerate(given)]
    found = [environ_of(worker, given[0]) for worker in plan(tasks, given[0], devices=("2", "3"))]
    assert [environ["CUDA_VISIBLE_DEVICES"] for environ in found] == ["2,3", "2,3"]
    found = [environ_of(worker, given[0]) for worker in plan(tasks, given[0])]
    assert [environ["CUDA_VISIBLE_DEVICES"] for environ in found] == ["0", "1"]


def test_nothing_is_inherited_of_a_launcher_around_the_engine_also_where_ranks_differ() -> None:
    given = [{**OURS, "TORCHELASTIC_ERROR_FILE": f"/tmp/{rank}"} for rank in (0, 1)]
    given += [{**OURS, "LAUNCHER_PARENT_PID": "70"}]
    tasks = [task(rank, environ) for rank, environ in enumerate(given)]
    for worker in plan(tasks, given[0]):
        found = environ_of(worker, given[0])
        assert found["TORCHELASTIC_ERROR_FILE"].startswith("/runs/id/")
        assert "LAUNCHER_PARENT_PID" not in found


def test_arguments_may_differ_and_refer_to_the_rank() -> None:
    first, second = plan([task(0, OURS, "--seed", "1", "$RANK"), task(1, OURS, "$RANK", "$HOME")])
    assert (first.args, second.args) == (("--seed", "1", "0"), ("1", "$HOME"))
    assert second.title.startswith("[rank 1/2] python train.py 1 ")


def test_where_the_ranks_agree_on_an_address_they_are_told_so_and_none() -> None:
    (worker,) = plan([task(0, OURS, "$MASTER_ADDR")], master="")
    found = environ_of(worker)
    assert found["LAUNCHER_AGREE"] == "1"
    assert "MASTER_ADDR" not in found and "MASTER_PORT" not in found
    assert worker.args == ("$MASTER_ADDR",)


def test_a_rank_whose_node_nobody_knows_is_told_no_number() -> None:
    unknown = task(0, OURS)
    unknown = unknown._replace(place=unknown.place._replace(num_nodes=None, world_size=4))
    (worker,) = plan([unknown], master="")
    assert not {"NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE"} & set(environ_of(worker))


def test_restarts_of_the_whole_job_by_slurm_are_counted() -> None:
    (worker,) = plan([task(0, OURS)], job=SlurmJob("71.0", 2))
    assert environ_of(worker)["TORCHELASTIC_RESTART_COUNT"] == "2"


def test_a_replacement_stands_for_the_same_process_with_its_arguments() -> None:
    tasks = [task(0, OURS, "a", "$RANK"), task(1, {**OURS, "OWN": "1"}, "b", "$RANK")]
    spec = LaunchSpec(script="train.py", script_args=("other",))
    facts = NodeFacts("id", "mark", 4, (), "here", OURS, 2, tasks=tuple(tasks))
    places = tuple(each.place for each in tasks)
    whole = make_plan(spec, Assignment(0, places, "127.0.0.1", 5000), facts)
    found = plan_replacement(whole, 1, 0, 1)
    assert found.task is tasks[1]
    assert (found.args, found.env["OWN"], found.env["RANK"]) == (("b", "0"), "1", "0")
