"""What a user installs: every module, the marker for type checkers, and the command."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the archives are made of: building leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("source") / "launcher"
    folder.mkdir()
    for name in ("launcher", "train"):
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        "dist",
        ".",
    ]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (source / "dist").glob("*.whl")
    return path


def modules(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for name in ("launcher", "train")
        for path in (folder / name).rglob("*.py")
    }


@pytest.mark.slow
def test_the_wheel_has_every_module_and_the_command(source: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "launcher = launcher.cli:main" in archive.read(entry).decode()
    assert {name for name in names if name.endswith(".py")} == modules(source)
    assert "launcher/py.typed" in names
    (license_file,) = (name for name in names if name.rpartition("/")[2] == "LICENSE")
    assert license_file.startswith("launcher-") and ".dist-info/" in license_file
    assert not {name for name in names if name.partition("/")[0] in ("tests", "benchmarks", "docs")}


@pytest.mark.slow
def test_the_source_archive_has_every_module(source: Path) -> None:
    code = "import setuptools.build_meta as build; print(build.build_sdist('sdist'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (source / "sdist").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert modules(source) <= names
    assert {"launcher/py.typed", "setup.cfg", "pyproject.toml", "LICENSE"} <= names


def test_the_license_is_the_one_that_the_metadata_names() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["license"] == "Apache-2.0"
    words = (ROOT / "LICENSE").read_text().split()
    assert words[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in " ".join(words)


@pytest.mark.slow
def test_the_installed_wheel_runs(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder as pip makes it, with a module beside ours that has the name of one of
    python's.
    """
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site-packages")
    (tmp_path / "site-packages" / "json.py").write_text(
        "raise SystemExit('a module of site-packages came before python')\n"
    )
    (tmp_path / "script.py").write_text(
        "import os\nprint('rank', os.environ['RANK'])\nraise ValueError('mine')\n"
    )
    # At the end of sys.path, where site-packages stands.
    monkeypatch.delenv("PYTHONPATH")
    code = (
        f"import sys; sys.path.append({str(tmp_path / 'site-packages')!r}); from launcher.cli"
        " import main; sys.exit(main())"
    )
    for method in ("spawn", "warm"):
        command = [sys.executable, "-c", code, "--start", method, "script.py"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.stdout == "[0] rank 0\n", done.stderr
        assert "ValueError: mine" in done.stderr
        assert done.returncode == 1
