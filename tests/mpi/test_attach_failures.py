"""Ranks that mpirun has started, when one fails: one report for all, the cause's exit code, an end
for those that wait.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import is_alive, marked_processes, wait_until
from tests.engines import needs_horovod, needs_mpirun

pytestmark = needs_mpirun

# All but the failing rank wait for it in a collective, each with another library.
_TORCH = (
    "import os, torch, torch.distributed as dist\n"
    "dist.init_process_group('gloo')\n"
    "if dist.get_rank() == 1: raise ValueError('only here')\n"
    "dist.all_reduce(torch.ones(1))\n"
)
_HOROVOD = (
    "import torch, horovod.torch as hvd\n"
    "hvd.init()\n"
    "hvd.allreduce(torch.ones(1), name='together')\n"
    "if hvd.rank() == 1: raise ValueError('only here')\n"
    "hvd.allreduce(torch.ones(1), name='alone')\n"
)
_MPI = (
    "from mpi4py import MPI\nif MPI.COMM_WORLD.rank == 1: raise ValueError('only"
    " here')\nMPI.COMM_WORLD.barrier()\n"
)


@pytest.fixture
def notes_folder(tmp_path: Path) -> Any:
    """A folder for temporary files, in which no notes of ranks may be left."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    yield {"TMPDIR": str(folder)}
    assert [path.name for path in folder.iterdir() if path.name.startswith("launcher")] == []


@pytest.fixture
def without_mpi4py(tmp_path: Path) -> dict[str, str]:
    """Variables with which mpi4py cannot be imported."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    (folder / "mpi4py.py").write_text("raise ImportError('hidden by a test')\n")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}"}


def _check_report(done: Any, rank: int = 1) -> str:
    """Check that there is one report, which names this rank's exception; return the report."""
    assert done.err.count("FAILED:") == 1, done.err
    report = str(done.err[done.err.index("FAILED:") :])
    assert report.startswith(f"FAILED: rank {rank} (pid ")
    assert "ValueError: only here" in report
    assert done.err.count("Traceback (most recent call last)") == 1, done.err
    assert "launcher/" not in report.partition("-----")[0], (
        "the traceback shows the user's frames only"
    )
    return report


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    "text",
    [_TORCH, pytest.param(_HOROVOD, marks=needs_horovod), _MPI],
    ids=["torch", "horovod", "mpi"],
)
def test_an_exception_on_one_rank_is_reported_once_and_ends_the_others(
    mpirun: Any, notes_folder: Any, text: str, ranks: int
) -> None:
    done = mpirun(ranks, text, env=notes_folder)
    assert done.code == 1
    _check_report(done)


@pytest.mark.parametrize(
    "text", [_TORCH, pytest.param(_HOROVOD, marks=needs_horovod)], ids=["torch", "horovod"]
)
def test_it_is_the_same_without_mpi4py(
    mpirun: Any, notes_folder: Any, without_mpi4py: Any, text: str
) -> None:
    done = mpirun(2, text, env={**notes_folder, **without_mpi4py})
    assert done.code == 1
    _check_report(done)


def test_the_same_exception_on_all_ranks_is_one_report(mpirun: Any, notes_folder: Any) -> None:
    done = mpirun(
        4,
        "from mpi4py import MPI\nMPI.COMM_WORLD.barrier()\nraise ValueError('only here')\n",
        env=notes_folder,
    )
    assert done.code == 1
    first = int(done.err.partition("FAILED: rank ")[2].split()[0])
    report = _check_report(done, first)
    others = sorted({0, 1, 2, 3} - {first})
    assert "the same on rank" in report
    assert "also failed" not in report
    assert str(others[0]) in report.split("the same on", 1)[1].split("\n")[0]


@pytest.mark.parametrize(
    ("argument", "code", "words"), [("3", 3, "exit code 3"), ("'no data'", 1, "no data")]
)
def test_the_exit_code_is_that_of_the_rank_that_failed(
    mpirun: Any, notes_folder: Any, argument: str, code: int, words: str
) -> None:
    text = (
        "import sys\nfrom mpi4py import MPI\nif MPI.COMM_WORLD.rank == 1:"
        f" sys.exit({argument})\nMPI.COMM_WORLD.barrier()\n"
    )
    done = mpirun(3, text, env=notes_folder)
    assert done.code == code
    assert done.err.count("FAILED:") == 1
    assert done.err.count(words) >= 1
    assert "FAILED: rank 1 " in done.err


