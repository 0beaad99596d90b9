"""Stopping a launch over ssh: what comes to the command reaches all ranks of all hosts, once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.conftest import Running, Script, wait_until
from tests.lab.lab import Lab
from tests.ssh.conftest import SAVING, SIGINT, SIGTERM, StartOverSsh, find_process

pytestmark = pytest.mark.slow

Saved = Callable[[], list[str]]

STUBBORN = """
import signal, time
for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(signum, lambda *_: print("no", flush=True))
print("up", flush=True)
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def up(start_over_ssh: StartOverSsh, script: Script) -> Callable[..., Running]:
    """Start a script on two hosts, and wait until its three ranks are there."""

    def begin(text: str = SAVING, *options: str) -> Running:
        running = start_over_ssh(*options, "--hosts", "h1:2,h2:1", script(text))
        running.wait_for("up", 3)
        return running

    return begin


@pytest.mark.parametrize(
    ("signum", "told"),
    [(signal.SIGINT, SIGINT), (signal.SIGTERM, SIGTERM), (signal.SIGHUP, SIGTERM)],
)
def test_the_first_signal_lets_all_ranks_save_once(
    up: Callable[..., Running], saved: Saved, signum: signal.Signals, told: str
) -> None:
    running = up()
    running.send(signum)
    done = running.finish()
    assert saved() == [told] * 3
    assert done.code == 0  # as all ranks
    wanted = f"[launcher] received {signum.name}; stopping, a second one forces\n"
    assert done.err == wanted


def test_the_second_signal_forces(lab: Lab, up: Callable[..., Running]) -> None:
    running = up(STUBBORN)
    running.send(signal.SIGTERM)
    running.wait_for("no", 3)
    running.send(signal.SIGTERM)
    done = running.finish()
    assert done.code == 128 + signal.SIGTERM
    wait_until(lambda: not lab["h2"].processes(), "everything on h2 has ended")


def test_ranks_that_do_not_stop_are_killed_in_time(up: Callable[..., Running]) -> None:
    running = up(STUBBORN, "--shutdown-timeout", "0.5")
    running.send(signal.SIGTERM)
    done = running.finish()
    assert done.code == 128 + signal.SIGTERM
    assert "not ended 0.5 s after the stop, killing:" in done.err


def test_other_signals_reach_all_ranks_and_stop_none(up: Callable[..., Running]) -> None:
    running = up(
        "import signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0))\n"
        "print('up', flush=True)\n"
        "while True: signal.pause()\n"
    )
    running.send(signal.SIGUSR1)
    done = running.finish()
    assert (done.code, done.err) == (0, "")


def test_a_signal_while_hosts_are_being_reached_starts_nothing(
    lab: Lab, start_over_ssh: StartOverSsh, script: Script
) -> None:
    lab["h2"].filter("INPUT -p tcp --dport 22 -j DROP")
    running = start_over_ssh("--hosts", "h1,h2", script(SAVING), ssh="-o ConnectTimeout=30")
    wait_until(lambda: "engines/remote.py" in str(lab["h1"].processes()), "h1 is reached")
    running.send(signal.SIGINT)
    done = running.finish()
    assert done.code == 128 + signal.SIGINT
    assert done.err == "[launcher] received SIGINT; nothing was started\n"
    assert done.seconds < 10


def test_one_supervisor_that_is_asked_to_stop_stops_all_and_is_named_once(
    lab: Lab, up: Callable[..., Running], saved: Saved
) -> None:
    running = up()
    os.kill(find_process(lab, "h2", "-m launcher --nproc-per-node=1"), signal.SIGTERM)
    done = running.finish()
    assert saved() == [SIGTERM] * 3
    assert done.err == "[launcher] node 1 (h2) received SIGTERM; stopping\n"


def test_a_signal_ends_an_elastic_run_on_all_hosts_too(
    start_over_ssh: StartOverSsh, script: Script, saved: Saved
) -> None:
    args = ("--nnodes", "1:2", "--max-restarts", "3", "--hosts", "h1,h2", script(SAVING))
    running = start_over_ssh(*args)
    running.wait_for("up", 2)
    running.send(signal.SIGTERM)
    done = running.finish()
    assert saved() == [SIGTERM] * 2
    assert done.code == 0
    assert done.err == "[launcher] received SIGTERM; stopping, a second one forces\n"


def test_a_run_that_is_to_be_paused_goes_on(up: Callable[..., Running], saved: Saved) -> None:
    running = up()
    running.send(signal.SIGTSTP)
    running.wait_for("a run on several hosts cannot be paused; Ctrl-C stops it")
    running.send(signal.SIGINT)
    assert running.finish().code == 0
    assert saved() == [SIGINT] * 3
