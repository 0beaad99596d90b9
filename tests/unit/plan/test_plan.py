"""From a spec to the workers of an attempt: pure, so all of it can be compared."""

from __future__ import annotations

from typing import Any

from launcher.contract.files import RunPaths
from launcher.options.spec import LaunchSpec
from launcher.plan.node import NodeFacts
from launcher.plan.plan import LaunchPlan, make_plan, plan_replacement
from launcher.ranks import Assignment, make_places
from launcher.starters.detect import detect


def plan(
    num_workers: int = 2,
    attempt: int = 0,
    paths: bool = True,
    horovod: dict[str, Any] | None = None,
    **options: Any,
) -> LaunchPlan:
    spec = LaunchSpec(**{"script": "train.py", **options})
    facts = NodeFacts(
        run_id="id",
        mark="mark",
        paths=RunPaths("/runs/id", "/runs/id/logs", num_workers) if paths else None,
        usable_cpus=5,
        gpus=("0", "1"),
        hostname="here",
        environ={},
        local_world_size=num_workers,
    )
    assignment = Assignment(
        attempt, make_places(0, (num_workers,)), "127.0.0.1", 5000, **(horovod or {})
    )
    return make_plan(spec, assignment, facts)


def test_each_worker_has_its_own_ranks_arguments_and_files() -> None:
    found = plan(3, attempt=2, script_args=("--x", "$RANK", "$HOME"))
    assert found.attempt == 2
    for rank, worker in enumerate(found.workers):
        assert worker.rank == worker.local_rank == rank
        assert worker.args == ("--x", str(rank), "$HOME")
        assert worker.env["RANK"] == str(rank)
        assert worker.env["TORCHELASTIC_RESTART_COUNT"] == "2"
        assert worker.logs == {
            s: f"/runs/id/logs/attempt_2/rank_0{rank}.{s}" for s in ("out", "err", "log")
        }
        assert worker.error_file == f"/runs/id/errors/attempt_2/rank_0{rank}.json"
        assert worker.shown == {"out": True, "err": True}
        assert worker.title.startswith(f"[rank {rank}/3] python train.py --x {rank}")
        assert not set(worker.unset) & {*worker.common_env, *worker.env}
    assert found.workers[0].common_env["OMP_NUM_THREADS"] == "1"
    assert plan(2).workers[0].common_env["OMP_NUM_THREADS"] == "2"


def test_a_replacement_has_the_device_of_the_lost_one_and_the_rank_that_it_is_given() -> None:
    horovod = {"horovod_addr": "127.0.0.1:9/secret", "horovod_port": 9, "is_elastic": True}
    whole = plan(3, attempt=1, horovod=horovod, script_args=("$RANK", "$LOCAL_RANK"))
    lost, found = whole.workers[0], plan_replacement(whole, 0, 2, 4)
    assert (found.rank, found.local_rank, found.args) == (2, 0, ("2", "0"))
    assert found.error_file == "/runs/id/errors/attempt_1/rank_02.4.json"
    assert found.logs["out"] == "/runs/id/logs/attempt_1/rank_02.4.out"
    assert found.title.startswith("[rank 2/3] ")
    changed = {name: value for name, value in found.env.items() if lost.env[name] != value}
    assert changed == {
        "RANK": "2",
        "ROLE_RANK": "2",
        "HOROVOD_RANK": "2",
        "TORCHELASTIC_RESTART_COUNT": "5",
        "LAUNCHER_ERROR_FILE": found.error_file,
        "TORCHELASTIC_ERROR_FILE": f"{found.error_file}.torch",
    }
    assert set(found.env) == set(lost.env)
    assert plan_replacement(plan(2, paths=False), 1, 1, 1).error_file is None


def test_a_worker_finds_itself_where_the_plan_has_put_it() -> None:
    for worker in plan(3).workers:
        found = detect({**worker.common_env, **worker.env})
        planned = worker.place
        assert found._replace(num_nodes=planned.num_nodes, sources={}) == planned


def test_without_a_folder_nothing_is_written_and_nothing_inherited() -> None:
    (worker,) = plan(1, paths=False).workers
    assert (worker.logs, worker.error_file) == ({}, None)
    assert {"LAUNCHER_RUN_DIR", "LAUNCHER_ERROR_FILE", "TORCHELASTIC_ERROR_FILE"} <= set(
        worker.unset
    )


def test_virtual_local_ranks_see_one_gpu_each() -> None:
    found = plan(2, virtual_local_rank=True, script_args=("$LOCAL_RANK",))
    assert [worker.env["CUDA_VISIBLE_DEVICES"] for worker in found.workers] == ["0", "1"]
    assert [(worker.env["LOCAL_RANK"], worker.args) for worker in found.workers] == [
        ("0", ("0",))
    ] * 2


def test_chosen_devices_are_what_workers_see() -> None:
    assert (
        plan(2, devices=("GPU-a", "GPU-b")).workers[0].common_env["CUDA_VISIBLE_DEVICES"]
        == "GPU-a,GPU-b"
    )
    found = plan(2, devices=("GPU-a", "GPU-b"), virtual_local_rank=True)
    assert [worker.env["CUDA_VISIBLE_DEVICES"] for worker in found.workers] == ["GPU-a", "GPU-b"]
