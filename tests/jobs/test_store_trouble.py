"""A store that is full, read-only or on a network: what then happens is stated and tested."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.jobs import Experiment, Run, ScriptRunConfig, StoreException, Workspace, index
from launcher.jobs.__main__ import main
from tests.conftest import is_alive, wait_until
from tests.jobs.conftest import Submit, agent_pid, launcher_pid, wait_for_text

Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount a file system in memory, which needs root."""
    mounted = []

    def make(*options: str) -> Path:
        folder = tmp_path / f"mount{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this user or container may not mount")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train.py").write_text("print('trained')")
    return folder


def fill(folder: Path) -> None:
    with open(folder / "ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass


def test_a_full_store_refuses_a_run_and_keeps_what_it_has(mount: Mount, source: Path) -> None:
    folder = mount("size=2m")
    workspace = Workspace.create("full", store=str(folder / "store"))
    experiment = Experiment(workspace, "birds")
    run = experiment.submit(ScriptRunConfig(str(source), "train.py"))
    run.wait_for_completion()
    fill(folder)
    (source / "new.py").write_text("x" * 10_000)
    with pytest.raises(StoreException, match="No space left on device"):
        experiment.submit(ScriptRunConfig(str(source), "train.py"))
    assert [one.id for one in experiment.get_runs()] == [run.id]
    (folder / "ballast").unlink()
    experiment.submit(ScriptRunConfig(str(source), "train.py")).wait_for_completion()


def test_a_disk_that_fills_up_does_not_end_the_training(
    mount: Mount, source: Path, tmp_path: Path
) -> None:
    folder = mount("size=2m")
    workspace = Workspace.create("full", store=str(folder / "store"))
    (source / "train.py").write_text(
        "import os, sys\n"
        "from launcher.jobs import Run\n"
        "run = Run.get_context()\n"
        "run.log('before', 1)\n"
        "open(sys.argv[1] + '/there', 'w').close()\n"
        "while not os.path.exists(sys.argv[1] + '/go'): pass\n"
        "for n in range(100): run.log('loss', n)\n"
        "open(sys.argv[1] + '/done', 'w').close()\n"
    )
    config = ScriptRunConfig(str(source), "train.py", [str(tmp_path)])
    run = Experiment(workspace, "birds").submit(config)
    wait_until((tmp_path / "there").exists, "the script runs")
    fill(folder)
    (tmp_path / "go").touch()
    wait_until((tmp_path / "done").exists, "the script has gone on")
    (folder / "ballast").unlink()
    assert run.wait_for_completion()["status"] == "Completed"
    assert run.get_metrics("before") == {"before": 1}


def test_a_read_only_store_can_be_looked_at(
    mount: Mount, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mount("size=8m")
    workspace = Workspace.create("locked", store=str(folder / "store"))
    experiment = Experiment(workspace, "birds")
    run = experiment.submit(ScriptRunConfig(str(source), "train.py"))
    run.wait_for_completion()
    (source / "wait.py").write_text("import signal; print('there', flush=True); signal.pause()")
    killed = experiment.submit(ScriptRunConfig(str(source), "wait.py"))
    wait_for_text(killed, "there")
    launcher = launcher_pid(killed)
    os.kill(agent_pid(killed), signal.SIGKILL)
    wait_until(lambda: not is_alive(launcher), "nobody writes any more")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    assert killed.get_status() == "Failed"
    monkeypatch.setenv("LAUNCHER_STORE", str(folder / "store"))
    assert list(experiment.get_runs()) == [killed, run] and run.get_status() == "Completed"
    assert main(["list"]) == 0 and run.id[-8:] in capsys.readouterr().out
    assert main(["logs", "@2"]) == 0 and capsys.readouterr().out == "trained\n"
    assert main(["doctor"]) == 1
    for attempt in (
        lambda: experiment.submit(ScriptRunConfig(str(source), "train.py")),
        lambda: run.tag("a", 1),
        lambda: run.register_model("birds", "outputs"),
    ):
        with pytest.raises(StoreException, match="Read-only file system"):
            attempt()


def test_the_index_of_a_store_on_a_network_lies_on_this_host(
    workspace: Workspace, submit: Submit, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_file_system", lambda path: "nfs4")
    run = submit("pass")
    assert list(experiment.get_runs()) == [run]
    run.wait_for_completion()
    assert not os.path.exists(workspace._store.join("index.db"))
    assert index.place(workspace._store).startswith(os.environ["LAUNCHER_CACHE"])


def test_a_run_that_is_copied_into_a_store_is_there(
    workspace: Workspace, submit: Submit, tmp_path: Path
) -> None:
    run = submit("from launcher.jobs import Run; Run.get_context().log('a', 1)")
    run.wait_for_completion()
    other = Workspace.create("other", store=str(tmp_path / "other"))
    shutil.copytree(run._folder.path, other._store.run(run.id).path, symlinks=True)
    (copied,) = Experiment(other, "birds").get_runs()
    assert copied.get_metrics() == {"a": 1} and copied.get_status() == "Completed"


def test_ignore_files_are_understood_as_git_does(workspace: Workspace, tmp_path: Path) -> None:
    from launcher.jobs import snapshot

    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    pytest.importorskip("pathspec")
    source = tmp_path / "repository"
    for name in ("a.log", "b/a.log", "b/keep.log", "b/c/d.tmp", "data/x", "e f/g", "doc/data/y"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("")
    (source / ".gitignore").write_text("*.log\n!keep.log\n/data\n**/c/*.tmp\n# comment\ne\\ f/\n")
    (source / "b" / ".gitignore").write_text("!a.log\n")
    subprocess.run(["git", "init", "-q", str(source)], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"],
        cwd=source,
        capture_output=True,
        text=True,
        check=True,
    )
    taken = snapshot.take(workspace._store, str(source))
    found = [entry[0] for entry in snapshot.files_of(workspace._store, taken.id)]
    assert found == sorted(listed.stdout.splitlines())


def test_a_script_outside_of_any_store_still_runs(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "from launcher.jobs import Run\nrun = Run.get_context()\nrun.log('x', 1)\n"
    )
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "Attempted to log scalar metric x:\n1\n"


def test_a_deleted_run_says_so(submit: Submit) -> None:
    run = submit("pass")
    run.wait_for_completion()
    shutil.rmtree(run._folder.path)
    with pytest.raises(Exception, match="has gone"):
        run.get_status()
    assert isinstance(run, Run)
