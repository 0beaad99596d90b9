"""Old runs are removed, and nothing else: a folder counts only if it says itself what it is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.runs.keep import remove_old
from launcher.system.identity import whoami

LIVES = whoami()
GONE = {**LIVES, "began": "1"}


def make_run(
    parent: Path, folder_name: str, began: float, *, ended: bool = True, node: str = "", **more: Any
) -> Path:
    folder = parent / folder_name
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "logs" / "rank_00.out").write_text("text")
    plan: dict[str, Any] = {"launcher": "1.0", "name": folder_name, "started": began}
    plan["process"] = LIVES
    plan["log_dir"] = str(folder / "logs")
    (folder / f"plan{node}.json").write_text(json.dumps({**plan, **more}))
    if ended:
        (folder / f"end{node}.json").write_text("{}")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_oldest_ended_runs_go(tmp_path: Path) -> None:
    for number, name in enumerate("dacb"):
        make_run(tmp_path, name, float(number))
    assert remove_old(str(tmp_path), 2) == [str(tmp_path / "d"), str(tmp_path / "a")]
    assert names(tmp_path) == ["b", "c"]
    assert remove_old(str(tmp_path), 2) == []


def test_a_run_that_goes_on_is_neither_removed_nor_counted(tmp_path: Path) -> None:
    make_run(tmp_path, "running", 0.0, ended=False)
    make_run(tmp_path, "old", 1.0)
    make_run(tmp_path, "new", 2.0)
    remove_old(str(tmp_path), 1)
    assert names(tmp_path) == ["new", "running"]


def test_a_run_that_was_killed_has_ended_where_that_can_be_seen(tmp_path: Path) -> None:
    make_run(tmp_path, "killed", 0.0, ended=False, process=GONE)
    make_run(tmp_path, "elsewhere", 0.0, ended=False, process={**GONE, "boot": "another"})
    make_run(tmp_path, "new", 2.0)
    remove_old(str(tmp_path), 1)
    assert names(tmp_path) == ["elsewhere", "new"]


def test_a_job_that_slurm_may_bring_back_stays(tmp_path: Path) -> None:
    killed = make_run(tmp_path, "killed", 0.0, ended=False, process=GONE)
    for name, status in (("stopped", "stopped"), ("failed", "failed")):
        (make_run(tmp_path, name, 0.0) / "end.json").write_text(json.dumps({"status": status}))
    for folder in (killed, tmp_path / "stopped", tmp_path / "failed"):
        (folder / "slurm_job").write_text("1 0")
    remove_old(str(tmp_path), 0)
    assert names(tmp_path) == ["killed", "stopped"]


def test_a_run_of_several_nodes_has_ended_when_all_have(tmp_path: Path) -> None:
    for name in ("half", "whole"):
        make_run(tmp_path, name, 0.0)
        make_run(tmp_path, name, 0.0, node="_1", ended=name == "whole")
    make_run(tmp_path, "new", 2.0)
    remove_old(str(tmp_path), 1)
    assert names(tmp_path) == ["half", "new"]


@pytest.mark.parametrize(
    "change",
    [{"name": "moved"}, {"launcher": 5}, {"started": "now"}, {"process": None}, {"log_dir": 1}],
)
def test_what_is_not_ours_stays(tmp_path: Path, change: dict[str, Any]) -> None:
    make_run(tmp_path, "other", 0.0, **change)
    (tmp_path / "mine" / "logs").mkdir(parents=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "plan.json").write_text("{")
    (tmp_path / "broken" / "end.json").write_text("{}")
    (tmp_path / "file").write_text("text")
    remove_old(str(tmp_path), 0)
    assert names(tmp_path) == ["broken", "file", "mine", "other"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    target = make_run(tmp_path / "elsewhere", "run", 0.0)
    parent = tmp_path / "runs"
    run = make_run(parent, "a", 0.0)
    (run / "data").symlink_to(target)
    (parent / "run").symlink_to(target)
    remove_old(str(parent), 0)
    assert names(parent) == ["run"]
    assert (target / "logs" / "rank_00.out").exists()


def test_logs_elsewhere_go_with_their_run_and_what_else_lies_there_stays(tmp_path: Path) -> None:
    for name in ("a", "b"):
        logs = tmp_path / "logs" / name
        (logs / "attempt_1").mkdir(parents=True)
        for file in ("rank_00.out", "filtered_stdout.log", "attempt_1/rank_00.err"):
            (logs / file).write_text("text")
        make_run(tmp_path / "runs", name, 0.0, log_dir=str(logs))
    (tmp_path / "logs" / "b" / "notes.txt").write_text("mine")
    remove_old(str(tmp_path / "runs"), 0)
    assert names(tmp_path / "runs") == []
    assert names(tmp_path / "logs") == ["b"]
    assert names(tmp_path / "logs" / "b") == ["notes.txt"]


def test_what_cannot_be_removed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, "a", 0.0)
    unlink = os.unlink

    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "unlink", refuse)
    assert remove_old(str(tmp_path), 0) == []
    monkeypatch.setattr(os, "unlink", unlink)
    assert remove_old(str(tmp_path), 0) == [str(tmp_path / "a")]


def test_a_folder_that_is_missing_has_no_runs(tmp_path: Path) -> None:
    assert remove_old(str(tmp_path / "none"), 0) == []
