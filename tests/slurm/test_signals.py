"""Signals that Slurm, or a person, sends to the ranks of a step: each rank gets each one once.

This Slurm finds the processes of a step by their parents, in /proc, as a part of the real ones do;
others reach only the processes that they have started. Neither must make a difference.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.system.processes import process_info
from tests.conftest import wait_until
from tests.slurm.conftest import LAUNCHER, ONE_NODE, TWO_NODES, Job

pytestmark = pytest.mark.slow

# Writes down what comes, and ends with the third signal.
COUNT = """
got = open(f"got_{RANK}", "w", buffering=1)
num = 0
def note(signum, frame):
    global num
    num += 1
    print(signal.Signals(signum).name, file=got)
for signum in (signal.SIGUSR1, signal.SIGUSR2): signal.signal(signum, note)
ready()
while num < 3: signal.pause()
"""


@pytest.fixture
def got(tmp_path: Path) -> Callable[[], list[list[str]]]:
    """Return what each rank has got so far."""
    return lambda: [path.read_text().split() for path in sorted(tmp_path.glob("got_*"))]


def _by_scancel(signum: signal.Signals, job: Job, slurm: Any) -> None:
    assert slurm("scancel", "--signal", signum.name[3:], job.id).code == 0


def _by_srun(signum: signal.Signals, job: Job, slurm: Any) -> None:
    job.running.send(signum)


@pytest.mark.parametrize("send", [_by_scancel, _by_srun], ids=["scancel", "kill of srun"])
@pytest.mark.parametrize(
    ("nodes", "options"),
    [(ONE_NODE, ()), (TWO_NODES, ()), (ONE_NODE, ("--start", "spawn"))],
    ids=["one node", "two nodes", "spawn"],
)
def test_each_rank_gets_each_signal_once(
    slurm: Any, start_job: Any, got: Any, send: Any, nodes: Any, options: Any
) -> None:
    job = start_job(4, COUNT, *options, nodes=nodes)
    wanted: list[str] = []
    # Each one also shows that the one before it has not come twice.
    for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
        send(signum, job, slurm)
        wanted.append(signum.name)
        wait_until(lambda: all(len(each) >= len(wanted) for each in got()), signum.name)
        assert got() == [wanted] * 4
    done = job.running.finish()
    assert (done.code, done.err) == (0, "")


# Says when it has been continued, and ends with the first SIGUSR1.
WAIT = """
signal.signal(signal.SIGUSR1, lambda *_: sys.exit())
ready()
while True: signal.pause()
"""


def _are_stopped(pids: list[int]) -> bool:
    return all(_state(pid) == "T" for pid in pids)


def _state(pid: int) -> str:
    info = process_info(pid)
    return info.state if info else ""


STOPS = {
    "suspend": (("scontrol", "suspend"), ("scontrol", "resume")),
    "signals": (("scancel", "--signal=STOP"), ("scancel", "--signal=CONT")),
}


@pytest.mark.parametrize("how", STOPS)
def test_ranks_stand_still_while_their_tasks_are_stopped(
    slurm: Any, start_job: Any, how: str
) -> None:
    stop, resume = STOPS[how]
    job = start_job(2, WAIT, "--hang-timeout", "1")
    assert slurm(*stop, job.id).code == 0
    wait_until(lambda: _are_stopped(job.pids), "the ranks stand still")
    time.sleep(2.5)  # longer than what would be a hang
    assert _are_stopped(job.pids)
    assert slurm(*resume, job.id).code == 0
    wait_until(lambda: not any(_state(pid) == "T" for pid in job.pids), "the ranks go on")
    slurm("scancel", "--signal=USR1", job.id)
    done = job.running.finish()
    assert (done.code, done.err) == (0, "")


# Saves at SIGTERM, which may come more than once; has nothing to do once that is done.
SAVE = """
import os, signal, sys, time
rank = os.environ["RANK"]
def save(signum, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(0.5)  # longer than Slurm needs to kill what is left of a job that has ended
    with open(f"saved_{rank}", "w") as file: file.write("saved")
    sys.exit(0)
if os.path.exists(f"saved_{rank}"):
    with open(f"said_{rank}", "w") as file: file.write(os.environ["TORCHELASTIC_RESTART_COUNT"])
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
open(f"ready_{rank}", "w").close()
while True: signal.pause()
"""


@pytest.fixture
def start_batch(slurm: Any, script: Any, tmp_path: Path) -> Callable[..., str]:
    """Start a batch job of two ranks that save; return its number once they are ready."""

    def start(command: str) -> str:
        (tmp_path / "job.sh").write_text(f"#!/bin/sh\n{command} {script(SAVE)}\n")
        where = (*ONE_NODE, "-n2", "--output=out", "--requeue")
        done = slurm("sbatch", "--parsable", *where, "job.sh")
        assert done.code == 0, done.err
        wait_until(lambda: len(list(tmp_path.glob("ready_*"))) == 2, "two ranks")
        return str(done.out.strip())

    return start


def _has_ended(slurm: Any, job_id: str) -> bool:
    return job_id not in slurm("squeue", "--noheader", "--format=%i").out.split()


SRUN = " ".join(("srun", *LAUNCHER))
ALONE = " ".join(("exec", *LAUNCHER, "--nproc-per-node", "2"))


@pytest.mark.parametrize("command", [SRUN, ALONE], ids=["srun", "batch script"])
def test_ranks_have_time_to_save_when_their_job_is_cancelled(
    slurm: Any, start_batch: Any, tmp_path: Path, command: str
) -> None:
    job_id = start_batch(command)
    slurm("scancel", job_id)
    wait_until(lambda: _has_ended(slurm, job_id), "the end of the job")
    assert len(list(tmp_path.glob("saved_*"))) == 2, (tmp_path / "out").read_text()
    assert "FAILED" not in (tmp_path / "out").read_text()


def test_ranks_save_before_a_requeue_and_know_of_it_afterwards(
    slurm: Any, start_batch: Any, tmp_path: Path, said: Any
) -> None:
    job_id = start_batch(SRUN)
    assert slurm("scontrol", "requeue", job_id).code == 0
    # Slurm would wait for some minutes.
    now = ("scontrol", "update", f"JobId={job_id}", "StartTime=now")
    wait_until(lambda: slurm("squeue", "--noheader", "--format=%t").out.strip() == "PD", "pending")
    assert len(list(tmp_path.glob("saved_*"))) == 2, (tmp_path / "out").read_text()
    wait_until(lambda: slurm(*now).code == 0, "a new start")
    wait_until(lambda: _has_ended(slurm, job_id), "the end of the job")
    assert said() == ["1", "1"]