def test_a_rank_that_only_lost_its_peer_is_not_the_cause_though_it_fails_first(
    mpirun: Any, notes_folder: Any
) -> None:
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
    done = mpirun(2, text, env=notes_folder)
    assert done.code == 1
    assert "also failed, later: rank 0: " in _check_report(done)


def test_a_killed_rank_ends_the_others_and_nobody_else_is_blamed(
    mpirun: Any, notes_folder: Any
) -> None:
    text = _TORCH.replace("raise ValueError('only here')", "os.kill(os.getpid(), 9)")
    done = mpirun(2, text, env=notes_folder)
    assert done.code == 137
    assert "signal 9" in done.err
    assert "FAILED: rank 0" not in done.err
    assert "Traceback" not in done.err


def test_ranks_that_end_well_leave_nothing_and_say_nothing(mpirun: Any, notes_folder: Any) -> None:
    done = mpirun(3, "import sys\nsys.exit(0)\n", env=notes_folder)
    assert (done.code, done.err) == (0, "")


def test_the_scripts_own_hook_is_called(mpirun: Any, said: Any, notes_folder: Any) -> None:
    text = (
        "import sys\n"
        "def hook(kind, value, trace): open('said_hook', 'w').write(f'{kind.__name__} {value}')\n"
        "sys.excepthook = hook\n"
        "raise ValueError('only here')\n"
    )
    done = mpirun(1, text, "--backend", "mpi", env=notes_folder)
    _check_report(done, rank=0)
    assert said() == ["ValueError only here"]


def test_the_report_is_also_written_where_run_dir_says(
    mpirun: Any, notes_folder: Any, tmp_path: Path
) -> None:
    mpirun(2, _MPI, "--run-dir", "reports", env=notes_folder)
    (path,) = (tmp_path / "reports").glob("*/report.json")
    assert json.loads(path.read_text())["error_message"] == "only here"


def test_two_jobs_of_one_name_keep_their_failures_apart(
    start_mpirun: Any, notes_folder: Any
) -> None:
    env = {**notes_folder, "TORCHELASTIC_RUN_ID": "the same name"}
    jobs = [start_mpirun(2, _MPI, env=env) for _ in range(2)]
    for job in jobs:
        done = job.finish()
        assert done.code == 1
        _check_report(done)


@pytest.mark.parametrize("folder", ["/proc", "/does/not/exist"])
def test_without_a_place_for_notes_each_rank_reports_for_itself(mpirun: Any, folder: str) -> None:
    env = {"TMPDIR": folder, "OMPI_MCA_orte_tmpdir_base": "/tmp"}
    done = mpirun(2, _MPI, env=env)
    assert done.code == 1
    _check_report(done)


def test_mpirun_blames_nobody_else_and_can_be_told_to_be_quiet(
    mpirun: Any, notes_folder: Any
) -> None:
    loud = mpirun(2, _MPI, env=notes_folder)
    # Open MPI 4.1 often loses the text of this message, and then says only that.
    assert "MPI_ABORT was invoked on rank 1" in loud.err or "show_help.c" in loud.err
    quiet = mpirun(2, _MPI, env=notes_folder, flags=("--quiet",))
    assert quiet.code == 1
    _check_report(quiet)
    assert "MPI_ABORT" not in quiet.err


SAY_PID_AND_WAIT = """
import os, signal
with open(f"writing_{os.environ['RANK']}", "w") as file:
    file.write(str(os.getpid()))
os.rename(file.name, f"said_{os.environ['RANK']}")
signal.pause()
"""


@pytest.mark.parametrize(
    "options", [(), ("--nproc-per-node", "2")], ids=["ranks of mpirun", "a launcher of mpirun"]
)
def test_nothing_outlives_an_mpirun_that_was_killed_also_without_mpi(
    start_mpirun: Any, without_mpi4py: Any, said: Any, suite_mark: str, options: tuple[str, ...]
) -> None:
    child = start_mpirun(1 if options else 2, SAY_PID_AND_WAIT, *options, env=without_mpi4py)
    pids = [int(pid) for pid in wait_until(lambda: len(said()) == 2 and said(), "two ranks")]
    child.process.kill()
    wait_until(lambda: not any(map(is_alive, pids)), "the end of the ranks")
    wait_until(lambda: not marked_processes(suite_mark), "the end of all processes of the job")
