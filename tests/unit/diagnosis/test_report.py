"""What the report of a failure says, and how."""

from __future__ import annotations

import json

import pytest

from launcher.contract.error_file import WorkerError
from launcher.diagnosis.hang import Hang
from launcher.diagnosis.report import FailureReport, LaunchResult, render
from launcher.diagnosis.stacks import Frame, RankStack
from launcher.errors import LauncherError, SpawnError, UsageError
from launcher.horovod.stalls import Stall
from tests.unit.diagnosis.ended import raised, report, worker


def hang(stall: Stall) -> FailureReport:
    """A hang of ranks 0 and 1: both stand in the same line."""
    frames = (Frame("train.py", 9, "step"),)
    workers = (worker(0, None, 0.0), worker(1, None, 0.0))
    where = (RankStack(0, frames), RankStack(1, frames))
    return report(*workers, hang=Hang(where, 30.0, stall.odd_rank, stall.summary()))


def test_a_stall_that_horovod_found_names_the_missing_rank_and_the_tensors() -> None:
    found = hang(Stall(30.0, {1: ("allreduce.a", "allreduce.b")}))
    assert (found.rank, found.pid, found.exit_code) == (1, 101, 124)
    assert found.what.startswith(
        "Horovod has waited for 30 s for rank 1 in allreduce.a, allreduce.b: ranks 0-1 are at "
    )


def test_ranks_that_horovod_says_wait_for_each_other_are_all_named_and_none_is_blamed() -> None:
    found = hang(Stall(30.0, {0: ("allreduce.b",), 1: ("allreduce.a",)}))
    assert (found.rank, found.exit_code) == (-1, 124)
    assert found.what.startswith(
        "Horovod has waited for 30 s for rank 0 in allreduce.b; rank 1 in allreduce.a: "
    )


def test_equal_failures_are_grouped() -> None:
    found = report(
        *(worker(rank, 1, 1.0 + rank, error=raised("same", 1.0 + rank)) for rank in range(4))
    )
    assert found.rank == 0
    assert [(other.ranks, other.is_same) for other in found.others] == [((1, 2, 3), True)]
    text = render(found)
    assert "the same on ranks 1-3" in text
    assert text.count("ValueError: same") == 1


def test_a_failure_of_the_node_is_nobodys() -> None:
    found = report(
        worker(0, -9, 1.0, asked_to_stop_at=1.0), node_failure="the fork server has died"
    )
    assert (found.rank, found.exit_code) == (-1, 1)
    assert render(found).startswith("FAILED: the fork server has died")


@pytest.mark.parametrize("colour", [False, True])
def test_colours_only_where_they_are_wanted(colour: bool) -> None:
    assert ("\x1b[" in render(report(worker(0, 3, 1.0)), colour=colour)) == colour


def test_the_report_survives_the_way_through_its_file() -> None:
    found = report(
        worker(0, 1, 1.0, error=raised("\ud800 é\n", 1.0), last_lines=("a", "b")), worker(1, 2, 2.0)
    )
    assert FailureReport.from_json(json.loads(found.to_json())) == found
    for result in (LaunchResult(3, "/runs/a", 2, found), LaunchResult(0, None, 1)):
        assert LaunchResult.from_json(json.loads(result.to_json())) == result


@pytest.mark.parametrize(
    "error",
    [
        UsageError("There is no script.", hint="Type one."),
        LauncherError("The disk is full."),
        SpawnError("not found", exit_code=127),
    ],
)
def test_an_error_before_the_start_is_raised_again_as_what_it_was(error: LauncherError) -> None:
    result = LaunchResult(error.exit_code, error=error)
    again = LaunchResult.from_json(json.loads(result.to_json())).error
    assert type(again) is type(error)
    assert again is not None
    assert (again.message, again.hint, again.exit_code) == (
        error.message,
        error.hint,
        error.exit_code,
    )


def test_a_traceback_without_end_is_shortened_in_the_middle() -> None:
    error = WorkerError("E", "m", "".join(f"line {i}\n" for i in range(1000)), 1)
    lines = render(report(worker(0, 1, 1.0, error=error))).splitlines()
    assert len(lines) < 100
    assert any("line 0" in line for line in lines)
    assert any("line 999" in line for line in lines)
