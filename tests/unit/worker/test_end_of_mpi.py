"""How a rank that has used mpi4py ends: MPI is finalised after a success only."""

from __future__ import annotations

import io
import os
import sys
from types import SimpleNamespace
from typing import NoReturn

import pytest

from launcher.worker import bootstrap


class Left(Exception):
    """The process would have ended here."""


class Library:
    """mpi4py.MPI in one of its states."""

    def __init__(self, *, is_initialized: bool = True, is_finalized: bool = False) -> None:
        self._states = is_initialized, is_finalized
        self.num_finalized = 0

    def Is_initialized(self) -> bool:  # noqa: N802  (mpi4py's name)
        return self._states[0]

    def Is_finalized(self) -> bool:  # noqa: N802  (mpi4py's name)
        return self._states[1]

    def Finalize(self) -> None:  # noqa: N802  (mpi4py's name)
        self.num_finalized += 1


def end(
    monkeypatch: pytest.MonkeyPatch,
    library: Library,
    exit_code: int,
    *,
    finalize: bool | None = None,
    is_worker: bool = True,
) -> int | None:
    """End a rank whose script has ended so; return its exit code where it leaves at once."""
    left: list[int] = []

    def leave(code: int) -> NoReturn:
        left.append(code)
        raise Left

    package = SimpleNamespace(rc=SimpleNamespace(finalize=finalize))
    monkeypatch.setitem(sys.modules, "mpi4py", package)
    monkeypatch.setattr(bootstrap, "has_succeeded", exit_code == 0)
    monkeypatch.setattr(bootstrap, "_exit_code", exit_code)
    monkeypatch.setattr(os, "_exit", leave)
    if is_worker:
        monkeypatch.setenv("LAUNCHER_RUN_MARK", "mark")
    try:
        bootstrap._end_mpi(library)
    except Left:
        return left[0]
    return None


def test_after_a_success_mpi_is_finalised(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    assert end(monkeypatch, library, 0) is None
    assert library.num_finalized == 1


def test_a_script_that_wants_no_end_of_mpi_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    assert end(monkeypatch, library, 0, finalize=False) is None
    assert library.num_finalized == 0


@pytest.mark.parametrize("state", [{"is_initialized": False}, {"is_finalized": True}])
@pytest.mark.parametrize("exit_code", [0, 3])
def test_where_mpi_does_not_run_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, state: dict[str, bool], exit_code: int
) -> None:
    library = Library(**state)
    assert end(monkeypatch, library, exit_code) is None
    assert library.num_finalized == 0


def test_after_a_failure_a_worker_leaves_without_waiting_for_the_others_and_says_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library, out = Library(), io.BytesIO()
    stream = io.TextIOWrapper(io.BufferedWriter(out))
    stream.write("last words")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)
    assert end(monkeypatch, library, 3) == 3
    assert out.getvalue() == b"last words"
    assert library.num_finalized == 0


def test_streams_that_the_script_has_closed_do_not_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    assert end(monkeypatch, Library(), 1) == 1


def test_a_rank_in_place_is_left_to_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    assert end(monkeypatch, library, 3, is_worker=False) is None
    assert library.num_finalized == 0
