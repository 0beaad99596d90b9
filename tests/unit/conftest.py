"""Tests of this folder start no process, so nobody need be looked for after each of them."""

from __future__ import annotations

import os
import subprocess
from typing import NoReturn

import pytest


def _refuse(*args: object, **options: object) -> NoReturn:
    raise AssertionError("a test in tests/unit starts a process: it belongs into tests/launch")


@pytest.fixture(autouse=True)
def suite_mark(clean_env: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the place of the fixture that searches all processes for those of the test."""
    monkeypatch.setattr(subprocess, "Popen", _refuse)
    for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system"):
        monkeypatch.setattr(os, name, _refuse)
