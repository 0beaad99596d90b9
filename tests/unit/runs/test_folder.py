"""The folder of a run: claimed by one node, shared by the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.runs.folder import RunFolder


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
