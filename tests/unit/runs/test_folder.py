"""The folder of a run: claimed by one node, shared by the others."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from launcher.runs.folder import RunFolder, SlurmJob


def test_a_name_that_is_taken_gets_a_number_behind_it(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    folder = RunFolder(str(tmp_path), None, "mine")
    assert folder.claim() == "mine.2"
    assert folder.paths is not None and Path(folder.paths.logs).is_dir()


def test_the_nodes_of_a_run_have_one_folder(tmp_path: Path) -> None:
    first = RunFolder(str(tmp_path), None, "mine")
    name = first.claim()
    for folder in (first, RunFolder(str(tmp_path), None, "another")):
        folder.adopt(name)
        assert folder.paths is not None
        assert folder.paths.run_dir == str(tmp_path / "mine")
        assert folder.warning == ""
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_logs_elsewhere_are_shared_too(tmp_path: Path) -> None:
    folders = [RunFolder(str(tmp_path / "runs"), str(tmp_path / "logs"), "mine") for _ in "12"]
    folders[1].adopt(folders[0].claim())
    assert {folder.paths.logs for folder in folders if folder.paths} == {
        str(tmp_path / "logs" / "mine")
    }


def test_where_no_folder_can_be_there_is_a_warning_and_another_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    folder = RunFolder(str(tmp_path / "file"), None, "mine")
    assert folder.claim() == "mine"
    assert folder.paths is not None and folder.paths.run_dir.startswith(str(tmp_path / "tmp"))
    assert "cannot write" in folder.warning


@pytest.mark.parametrize("claims", [True, False], ids=["its own", "another node's"])
def test_an_attempt_whose_folders_cannot_be_made_has_its_own_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claims: bool
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    folder = RunFolder(str(tmp_path), None, "mine")
    if claims:
        folder.claim()
    folder.adopt("mine")
    folder.open_attempt(0)
    assert folder.warning == ""
    (tmp_path / "mine" / "logs" / "attempt_1").write_text("in the way")
    folder.open_attempt(1)
    assert f"cannot write {tmp_path / 'mine' / 'logs' / 'attempt_1'}" in folder.warning
    assert folder.paths is not None and folder.paths.run_dir.startswith(str(tmp_path / "tmp"))
    assert Path(folder.paths.log_dir(1)).is_dir() and Path(folder.paths.error_dir(1)).is_dir()
    folder.warning = ""
    folder.adopt("mine")
    folder.open_attempt(2)
    assert folder.warning == "", "it is said once"


def test_a_node_that_may_only_read_the_folder_of_another_one_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunFolder(str(tmp_path), None, "mine").claim()
    (tmp_path / "mine" / "errors" / "attempt_0").mkdir(parents=True)

    def touch(folder: str) -> None:
        if folder.startswith(str(tmp_path / "mine")):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), folder)

    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(os, "utime", touch)
    folder = RunFolder(str(tmp_path), None, "another")
    folder.adopt("mine")
    folder.open_attempt(0)
    assert "Read-only file system" in folder.warning
    assert folder.paths is not None and folder.paths.run_dir.startswith(str(tmp_path / "tmp"))


def test_an_attempt_has_no_folders_where_none_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    folder = RunFolder(str(tmp_path), None, "mine")
    folder.claim()
    (tmp_path / "mine" / "errors").write_text("in the way")
    folder.open_attempt(0)
    assert folder.paths is None and "this run keeps no log files" in folder.warning
    folder.open_attempt(1)


def test_a_requeued_job_goes_on_in_its_folder_and_keeps_what_it_had(tmp_path: Path) -> None:
    first = RunFolder(str(tmp_path), None, "mine", SlurmJob("71.0"))
    assert first.claim() == "mine"
    mine = tmp_path / "mine"
    (mine / "logs" / "rank_00.out").write_text("old")
    for name in ("report.json", "end.json", "plan_12.json", "timeline.json", "checkpoint.pt"):
        (mine / name).write_text("old")
    again = RunFolder(str(tmp_path), None, "mine", SlurmJob("71.0", 2))
    assert again.claim() == "mine"
    assert again.paths is not None and again.paths.logs == str(mine / "logs")
    assert sorted(path.name for path in mine.iterdir()) == [
        *("before_requeue_2", "checkpoint.pt", "logs", "slurm_job")
    ]
    assert sorted(path.name for path in (mine / "before_requeue_2").iterdir()) == [
        *("end.json", "logs", "plan_12.json", "report.json", "timeline.json")
    ]
    assert list((mine / "logs").iterdir()) == []


def test_logs_elsewhere_are_kept_too(tmp_path: Path) -> None:
    log_dir = tmp_path / "logs"
    for requeues in range(3):
        RunFolder(str(tmp_path), str(log_dir), "mine", SlurmJob("71.0", requeues)).claim()
        (log_dir / "mine" / "rank_00.out").write_text(f"after {requeues}")
    found = {path.parent.name: path.read_text() for path in log_dir.rglob("rank_00.out")}
    assert found == {
        "before_requeue_1": "after 0",
        "before_requeue_2": "after 1",
        "mine": "after 2",
    }


def test_a_requeued_job_does_not_take_the_folder_of_another_one(tmp_path: Path) -> None:
    for name in ("71.0", "72.0", "73.0"):
        RunFolder(str(tmp_path), None, "mine", SlurmJob(name)).claim()
    (tmp_path / "mine.4").mkdir()
    assert RunFolder(str(tmp_path), None, "mine", SlurmJob("72.0", 1)).claim() == "mine.2"
    assert RunFolder(str(tmp_path), None, "mine", SlurmJob("74.0", 1)).claim() == "mine.5"
    assert RunFolder(str(tmp_path), None, "mine", SlurmJob("72.0")).claim() == "mine.6"


@pytest.mark.parametrize("is_shared", [True, False])
def test_other_nodes_of_a_requeued_job_set_aside_what_is_theirs(
    tmp_path: Path, is_shared: bool
) -> None:
    parents = [str(tmp_path / name) for name in ("aa" if is_shared else "ab")]
    for requeues in range(2):
        nodes = [RunFolder(parent, None, "mine", SlurmJob("71.0", requeues)) for parent in parents]
        nodes[1].adopt(nodes[0].claim())
        for rank, node in enumerate(nodes):
            assert node.paths is not None
            Path(node.paths.log(0, rank, "out")).write_text(f"after {requeues}")
    for parent, rank in zip(parents, ("rank_00.out", "rank_01.out"), strict=True):
        folder = Path(parent, "mine")
        assert (folder / "logs" / rank).read_text() == "after 1"
        assert (folder / "before_requeue_1" / "logs" / rank).read_text() == "after 0"
        assert not (folder / "before_requeue_1" / "before_requeue_1").exists()
