"""Ranks that one supervisor cannot start, or is not to: each process of mpirun is the rank itself,
and one line says why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.engines import MPI_SETTINGS, needs_mpi4py, needs_mpirun

pytestmark = needs_mpirun

_WHY = "launcher: each rank runs in the process that its engine has started: "

SAY_WHO = """
import os, sys
names = "RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR".split()
with open("said_" + os.environ["RANK"], "w") as file:
    parent = open(f"/proc/{os.getppid()}/comm").read().strip()
    file.write(" ".join([*(os.environ[name] for name in names), parent, *sys.argv[1:]]))
open("port_" + os.environ["MASTER_PORT"], "w").close()
"""


def _said(ranks: int, *words: str) -> list[str]:
    text = " ".join(["127.0.0.1 mpirun", *words])
    return [f"{rank} {rank} {ranks} {text}" for rank in range(ranks)]


def test_where_the_user_asks_for_it(mpirun: Any, said: Any, tmp_path: Path) -> None:
    done = mpirun(3, SAY_WHO, "--start", "in-place", args=["of $WORLD_SIZE"])
    assert (done.code, done.err) == (0, f"{_WHY}--start in-place\n")
    assert said() == _said(3, "of 3")
    assert len(list(tmp_path.glob("port_*"))) == 1
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_shows_each_rank_and_runs_nothing(mpirun: Any) -> None:
    done = mpirun(2, "print('never')\n", "--start", "in-place", "--dry-run")
    assert done.code == 0, done.err
    for rank in range(2):
        words = f"rank {rank} of 2, in the process that openmpi has started:"
        assert done.out.count(words) == 1
        assert f"  LOCAL_RANK={rank}   (OMPI_COMM_WORLD_LOCAL_RANK)\n" in done.out
    assert "never" not in done.out


def _start_two(start_command: Any, first: list[str], second: list[str], env: Any) -> Any:
    """Start a job of mpirun's that is made of two programs."""
    launcher = [sys.executable, "-m", "launcher"]
    argv = ["mpirun", "-np", "1", *launcher, *first, ":", "-np", "1", *launcher, *second]
    return start_command(argv, env=env)


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (["other.py", "b"], "they run different programs"),
        (["--max-restarts", "1", "script.py", "b"], "they have different options"),
    ],
)
def test_where_they_run_two_programs(
    start_command: Any, script: Any, said: Any, second: list[str], why: str
) -> None:
    script(SAY_WHO)
    script(SAY_WHO, "other.py")
    done = _start_two(start_command, ["script.py", "a"], second, MPI_SETTINGS).finish()
    lines = done.err.splitlines()
    assert (done.code, lines[0]) == (0, f"{_WHY}{why}"), done.err
    assert said() == ["0 0 2 127.0.0.1 mpirun a", "1 1 2 127.0.0.1 mpirun b"]


@pytest.fixture
def limit() -> Iterator[Path]:
    """The file of a memory cgroup's limit, in whichever version of cgroups this machine has."""
    for root, name in (("/memory", "memory.limit_in_bytes"), ("", "memory.max")):
        folder = Path(f"/sys/fs/cgroup{root}/launcher-test-{os.getpid()}")
        try:
            folder.mkdir()
            (folder / name).write_text("2G")
        except OSError:
            if folder.exists():
                folder.rmdir()
            continue
        yield folder / name
        folder.rmdir()
        return
    pytest.skip("needs the right to make a memory cgroup")


def test_where_a_rank_has_a_memory_limit_of_its_own(mpirun: Any, said: Any, limit: Path) -> None:
    text = f'[ $OMPI_COMM_WORLD_RANK = 1 ] && echo $$ >{limit.parent}/cgroup.procs; exec "$@"'
    done = mpirun(2, SAY_WHO, wrapper=["sh", "-c", text, "sh"])
    assert done.code == 0, done.err
    assert done.err.count(_WHY) == 1
    assert f"has a cgroup of its own with a limit ({limit.name})" in done.err
    assert said() == _said(2)


def test_where_each_rank_has_mounts_of_its_own(mpirun: Any, said: Any) -> None:
    argv = ["unshare", "--mount", "true"]
    if shutil.which("unshare") is None or subprocess.run(argv, check=False).returncode:
        pytest.skip("a mount namespace of its own needs root")
    done = mpirun(2, SAY_WHO, wrapper=["unshare", "--mount"])
    assert done.code == 0, done.err
    assert done.err.count(_WHY) == 1
    assert "is in a container of its own (another mnt namespace)" in done.err
    assert said() == _said(2)


def test_a_failing_rank_ends_the_job_with_its_code_and_mpirun_says_which(mpirun: Any) -> None:
    text = (
        "import os, time\n"
        "if os.environ['RANK'] == '1': raise SystemExit(3)\n"
        "while True: time.sleep(1)\n"
    )
    done = mpirun(3, text, "--start", "in-place")
    assert done.code == 3
    assert "FAILED" not in done.err
    assert "Exit code:    3" in done.err


@needs_mpi4py
def test_an_exception_ends_ranks_that_wait_for_it_in_mpi(mpirun: Any) -> None:
    text = (
        "from mpi4py import MPI\n"
        "if MPI.COMM_WORLD.rank == 1: raise ValueError('only here')\n"
        "MPI.COMM_WORLD.barrier()\n"
    )
    done = mpirun(3, text, "--start", "in-place")
    assert done.code == 1
    assert done.err.count("ValueError: only here") == 1


def test_ranks_in_place_do_not_outlive_mpirun(start_mpirun: Any, said: Any) -> None:
    text = SAY_WHO + "import signal\nsignal.pause()\n"
    job = start_mpirun(2, text, "--start", "in-place")
    wait_until(lambda: [text for text in said() if text] == _said(2), "two ranks")
    job.process.kill()
    job.finish()  # and the fixture looks for what is left


def test_without_an_engine_it_is_refused(run: Any, script: Any) -> None:
    done = run("--start", "in-place", "--nproc-per-node", "2", script("print('never')\n"))
    assert (done.code, done.out) == (2, "")
    assert "is for processes that mpirun or srun has started as ranks" in done.err
