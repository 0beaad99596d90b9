"""The names, and what `import launcher` costs: nothing."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import launcher

ROOT = Path(__file__).resolve().parents[1]


def test_the_public_names_are_these() -> None:
    assert launcher.__all__ == [
        "Context",
        "LaunchResult",
        "LaunchSpec",
        "LauncherError",
        "SpawnError",
        "UsageError",
        "WorkerFailed",
        "__version__",
        "init",
        "launch",
    ]


@pytest.mark.parametrize("name", launcher.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(launcher, name)
    assert value
    assert name in dir(launcher)
    assert name == "__version__" or value.__doc__


def test_the_context_has_these_public_names() -> None:
    names = [name for name in vars(launcher.Context) if not name.startswith("_")]
    assert sorted(names) == [
        "all_gather",
        "all_reduce",
        "barrier",
        "broadcast_object",
        "close",
        "gather_object",
        "heartbeat",
        "is_main",
        "mpi",
        "print",
        "stopping",
        "unwrap",
        "wrap",
        "wrap_optimizer",
    ]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        launcher.nonsense  # noqa: B018


def test_the_version_is_that_of_the_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["version"] in (launcher.__version__, "attr: launcher.__version__")


@pytest.mark.parametrize("module", ["launcher", "launcher.worker"])
def test_importing_it_loads_nothing_else(module: str) -> None:
    code = (
        f"import sys; before = set(sys.modules); import {module}; print(sorted(set(sys.modules) -"
        " before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(sorted({"launcher", module}))


def test_init_imports_no_more_than_it_must_before_torch() -> None:
    heavy = ("torch", "dataclasses", "json", "inspect", "subprocess")
    code = (
        f"import sys, launcher; launcher.init; print([name for name in {heavy} if name in"
        " sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
