"""The public names, and the module tree of the SDK in which they also stand."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import launcher.jobs
from launcher.jobs import names


@pytest.mark.parametrize("name", launcher.jobs.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(launcher.jobs, name) and name in dir(launcher.jobs)


@pytest.mark.parametrize("module", names._TREE)
def test_every_module_of_the_tree_has_what_it_names(module: str) -> None:
    found = importlib.import_module(f"launcher.jobs.{module}")
    for name in names._TREE[module].split():
        assert getattr(found, name) is getattr(launcher.jobs, name)


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        launcher.jobs.Nothing  # noqa: B018
    module = importlib.import_module("launcher.jobs.core.run")
    with pytest.raises(AttributeError, match=r"launcher\.jobs has: Run"):
        module.Nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("launcher.jobs.core.nothing")


def test_type_checkers_know_the_same_names() -> None:
    tree = ast.parse(Path(launcher.jobs.__file__).read_text())
    found = {
        alias.name: str(node.module).rpartition(".")[2]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module != "launcher.jobs"
        for alias in node.names
    }
    assert found == names.HOME and set(launcher.jobs.__all__) == set(found)
