"""What the tests of attached ranks share: mpirun as they need it, and files that the ranks write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def mpi_settings() -> dict[str, str]:
    """Variables for mpirun: tests run as root in containers, and with more ranks than processors."""
    return {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1",
    }


@pytest.fixture
def start_mpirun(start_command: Any, mpi_settings: Any, tmp_path: Path) -> Any:
    """Start the launcher under mpirun with a script's text."""

    def start(
        ranks: int, text: str, *options: str, args: tuple[str, ...] = (), env: Any = None, flags: tuple[str, ...] = ()
    ) -> Any:
        (tmp_path / "script.py").write_text(text)
        argv = ["mpirun", *flags, "-np", str(ranks), sys.executable, "-m", "launcher", *options, "script.py", *args]
        return start_command(argv, env={**mpi_settings, **(env or {})})

    return start


@pytest.fixture
def mpirun(start_mpirun: Any) -> Any:
    """Run the launcher under mpirun with a script's text; returns what `Running.finish` returns."""
    return lambda *args, **options: start_mpirun(*args, **options).finish(120.0)


@pytest.fixture
def said(tmp_path: Path) -> Any:
    """Return what the ranks have written into files of their own: mpirun may mix lines of several ranks on its stdout."""
    return lambda: [path.read_text() for path in sorted(tmp_path.glob("said_*"))]
