"""What is found out about this machine before anything starts."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from launcher.errors import LauncherError, UsageError
from launcher.options.spec import LaunchSpec
from launcher.plan import node
from launcher.plan.node import look_at_node


def test_looking_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    facts = look_at_node(LaunchSpec(script="train.py", nproc_per_node="3"))
    assert (facts.local_world_size, facts.cpus, facts.paths) == (3, (), None)
    assert list(tmp_path.iterdir()) == []


def test_the_mark_of_a_fork_server_that_has_been_started_is_the_runs() -> None:
    spec = LaunchSpec(script="train.py")
    assert look_at_node(spec, mark="a word").mark == "a word"
    assert look_at_node(spec).mark != look_at_node(spec).mark


def test_logs_specs_must_name_what_a_package_offers_to_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "plugged-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[torchrun.logs_specs]\nmine = plugged:Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    look_at_node(LaunchSpec(script="train.py", logs_specs="mine"))
    with pytest.raises(UsageError, match=r"--logs-specs mein: .*\(.*mine") as caught:
        look_at_node(LaunchSpec(script="train.py", logs_specs="mein"))
    assert "Leave it out" in caught.value.hint


def test_more_workers_than_open_files_may_be_allowed_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (100, 239))
    spec = LaunchSpec(script="train.py", nproc_per_node="40")
    with pytest.raises(LauncherError, match=r"40 workers need up to 240 open files.* is 239") as e:
        look_at_node(spec)
    assert e.value.hint == "An administrator must raise it: ulimit -Hn 240"
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (100, 240))
    look_at_node(spec)


def test_the_version_of_a_package_is_that_of_importlib(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import version

    assert node.find_version("pytest") == version("pytest")
    assert node.find_version("no_such_package") == ""
    monkeypatch.setattr("sys.path", ["/no/such/folder", ""])
    assert node.find_version("pytest") == ""
