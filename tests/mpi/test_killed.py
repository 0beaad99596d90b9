"""Each process of an engine's job is killed in turn: all others end, nothing is left or hangs."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.conftest import is_alive, kill_leftovers, marked_processes, wait_until
from tests.engines import needs_mpirun
from tests.mpi.conftest import GONE_S, read_stat

# Each rank has a child in a process group of its own that does not heed SIGTERM, as a data worker
# may; "ready" comes when all of it stands.
FAMILY = """
import os, signal
if os.fork() == 0:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open("child_" + os.environ["RANK"], "w").close()
    while True: signal.pause()
while True: signal.pause()
"""
RANKS = 3


@pytest.fixture
def start_family(start_ranks: Any, find_families: Any, tmp_path: Any) -> Any:
    """Start ranks with children under each engine; return the job and who is who."""

    def start(*options: str) -> Any:
        job = start_ranks(RANKS, FAMILY, "--shutdown-timeout", "1", *options)
        wait_until(lambda: len(list(tmp_path.glob("child_*"))) == RANKS, "children of the ranks")
        (family,) = find_families(RANKS)
        return job, family

    return start


def _check_nothing_left(mark: str) -> None:
    assert kill_leftovers(mark, GONE_S) == {}


def test_a_killed_rank_is_a_failure_that_is_named(start_family: Any, suite_mark: str) -> None:
    job, family = start_family()
    os.kill(family.ranks[1], signal.SIGKILL)
    done = job.finish()
    _check_nothing_left(suite_mark)
    assert done.code == 137
    assert done.err.count("FAILED:") == 1, done.err
    assert f"FAILED: rank 1 (pid {family.ranks[1]} on " in done.err


@pytest.mark.parametrize("whose", ["the supervisor's parent", "another"])
def test_a_killed_process_takes_its_rank_and_the_job_along(
    start_family: Any, suite_mark: str, whose: str
) -> None:
    job, family = start_family()
    parent = int(read_stat(family.supervisor)[1][1])
    others = [pid for pid in family.proxies if pid != parent]
    os.kill(others[0] if whose == "another" else parent, signal.SIGKILL)
    assert job.finish().code != 0
    _check_nothing_left(suite_mark)


def test_after_the_supervisor_nothing_is_left_and_it_is_said_once(
    start_family: Any, suite_mark: str
) -> None:
    job, family = start_family()
    os.kill(family.supervisor, signal.SIGKILL)
    done = job.finish()
    _check_nothing_left(suite_mark)
    assert done.code == 137
    words = f"the supervisor of this host's ranks (pid {family.supervisor}) was killed"
    assert done.err.count(words) == 1, done.err


def test_after_the_fork_server_all_ranks_end_and_the_report_names_it(
    start_family: Any, suite_mark: str
) -> None:
    job, family = start_family()
    os.kill(family.server, signal.SIGKILL)
    done = job.finish()
    _check_nothing_left(suite_mark)
    assert done.code == 1
    assert done.err.count("the fork server, parent of all workers here, has died") == 1, done.err


def test_another_keeper_takes_the_place_of_a_killed_one(
    start_family: Any, find_families: Any, suite_mark: str
) -> None:
    job, family = start_family()
    os.kill(family.keeper, signal.SIGKILL)

    def has_another() -> bool:
        (now,) = find_families(RANKS)
        return bool(now.keeper != family.keeper)

    wait_until(has_another, "another keeper")
    assert all(map(is_alive, family.ranks))
    os.kill(family.supervisor, signal.SIGKILL)
    assert job.finish().code == 137
    _check_nothing_left(suite_mark)


@pytest.mark.parametrize("options", [(), ("--start", "spawn")], ids=["warm", "spawn"])
def test_nothing_outlives_the_engine(
    start_ranks: Any, suite_mark: str, tmp_path: Any, options: tuple[str, ...]
) -> None:
    job = start_ranks(RANKS, FAMILY, *options)
    wait_until(lambda: len(list(tmp_path.glob("child_*"))) == RANKS, "children of the ranks")
    job.process.kill()
    job.finish()
    _check_nothing_left(suite_mark)


def test_nothing_outlives_mpichs_own_process_on_the_host(
    start_mpich: Any, find_families: Any, suite_mark: str
) -> None:
    job = start_mpich(RANKS, FAMILY)
    (family,) = find_families(RANKS)
    os.kill(family.daemon, signal.SIGKILL)
    job.finish()
    _check_nothing_left(suite_mark)


@needs_mpirun
def test_nothing_outlives_an_mpirun_with_one_launcher(
    start_mpirun: Any, suite_mark: str, tmp_path: Any
) -> None:
    job = start_mpirun(1, FAMILY, "--nproc-per-node", "2", "--shutdown-timeout", "1")
    wait_until(lambda: len(list(tmp_path.glob("child_*"))) == 2, "children of the ranks")
    job.process.kill()
    job.finish()
    _check_nothing_left(suite_mark)


@needs_mpirun
def test_two_jobs_beside_each_other_do_not_mix(
    start_mpirun: Any, find_families: Any, suite_mark: str
) -> None:
    jobs = [start_mpirun(2, FAMILY) for _ in range(2)]
    families = find_families(4, hosts=2)
    assert [len(family.ranks) for family in families] == [2, 2]
    by_daemon = {family.daemon: family for family in families}
    first, second = (by_daemon[job.pid] for job in jobs)
    os.kill(first.ranks[1], signal.SIGKILL)
    done = jobs[0].finish()
    assert (done.code, done.err.count("FAILED: rank 1 ")) == (137, 1)
    assert all(map(is_alive, [*second.ranks, *second.proxies]))
    jobs[1].process.kill()
    jobs[1].finish()
    wait_until(lambda: not marked_processes(suite_mark), "the end of the second job", GONE_S)
