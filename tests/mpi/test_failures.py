"""A rank of mpirun that fails: one report for all, printed before mpirun's words, its exit code,
and an end for those that wait.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_dirs
from tests.engines import needs_mpich, needs_mpirun, needs_torch
from tests.mpi.conftest import find_report

pytestmark = needs_mpirun

# All but the failing rank wait for it in a collective.
TORCH = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
if dist.get_rank() == 1: FAIL
dist.all_reduce(torch.ones(1))
"""


def _check_report(done: Any, rank: int = 1) -> str:
    """Check that there is one report, which names this rank's exception; return the report."""
    report = find_report(done.err)
    assert report.startswith(f"FAILED: rank {rank} (pid "), report
    assert "ValueError: only here" in report
    assert done.err.index("FAILED:") < done.err.index("mpirun detected")
    assert report.count("Traceback (most recent call last)") == 1, report
    assert "launcher/" not in report, "the traceback shows the user's frames only"
    return report


@needs_torch
def test_an_exception_on_one_rank_is_reported_once_and_ends_the_others(
    mpirun: Any, without_mpi4py: Any, tmp_path: Path
) -> None:
    done = mpirun(4, TORCH.replace("FAIL", "raise ValueError('only here')"), env=without_mpi4py)
    assert done.code == 1
    _check_report(done)
    (folder,) = run_dirs(tmp_path)
    report = json.loads((folder / "report.json").read_text())
    assert (report["rank"], report["error_message"]) == (1, "only here")
    assert "ValueError: only here" in (folder / "logs" / "rank_01.err").read_text()


@needs_torch
def test_a_killed_rank_ends_the_others_and_nobody_else_is_blamed(mpirun: Any) -> None:
    done = mpirun(2, TORCH.replace("FAIL", "os.kill(os.getpid(), 9)"))
    assert done.code == 137
    assert done.err.count("FAILED:") == 1, done.err
    assert ": killed by SIGKILL (9)" in done.err.partition("FAILED: rank 1 (pid ")[2]


@needs_torch
def test_a_rank_that_only_lost_its_peer_is_not_the_cause_though_it_fails_first(mpirun: Any) -> None:
    # Rank 1 leaves the process group on its way out, so that rank 0 fails before the true exception
    # has come up.
    text = (
        "import os, time, torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "def until(name):\n"
        "    while not os.path.exists(name): time.sleep(0.01)\n"
        "try:\n"
        "    if dist.get_rank() == 1: raise ValueError('only here')\n"
        "    dist.all_reduce(torch.ones(1))\n"
        "except ValueError:\n"
        "    dist.destroy_process_group()\n"
        "    until('lost')\n"
        "    raise\n"
        "except RuntimeError:\n"
        "    open('lost', 'w').close()\n"
        "    raise\n"
    )
    done = mpirun(2, text)
    assert done.code == 1
    assert "also failed, later: rank 0: " in _check_report(done)


def test_the_same_exception_on_all_ranks_is_one_report(mpirun: Any) -> None:
    text = (
        "import os, time\n"
        "open('came_' + os.environ['RANK'], 'w').close()\n"
        "while len([n for n in os.listdir() if n.startswith('came_')]) < 4: time.sleep(0.001)\n"
        "raise ValueError('only here')\n"
    )
    done = mpirun(4, text)
    assert done.code == 1
    first = int(done.err.partition("FAILED: rank ")[2].split()[0])
    report = _check_report(done, first)
    assert "also failed" not in report
    assert "the same on rank" in report


WAIT = "import os, time\nif os.environ['RANK'] == '1': {how}\nwhile True: time.sleep(1)\n"


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("raise SystemExit(3)", 3, "exit code 3"),
        ("raise SystemExit('no data')", 1, "no data"),
        ("os.kill(os.getpid(), 15)", 143, "killed by SIGTERM (15)"),
    ],
)
def test_the_exit_code_is_that_of_the_rank_that_failed(
    mpirun: Any, how: str, code: int, words: str
) -> None:
    done = mpirun(3, WAIT.format(how=how))
    assert done.code == code
    assert done.err.count("FAILED:") == 1, done.err
    report = done.err.partition("FAILED: rank 1 (pid ")[2]
    assert words in report
    assert f"Exit code:    {code}" in report


@needs_mpich
def test_under_mpich_report_and_exit_code_are_the_same(start_mpich: Any) -> None:
    done = start_mpich(3, WAIT.format(how="raise SystemExit(3)")).finish()
    assert done.code == 3
    assert done.err.startswith("FAILED: rank 1 (pid "), done.err
    assert "BAD TERMINATION" not in done.err


def test_ranks_that_end_well_say_nothing_at_different_times(mpirun: Any) -> None:
    text = (
        "import os, sys, time\n"
        "rank = int(os.environ['RANK'])\n"
        "while rank and not os.path.exists(f'ended_{rank - 1}'): time.sleep(0.005)\n"
        "open(f'ended_{rank}', 'w').close()\n"
        "sys.exit(0)\n"
    )
    done = mpirun(3, text)
    assert (done.code, done.out, done.err) == (0, "", "")


def test_the_scripts_own_hook_is_called(mpirun: Any, said: Any) -> None:
    text = (
        "import os, sys\n"
        "def hook(kind, value, trace):\n"
        "    with open('said_' + os.environ['RANK'], 'w') as file:\n"
        "        file.write(f'{kind.__name__} {value}')\n"
        "sys.excepthook = hook\n"
        "raise ValueError('only here')\n"
    )
    done = mpirun(2, text)
    assert done.code == 1
    assert done.err.count("FAILED:") == 1, done.err
    assert "ValueError only here" in said()  # the other rank may have been ended before


def test_the_report_is_where_run_dir_says_and_mpirun_can_be_told_to_be_quiet(
    mpirun: Any, tmp_path: Path
) -> None:
    done = mpirun(
        2, WAIT.format(how="raise ValueError('only here')"), "--run-dir", "mine", flags=["--quiet"]
    )
    assert done.code == 1
    assert done.err.count("FAILED:") == 1, done.err
    assert "mpirun" not in done.err
    (path,) = {path.resolve() for path in tmp_path.glob("mine/*/report.json")}
    assert json.loads(path.read_text())["error_message"] == "only here"
