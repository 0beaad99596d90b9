"""What the tests of attached ranks share: mpirun, and MPICH's mpiexec, as they need them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines import MPI_SETTINGS, MPICH, mpich_settings


@pytest.fixture
def start_mpirun(start_command: Any, tmp_path: Path) -> Any:
    """Start the launcher under mpirun with a script's text."""

    def start(
        ranks: int,
        text: str,
        *options: str,
        args: tuple[str, ...] = (),
        env: Any = None,
        flags: tuple[str, ...] = (),
    ) -> Any:
        (tmp_path / "script.py").write_text(text)
        argv = [
            "mpirun",
            *flags,
            "-np",
            str(ranks),
            sys.executable,
            "-m",
            "launcher",
            *options,
            "script.py",
            *args,
        ]
        return start_command(argv, env={**MPI_SETTINGS, **(env or {})})

    return start


@pytest.fixture
def mpirun(start_mpirun: Any) -> Any:
    """Run the launcher under mpirun with a script's text; returns what `Running.finish` returns."""
    return lambda *args, **options: start_mpirun(*args, **options).finish(120.0)


@pytest.fixture
def mpich(run_command: Any, tmp_path: Path) -> Any:
    """Run the launcher under MPICH's mpiexec with a script's text."""

    def run(ranks: int, text: str, *options: str) -> Any:
        (tmp_path / "script.py").write_text(text)
        argv = [MPICH, "-n", str(ranks), sys.executable, "-m", "launcher", *options, "script.py"]
        return run_command(argv, env=mpich_settings(tmp_path / "mpich"), timeout_s=120.0)

    return run
