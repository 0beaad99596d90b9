"""Nodes that fall silent: one whose launcher has died is known at once, one without power after a
stated time, and one that comes back in time has done no harm.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.lab.lab import Lab
from tests.nodes.conftest import PRELUDE, SOON_S, WAITING, StartNodes, find_report, kill

pytestmark = pytest.mark.slow

HOSTS = ("h1", "h2", "h3")
BY_RANK = {host: ("--node-rank", str(number)) for number, host in enumerate(HOSTS)}
NODE_TIMEOUT_S = 2


@pytest.mark.parametrize(("lost", "has_ipv4"), [("h1", True), ("h2", False)])
def test_when_a_launcher_is_killed_the_others_end_at_once_and_no_rank_is_orphaned(
    lab: Lab, start_nodes: StartNodes, lost: str, has_ipv4: bool
) -> None:
    if not has_ipv4:
        lab.use_ipv6()
    others = [name for name in HOSTS if name != lost]
    job = start_nodes(WAITING, "--nproc-per-node", "2", hosts=HOSTS, only=BY_RANK)
    job.wait_for_ranks(6)
    kill(job[lost])
    assert job.seconds_to_end(others) < SOON_S
    wait_until(lambda: not lab[lost].processes(), f"no rank is left on {lost}", SOON_S)
    done = {name: job[name].finish() for name in others}
    assert {one.code for one in done.values()} == {1}, job.show()
    # The lowest survivor says it, with the name of the host.
    assert f"({lost}) was lost" in find_report(done, others[0])


@pytest.mark.parametrize("lost", ["h1", "h2"])
@pytest.mark.parametrize("end", ["power_off", "unplug"])
def test_a_node_that_falls_silent_is_lost_after_the_stated_time(
    lab: Lab, start_nodes: StartNodes, lost: str, end: str
) -> None:
    others = [name for name in HOSTS if name != lost]
    job = start_nodes(WAITING, "--node-timeout", str(NODE_TIMEOUT_S), hosts=HOSTS, only=BY_RANK)
    job.wait_for_ranks(3)
    getattr(lab[lost], end)()
    took_s = job.seconds_to_end(others)
    assert NODE_TIMEOUT_S - 1.1 < took_s < NODE_TIMEOUT_S + 0.5 + SOON_S
    done = {name: job[name].finish() for name in others}
    assert {one.code for one in done.values()} == {1}, job.show()
    assert f"({lost}) was lost" in find_report(done, others[0])
    if end == "unplug":  # it ends by itself, since it cannot reach anybody
        assert job[lost].finish().code == 1, job.show()


def test_a_cable_that_is_out_for_three_seconds_and_a_launcher_that_stands_for_five_do_no_harm(
    lab: Lab, start_nodes: StartNodes
) -> None:
    job = start_nodes(WAITING, hosts=HOSTS, only=BY_RANK)
    job.wait_for_ranks(3)
    job["h3"].send(signal.SIGSTOP)
    lab["h2"].unplug()
    time.sleep(3)  # that nothing happens can only be seen by waiting
    lab["h2"].plug()
    time.sleep(2)
    job["h3"].send(signal.SIGCONT)
    time.sleep(1.5)
    assert all(node.process.poll() is None for node in job.nodes.values()), job.show()
    job.end()
    assert job.codes() == dict.fromkeys(HOSTS, 0), job.show()
    assert "attempt 1" not in job.show()


def test_the_coordinators_launcher_may_stand_for_five_seconds_too(start_nodes: StartNodes) -> None:
    job = start_nodes(WAITING, only=BY_RANK)
    job.wait_for_ranks(2)
    job["h1"].send(signal.SIGSTOP)
    time.sleep(5)
    job["h1"].send(signal.SIGCONT)
    job.end()
    assert job.codes() == {"h1": 0, "h2": 0}, job.show()


def test_a_bad_network_makes_a_run_slower_and_not_wrong(
    lab: Lab, start_nodes: StartNodes, tmp_path: Path
) -> None:
    lab["h2"].lose(0.3)
    lab["h3"].delay(50)
    text = PRELUDE + "wait('fail')\nsys.exit(3 if RANK == 1 else 0)\n"
    job = start_nodes(text, hosts=HOSTS, only=BY_RANK)
    job.wait_for_ranks(3)
    time.sleep(3)  # a few heartbeats, some of which are lost
    (tmp_path / "fail").touch()
    done = job.finish(60)
    assert {one.code for one in done.values()} == {3}, job.show()
    assert " on h2): exit code 3" in find_report(done)


def test_a_node_that_dies_before_the_others_have_come_is_not_waited_for(
    lab: Lab, start_nodes: StartNodes
) -> None:
    conf = ("--rdzv-conf", "join_timeout=20")
    job = start_nodes(WAITING, *conf, nnodes="3")
    wait_until(lambda: lab["h1"].listens(29400), "h1 waits for the others")
    kill(job["h2"])
    job["h2"].finish()
    later = start_nodes(WAITING, *conf, hosts=("h2", "h3"), nnodes="3")
    later.nodes["h1"] = job["h1"]
    later.wait_for_ranks(3)
    later.end()
    assert later.codes() == dict.fromkeys(("h2", "h3", "h1"), 0), later.show()
