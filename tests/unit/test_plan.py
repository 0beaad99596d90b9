"""From a spec to the workers of an attempt: pure, so all of it can be compared."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from launcher.paths import RunPaths
from launcher.plan import LaunchPlan, NodeFacts, make_plan, program_kind
from launcher.ranks import Assignment
from launcher.spec import LaunchSpec


def plan(num_workers: int = 2, attempt: int = 0, paths: bool = True, **options: Any) -> LaunchPlan:
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
    assignment = Assignment(attempt, 0, (num_workers,), "127.0.0.1", 5000)
    return make_plan(spec, assignment, facts)


def test_each_worker_has_its_own_ranks_arguments_and_files() -> None:
    found = plan(3, attempt=2, script_args=("--x", "$RANK", "$HOME"))
    assert found.attempt == 2
    for rank, worker in enumerate(found.workers):
        assert worker.rank == worker.local_rank == rank
        assert worker.args == ("--x", str(rank), "$HOME")
        assert worker.env["RANK"] == str(rank)
        assert worker.env["TORCHELASTIC_RESTART_COUNT"] == "2"
        assert worker.logs == {s: f"/runs/id/logs/attempt_2/rank_0{rank}.{s}" for s in ("out", "err")}
        assert worker.error_file == f"/runs/id/errors/attempt_2/rank_0{rank}.json"
        assert worker.shown == {"out": True, "err": True}
        assert worker.title.startswith(f"[rank {rank}/3] python train.py --x {rank}")
        assert not set(worker.unset) & {*worker.common_env, *worker.env}
    assert found.workers[0].common_env["OMP_NUM_THREADS"] == "1"
    assert plan(2).workers[0].common_env["OMP_NUM_THREADS"] == "2"


def test_without_a_folder_nothing_is_written_and_nothing_inherited() -> None:
    (worker,) = plan(1, paths=False).workers
    assert (worker.logs, worker.error_file) == ({}, None)
    assert {"LAUNCHER_RUN_DIR", "LAUNCHER_ERROR_FILE", "TORCHELASTIC_ERROR_FILE"} <= set(worker.unset)


def test_virtual_local_ranks_see_one_gpu_each() -> None:
    found = plan(2, virtual_local_rank=True, script_args=("$LOCAL_RANK",))
    assert [worker.env["CUDA_VISIBLE_DEVICES"] for worker in found.workers] == ["0", "1"]
    assert [(worker.env["LOCAL_RANK"], worker.args) for worker in found.workers] == [("0", ("0",))] * 2


def test_chosen_devices_are_what_workers_see() -> None:
    assert plan(2, devices=("GPU-a", "GPU-b")).workers[0].common_env["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    found = plan(2, devices=("GPU-a", "GPU-b"), virtual_local_rank=True)
    assert [worker.env["CUDA_VISIBLE_DEVICES"] for worker in found.workers] == ["GPU-a", "GPU-b"]


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("script.py", {}, "script"),
        ("folder", {}, "package"),
        ("app.zip", {}, "package"),
        ("app", {}, "package"),
        ("script", {}, "script"),
        ("not_really.zip", {}, "script"),
        ("missing", {}, "script"),
        ("script.py", {"run_path": True}, "run_path"),
        ("script", {"module": True}, "module"),
        ("folder", {"no_python": True}, "command"),
    ],
)
def test_the_kind_of_program_is_what_python_takes_it_for(
    name: str, options: dict[str, bool], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for script in ("script.py", "script", "not_really.zip"):
        Path(script).write_text("print()")
    Path("folder").mkdir()
    for archive in ("app.zip", "app"):
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("__main__.py", "")
    assert program_kind(LaunchSpec(script=name, **options)) == kind
