"""Ranks of srun when one fails, or when somebody kills a part of the machinery: srun ends with the
code of the first cause, the report comes once, and nothing is left.
"""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from launcher.system.processes import process_info
from tests.conftest import marked_processes, wait_until
from tests.slurm.conftest import LAUNCHER, ONE_NODE, TWO_NODES, Job

pytestmark = pytest.mark.slow

_NEEDS_TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)

# All but the failing rank wait, in a collective or for nothing.
_TORCH = """
import os, sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
if dist.get_rank() == 1: FAIL
dist.all_reduce(torch.ones(1))
"""
_ALONE = """
import os, signal, sys
if os.environ["RANK"] == "1": FAIL
while True: signal.pause()
"""


@pytest.mark.parametrize(
    ("text", "fail", "code", "words"),
    [
        pytest.param(_TORCH, "sys.exit(3)", 3, "exit code 3", marks=_NEEDS_TORCH),
        (_ALONE, "os.kill(os.getpid(), 9)", 137, "killed by SIGKILL (9)"),
        (_ALONE, "raise ValueError('only here')", 1, "exit code 1"),
    ],
    ids=["code", "kill", "exception"],
)
def test_srun_ends_with_the_code_of_the_cause_after_one_report(
    slurm: Any, script: Any, text: str, fail: str, code: int, words: str
) -> None:
    name = script(text.replace("FAIL", fail))
    done = slurm("srun", *ONE_NODE, "-n", "4", *LAUNCHER, name, CUDA_VISIBLE_DEVICES="")
    assert done.code == code, done.err
    report, comma, by_srun = done.err.partition("srun: error:")
    assert report.count("FAILED: rank 1 (pid ") == 1
    assert words in report
    assert "FAILED" not in by_srun
    assert f"tasks 0-3: Exited with exit code {code}" in by_srun
    assert report.partition("FAILED")[2].count("ValueError: only here") == ("raise" in fail)
    assert "launcher/" not in done.err
    assert done.seconds < 15


@_NEEDS_TORCH
@pytest.mark.parametrize(
    ("flags", "codes"),
    # With the flag, Slurm kills who has not ended yet when the first one has: srun's code is the
    # highest of all tasks.
    [((), {3}), (("--kill-on-bad-exit=1",), {3, 137})],
    ids=["", "kill"],
)
def test_on_several_hosts_one_report_names_the_first_cause(
    slurm: Any, script: Any, flags: tuple[str, ...], codes: set[int]
) -> None:
    name = script(_TORCH.replace("== 1: FAIL", "== 3: sys.exit(3)"))
    command = ("srun", *flags, "--label", *TWO_NODES, "-n", "4", *LAUNCHER, name)
    done = slurm(*command, CUDA_VISIBLE_DEVICES="")
    assert done.code in codes
    assert done.err.count("FAILED") == 1, done.err
    (line,) = (line for line in done.err.splitlines() if "FAILED: rank 3 (pid " in line)
    assert line.startswith("0: ")  # the host of rank 0 shows it
    assert "Exited with exit code 3" in done.err


def test_ranks_of_several_hosts_start_again_together(slurm: Any, script: Any) -> None:
    text = """
import os, sys
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    if os.environ["RANK"] == "3": sys.exit(5)
    while True: pass
print("again", os.environ["RANK"], os.environ["GROUP_WORLD_SIZE"])
"""
    done = slurm("srun", *TWO_NODES, "-n", "4", *LAUNCHER, "--max-restarts", "1", script(text))
    assert done.code == 0, done.err
    assert done.lines == [f"again {rank} 2" for rank in range(4)]


# Only SIGKILL ends it.
_STAY = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
ready()
while True: signal.pause()
"""


def _parent(pid: int) -> int:
    info = process_info(pid)
    assert info is not None
    return info.parent_pid


def _proxies(mark: str) -> list[int]:
    """Return the processes that slurmstepd has started."""
    found = []
    for pid in marked_processes(mark):
        info = process_info(pid)
        above = process_info(info.parent_pid) if info else None
        if above is not None and above.name == "slurmstepd":
            found.append(pid)
    return sorted(found)


def _started_by_srun(mark: str) -> list[int]:
    """Return all processes of the job but those of srun itself, which are two."""
    found = [process_info(pid) for pid in marked_processes(mark)]
    return [info.pid for info in found if info is not None and info.name != "srun"]


def _supervisor(job: Job, mark: str) -> int:
    return _parent(_parent(job.pids[0]))  # the fork server stands between


VICTIMS: dict[str, Callable[[Job, str], int]] = {
    "slurmstepd": lambda job, mark: _parent(_proxies(mark)[0]),
    "srun": lambda job, mark: job.running.pid,
    "supervisor": _supervisor,
    **{
        f"process {number}": lambda job, mark, number=number: _proxies(mark)[number]
        for number in range(3)
    },
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_whoever_is_killed_all_end_and_nothing_is_left(
    slurm: Any, start_job: Any, suite_mark: str, victim: str
) -> None:
    job = start_job(3, _STAY, "--shutdown-timeout", "0.5")
    assert len(_proxies(suite_mark)) == 3
    os.kill(VICTIMS[victim](job, suite_mark), signal.SIGKILL)
    wait_until(lambda: _started_by_srun(suite_mark) == [], "the end of all")
    if victim == "slurmstepd":
        # Nobody tells srun.
        slurm("scancel", job.id)
        job.running.send(signal.SIGKILL)
    done = job.running.finish()
    assert done.code != 0
    if victim.startswith("process"):
        assert done.err.count("FAILED: rank ") == 1
        assert "the process that stood for it (pid " in done.err
    if victim == "supervisor":
        assert done.err.count("launcher: the supervisor of this host's ranks (pid ") == 1
