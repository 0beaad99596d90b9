"""--numa-binding in real workers; which CPUs those of other machines get is in
tests/unit/test_numa.py.
"""

from __future__ import annotations

import os

import pytest

from launcher.ranks import format_ranges
from launcher.system.numa import cpus_of_workers
from tests.conftest import Run, Script

SAY = (
    "import os, threading\nprint(sorted(os.sched_getaffinity(0)),"
    " len(os.sched_getaffinity(os.getppid())))\n"
)


@pytest.fixture(scope="module")
def mode() -> str:
    """A mode that gives two workers different CPUs, if this machine has one."""
    try:
        cpus_of_workers("exclusive", 2, (), os.sched_getaffinity(0))
    except ValueError:  # two threads of one core
        return "node"
    return "exclusive"


@pytest.mark.parametrize("method", ["warm", "spawn"])
def test_each_worker_may_use_its_own_cpus_and_the_launcher_all(
    run: Run, script: Script, mode: str, method: str
) -> None:
    done = run(
        "--nproc-per-node",
        "2",
        "--start",
        method,
        "--numa-binding",
        mode,
        script(SAY),
        env={"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.code == 0, done.err
    allowed = os.sched_getaffinity(0)
    wanted = cpus_of_workers(mode, 2, (), allowed)
    assert sorted(done.out.splitlines()) == [
        f"[{rank}] {sorted(wanted[rank])} {len(allowed)}" for rank in range(2)
    ]


def test_the_plan_shows_the_cpus(run: Run, script: Script, mode: str) -> None:
    done = run(
        "--nproc-per-node",
        "2",
        "--dry-run",
        "--numa-binding",
        mode,
        script(SAY),
        env={"CUDA_VISIBLE_DEVICES": ""},
    )
    for cpus in cpus_of_workers(mode, 2, (), os.sched_getaffinity(0)):
        assert f"\n  CPUs: {format_ranges(cpus)}\n" in done.out


def test_what_the_machine_cannot_do_is_refused_before_anything_starts(
    run: Run, script: Script
) -> None:
    too_many = str(len(os.sched_getaffinity(0)) + 1)
    done = run(
        "--nproc-per-node",
        too_many,
        "--dry-run",
        "--numa-binding",
        "exclusive",
        script(SAY),
        env={"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.code == 2
    assert "--numa-binding exclusive: needs a core for each of " in done.err
