"""A signal to one node's launcher reaches every rank of every node, once, with time to save."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.lab.lab import Lab
from tests.nodes.conftest import PRELUDE, SOON_S, WAITING, StartNodes

pytestmark = pytest.mark.slow

HOSTS = ("h1", "h2", "h3")

# Ranks that note each signal, save, and end with this code a moment later.
SAVING = PRELUDE + (
    "num_signals = 0\n"
    "def note(signum, frame):\n"
    "    global num_signals\n"
    "    num_signals += 1\n"
    "signal.signal(signal.SIGTERM, note)\nsignal.signal(signal.SIGINT, note)\n"
    "say('armed')\n"
    "while not num_signals:\n    time.sleep(0.005)\n"
    "time.sleep(0.2)\n"
    "open(f'said_{RANK}', 'w').write(str(num_signals))\n"
)


@pytest.mark.parametrize(
    ("signum", "host"), [(signal.SIGTERM, "h2"), (signal.SIGINT, "h1"), (signal.SIGINT, "h3")]
)
def test_every_rank_hears_it_once_and_all_nodes_end_with_0_when_all_ranks_do(
    start_nodes: StartNodes, said: object, signum: int, host: str
) -> None:
    job = start_nodes(SAVING, "--nproc-per-node", "2", hosts=HOSTS)
    for node in job.nodes.values():
        node.wait_for("armed", 2)
    job[host].send(signum)
    assert job.seconds_to_end() < SOON_S
    assert job.codes() == dict.fromkeys(HOSTS, 0), job.show()
    assert said() == ["1"] * 6  # type: ignore[operator]
    assert "FAILED" not in job.show()
    # Who was sent it, the others are told.
    others = [name for name in HOSTS if name != host]
    assert all(host in job[name].err for name in others), job.show()


def test_ranks_that_end_by_it_give_all_nodes_its_code(start_nodes: StartNodes) -> None:
    job = start_nodes(WAITING)
    job.wait_for_ranks(2)
    job["h2"].send(signal.SIGTERM)
    assert job.codes() == {"h1": 143, "h2": 143}, job.show()
    assert "FAILED" not in job.show()


def test_a_second_signal_forces_all_nodes(lab: Lab, start_nodes: StartNodes) -> None:
    text = (
        "for signum in (signal.SIGTERM, signal.SIGINT):\n"
        "    signal.signal(signum, lambda *_: say('no'))\nsay('armed')\n"
        "while True:\n    signal.pause()\n"
    )
    job = start_nodes(PRELUDE + text)
    for node in job.nodes.values():
        node.wait_for("armed")
    job["h2"].send(signal.SIGINT)
    for node in job.nodes.values():
        node.wait_for("no")
    job["h2"].send(signal.SIGINT)
    assert job.seconds_to_end() < SOON_S
    assert job.codes() == {"h1": 130, "h2": 130}, job.show()
    wait_until(lambda: not any(host.processes() for host in lab.hosts), "all hosts are empty")


def test_a_signal_before_the_nodes_have_met_ends_those_that_are_there(
    start_nodes: StartNodes, lab: Lab
) -> None:
    job = start_nodes(WAITING, nnodes="3")
    wait_until(lambda: lab["h1"].serves(29400), "h2 has found h1")
    job["h1"].send(signal.SIGTERM)
    assert job["h1"].finish().code == 143
    # The other one looks for the endpoint until its own time is up.
    job["h2"].send(signal.SIGTERM)
    assert job["h2"].finish().code == 143, job.show()


def test_signals_that_announce_something_go_to_the_ranks_of_that_node_and_stop_nothing(
    start_nodes: StartNodes, tmp_path: Path
) -> None:
    text = "signal.signal(signal.SIGUSR1, lambda *_: say('told'))\nsay('armed')\nwait('end')\n"
    job = start_nodes(PRELUDE + text)
    for node in job.nodes.values():
        node.wait_for("armed")
    job["h2"].send(signal.SIGUSR1)
    job["h2"].wait_for("told")
    job.end()
    assert job.codes() == {"h1": 0, "h2": 0}
