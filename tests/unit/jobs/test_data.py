"""Datastores and datasets are folders, and become paths as arguments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.jobs import Dataset, Datastore, Workspace
from launcher.jobs.configuration import make_argument


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures" / "crow").mkdir(parents=True)
    (tmp_path / "pictures" / "crow" / "1.jpg").write_text("1")
    (tmp_path / "pictures" / "notes.txt").write_text("notes")
    return Workspace.create("data", store=str(tmp_path / "store"))


def test_a_folder_is_uploaded_and_given_to_a_script(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    datastore = workspace.get_default_datastore()
    reference = datastore.upload("pictures", target_path="birds", overwrite=True)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Uploading an estimated of 2 files" and said[-1] == "Uploaded 2 files"
    path = make_argument(reference.as_mount())
    assert (Path(path) / "crow" / "1.jpg").read_text() == "1"
    assert make_argument(datastore.path("birds").path("crow")) == os.path.join(path, "crow")
    assert make_argument(datastore) == os.path.dirname(path)
    assert datastore.download("copy", prefix="birds/crow") == 1
    assert Path("copy/birds/crow/1.jpg").read_text() == "1"


def test_a_dataset_is_a_path(workspace: Workspace) -> None:
    dataset = Dataset.File.from_files("pictures")
    assert make_argument(dataset.as_named_input("birds").as_mount()) == os.path.abspath("pictures")
    assert [os.path.basename(path) for path in dataset.to_path()] == ["1.jpg", "notes.txt"]
    assert dataset.download("here")[0] == os.path.join("here", "1.jpg")
    with pytest.raises(Exception, match="no file or folder"):
        Dataset.File.from_files("nowhere")


def test_a_dataset_is_registered_by_name(workspace: Workspace) -> None:
    Dataset.File.from_files("pictures").register(workspace, "birds")
    assert Dataset.get_by_name(workspace, "birds").version == 1
    other = Dataset.File.from_files("pictures/crow")
    with pytest.raises(Exception, match="a dataset birds already"):
        other.register(workspace, "birds")
    assert other.register(workspace, "birds", create_new_version=True).version == 2
    assert {name: found.version for name, found in workspace.datasets.items()} == {"birds": 2}
    first = Dataset.get_by_name(workspace, "birds", version=1)
    assert first.sources == [os.path.abspath("pictures")]


def test_what_a_url_leads_to_is_fetched_once(workspace: Workspace, tmp_path: Path) -> None:
    url = (tmp_path / "pictures" / "notes.txt").as_uri()
    dataset = Dataset.File.from_files(url)
    path = dataset.as_argument()
    (tmp_path / "pictures" / "notes.txt").unlink()
    assert Path(path).read_text() == "notes" and dataset.as_argument() == path
    with pytest.raises(Exception, match="cannot be fetched"):
        Dataset.File.from_files(url + "x").as_argument()


def test_a_part_of_a_folder_is_uploaded(workspace: Workspace) -> None:
    target = (Datastore.get(workspace, "mine"), "birds")
    dataset = Dataset.File.upload_directory("pictures", target, pattern="*.jpg")
    assert [os.path.basename(path) for path in dataset.to_path()] == ["1.jpg"]
