"""The folder of a run: claimed by one node, shared by the others."""

from __future__ import annotations

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


def test_a_requeued_job_goes_on_in_its_folder_and_keeps_what_it_had(tmp_path: Path) -> None:
    first = RunFolder(str(tmp_path), None, "mine", SlurmJob("71.0"))
    assert first.claim() == "mine"
    assert first.paths is not None
    (tmp_path / "mine" / "report.json").write_text("old")
    again = RunFolder(str(tmp_path), None, "mine", SlurmJob("71.0", 2))
    assert again.claim() == "mine"
    assert again.paths is not None
    assert again.paths.log_dir(0) == str(tmp_path / "mine" / "logs" / "requeue_2")
    assert again.paths.log_dir(1) == f"{again.paths.log_dir(0)}/attempt_1"
    assert again.paths.error_dir(1) == str(tmp_path / "mine/errors/requeue_2/attempt_1")
    assert not (tmp_path / "mine" / "report.json").exists()
    assert (tmp_path / "mine" / "report.before_requeue_2.json").read_text() == "old"


def test_a_requeued_job_does_not_take_the_folder_of_another_one(tmp_path: Path) -> None:
    for name in ("71.0", "72.0", "73.0"):
        RunFolder(str(tmp_path), None, "mine", SlurmJob(name)).claim()
    (tmp_path / "mine.4").mkdir()
    assert RunFolder(str(tmp_path), None, "mine", SlurmJob("72.0", 1)).claim() == "mine.2"
    assert RunFolder(str(tmp_path), None, "mine", SlurmJob("74.0", 1)).claim() == "mine.5"
    assert RunFolder(str(tmp_path), None, "mine", SlurmJob("72.0")).claim() == "mine.6"


def test_other_nodes_of_a_requeued_job_find_the_same_folders(tmp_path: Path) -> None:
    job = SlurmJob("71.0", 1)
    folders = [RunFolder(str(tmp_path / name), None, "mine", job) for name in "ab"]
    folders[1].adopt(folders[0].claim())
    logs = [
        folder.paths.log(0, 3, "out")[len(str(tmp_path)) + 2 :]
        for folder in folders
        if folder.paths
    ]
    assert logs == ["/mine/logs/requeue_1/rank_03.out"] * 2
