"""What the tests of failures share: the report file of the only run, and scripts in which only one
rank is bad.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Completed, Run, Script

# What stands before and behind the bad lines: the other ranks wait to be stopped.
_BEFORE = "import os, sys, signal, time\nrank = int(os.environ['RANK'])\n"
_BEHIND = "\nsignal.pause()\n"

Failing = Callable[..., "tuple[Completed, dict[str, Any]]"]


@pytest.fixture
def report(only_run_dir: Callable[[], Path]) -> Callable[[], dict[str, Any]]:
    """Return the content of report.json of the only run of this test."""
    return lambda: json.loads((only_run_dir() / "report.json").read_text())


@pytest.fixture
def only_rank_1(script: Script) -> Script:
    """Write a script in which rank 1 runs these lines, while every other rank waits to be
    stopped.
    """

    def write(text: str, name: str = "script.py") -> str:
        body = "".join(f"    {line}\n" for line in text.strip().splitlines())
        return script(f"{_BEFORE}if rank == 1:\n{body}{_BEHIND}", name)

    return write


@pytest.fixture
def failing(run: Run, only_rank_1: Script, report: Callable[[], dict[str, Any]]) -> Failing:
    """Run three ranks of which rank 1 runs these lines; return how the launcher ended, and
    report.json.
    """

    def execute(text: str, *options: str, **more: Any) -> tuple[Completed, dict[str, Any]]:
        done = run("--nproc-per-node", "3", *options, only_rank_1(text), **more)
        return done, report()

    return execute
