"""What the tests of the run layer share: a workspace of each test's own, and scripts to submit."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from launcher.jobs import Experiment, Run, ScriptRunConfig, Workspace
from launcher.system.processes import child_pids
from tests.conftest import wait_until

Submit = Callable[..., Run]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace in a folder of the test."""
    monkeypatch.setenv("LAUNCHER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return Workspace.create("test")


@pytest.fixture
def experiment(workspace: Workspace) -> Experiment:
    return Experiment(workspace, "birds")


@pytest.fixture
def submit(experiment: Experiment, tmp_path: Path) -> Submit:
    """Submit a script with this text; options go to ScriptRunConfig, flags to the launcher."""

    def begin(text: str, *arguments: object, flags: Sequence[str] = (), **options: Any) -> Run:
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        (source / "train.py").write_text(text)
        config = ScriptRunConfig(str(source), "train.py", list(arguments), **options)
        return experiment.submit(config, launcher_options=list(flags))

    return begin


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with versions 1.0 and 2.0 of a package, the only place where pip looks."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for version in ("1.0", "2.0"):
        add_wheel(folder, "tiny", version)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def add_wheel(folder: Path, name: str, version: str) -> None:
    """Add a package with nothing but its version to a folder of wheels."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def wait_for_text(run: Run, text: str) -> None:
    """Wait until a run has printed this."""
    log = Path(run._folder.driver_log)
    wait_until(lambda: log.exists() and text in log.read_text(), f"{text!r} in the log")


def agent_pid(run: Run) -> int:
    """Return the process that looks after a run."""
    pid: int = json.loads(Path(run._folder.agent).read_text())["pid"]
    return pid


def launcher_pid(run: Run) -> int:
    """Return the launcher of a run that goes on."""
    (pid,) = child_pids(agent_pid(run))
    return pid
