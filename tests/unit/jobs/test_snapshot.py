"""A source folder by content: what belongs to it, and that unchanged files are not read again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from launcher.jobs import snapshot
from launcher.jobs.errors import RunConfigurationException
from launcher.jobs.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "store"))
    made.open_for_writing("test")
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train.py").write_text("print(1)")
    return folder


def names(store: Store, taken: snapshot.Snapshot) -> list[str]:
    return [entry[0] for entry in snapshot.files_of(store, taken.id)]


def write(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)


def test_what_no_run_needs_is_left_out(store: Store, source: Path) -> None:
    write(
        source,
        *(".git/config", "__pycache__/a.pyc", ".venv/pyvenv.cfg", "runs/x", "outputs/model.pt"),
        *("logs/a", "env/pyvenv.cfg", "env/lib.py", "lib/outputs/kept.py", "a.pyc", "data/a.csv"),
    )
    taken = snapshot.take(store, str(source))
    assert names(store, taken) == ["data/a.csv", "lib/outputs/kept.py", "train.py"]
    assert taken.num_files == 3


def test_an_ignore_file_decides(store: Store, source: Path) -> None:
    pytest.importorskip("pathspec")
    write(source, "data/big.bin", "data/small.csv", "outputs/keep.txt", "notes.md")
    (source / ".gitignore").write_text("*.md\n")
    (source / ".amlignore").write_text("data/*\n!data/small.csv\n!outputs/\n")
    found = names(store, snapshot.take(store, str(source)))
    assert found == [
        *(".amlignore", ".gitignore", "data/small.csv", "notes.md", "outputs/keep.txt"),
        "train.py",
    ]


def test_gitignore_files_hold_below_their_folder(store: Store, source: Path) -> None:
    pytest.importorskip("pathspec")
    write(source, "a.log", "lib/a.log", "lib/b.txt", "other/b.txt")
    (source / ".gitignore").write_text("*.log\n")
    (source / "lib" / ".gitignore").write_text("!a.log\nb.txt\n")
    found = names(store, snapshot.take(store, str(source)))
    assert found == [".gitignore", "lib/.gitignore", "lib/a.log", "other/b.txt", "train.py"]


def test_the_same_content_is_the_same_snapshot(store: Store, source: Path) -> None:
    first = snapshot.take(store, str(source))
    os.utime(source / "train.py", (1, 1))
    assert snapshot.take(store, str(source)).id == first.id
    (source / "train.py").write_text("print(2)")
    assert snapshot.take(store, str(source)).id != first.id


def test_a_file_that_has_not_changed_is_not_read_again(
    store: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(source / "train.py", (1, 1))
    first = snapshot.take(store, str(source))

    def refuse(*args: object) -> str:
        raise AssertionError("read again")

    monkeypatch.setattr(snapshot, "_keep", refuse)
    assert snapshot.take(store, str(source)).id == first.id
    os.utime(source / "train.py", (2, 2))
    with pytest.raises(AssertionError, match="read again"):
        snapshot.take(store, str(source))


def test_a_file_that_was_just_written_is_read_again(
    store: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change once more within the tick of its time stamp."""
    status = os.stat(source / "train.py")
    monkeypatch.setattr(time, "time_ns", lambda: status.st_mtime_ns + 1)
    first = snapshot.take(store, str(source))
    (source / "train.py").write_text("print(2)")  # as long as before
    os.utime(source / "train.py", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert snapshot.take(store, str(source)).id != first.id


def test_a_snapshot_comes_back_with_its_modes(store: Store, source: Path, tmp_path: Path) -> None:
    write(source, "bin/tool")
    (source / "bin" / "tool").chmod(0o755)
    taken = snapshot.take(store, str(source))
    snapshot.restore(store, taken.id, str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "train.py").read_text() == "print(1)"
    assert os.access(tmp_path / "copy" / "bin" / "tool", os.X_OK)
    (tmp_path / "copy" / "train.py").write_text("changed")  # no link into the store
    assert names(store, taken) == ["bin/tool", "train.py"]
    assert b"print(1)" in snapshot.read_file(store, snapshot.files_of(store, taken.id)[1][3])


def test_links_out_of_the_folder_are_named(store: Store, source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (source / "out").symlink_to(tmp_path / "secret")
    (source / "in").symlink_to("train.py")
    os.mkfifo(source / "pipe")
    taken = snapshot.take(store, str(source))
    assert names(store, taken) == ["in", "train.py"]
    assert [note.partition(":")[0] for note in taken.notes] == [
        *("out was left out", "pipe was left out")
    ]


def test_secrets_and_big_files_are_named(
    store: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, "keys/server.pem", ".env")
    monkeypatch.setattr(snapshot, "_BIG_BYTES", 5)
    notes = snapshot.take(store, str(source)).notes
    assert len(notes) == 3 and "looks like a secret" in notes[0]
    assert "the biggest are keys/server.pem (0 MiB)" in notes[2]


def test_the_store_is_no_part_of_its_source(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "kept"))
    store.open_for_writing("test")
    (tmp_path / "train.py").write_text("")
    assert names(store, snapshot.take(store, str(tmp_path))) == ["train.py"]


def test_a_source_that_is_no_folder_is_refused(store: Store) -> None:
    with pytest.raises(RunConfigurationException, match="is no folder"):
        snapshot.take(store, "nowhere")
