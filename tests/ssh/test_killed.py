"""Each process of a launch over ssh killed in turn, and cables pulled: nothing is left anywhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Running, Script, command, wait_until
from tests.lab.lab import Lab
from tests.ssh.conftest import SAVING, SIGTERM, StartOverSsh, find_process, own_processes

pytestmark = pytest.mark.slow

Saved = Callable[[], list[str]]

# What is killed: where, and a part of its command line.
HEAD = ("h1", "--hosts")
SSH = ("h1", "ssh -F")
OTHER_END_HERE = ("h1", "engines/remote.py")
OTHER_END_THERE = ("h2", "engines/remote.py")
DAEMON = ("h2", "sshd: root")
SUPERVISOR_HERE = ("h1", "-m launcher --nproc-per-node=2 --nnodes=2 --node-rank=0")
SUPERVISOR_THERE = ("h2", "-m launcher --nproc-per-node=2 --nnodes=2 --node-rank=1")
FORK_SERVER = ("h2", "forkserver")
RANK = ("h2", "[rank 3/4]")


@pytest.fixture
def up(start_over_ssh: StartOverSsh, script: Script) -> Callable[..., Running]:
    """Start a script on two hosts, and wait until its four ranks are there."""

    def begin(*options: str) -> Running:
        running = start_over_ssh(*options, "--hosts", "h1:2,h2:2", script(SAVING))
        running.wait_for("up", 4)
        return running

    return begin


def nothing_is_left(lab: Lab) -> bool:
    return not any(own_processes(lab, host.name) for host in lab.hosts)


@pytest.mark.parametrize("victim", [HEAD, SSH, OTHER_END_HERE, OTHER_END_THERE, DAEMON])
def test_whoever_holds_the_connection_is_killed_and_all_ranks_save_and_end(
    lab: Lab, up: Callable[..., Running], saved: Saved, victim: tuple[str, str]
) -> None:
    running = up()
    os.kill(find_process(lab, *victim), signal.SIGKILL)
    running.finish()
    wait_until(lambda: nothing_is_left(lab), "everything has ended on all hosts", 10)
    assert saved() == [SIGTERM] * 4


@pytest.mark.parametrize("victim", [SUPERVISOR_HERE, SUPERVISOR_THERE, FORK_SERVER, RANK])
def test_whoever_runs_ranks_is_killed_and_the_report_says_so(
    lab: Lab, up: Callable[..., Running], victim: tuple[str, str]
) -> None:
    running = up()
    os.kill(find_process(lab, *victim), signal.SIGKILL)
    done = running.finish()
    assert done.code in (1, 128 + signal.SIGKILL)
    assert done.err.count("FAILED: ") == 1
    assert victim[0] in done.err.partition("FAILED: ")[2] or victim == FORK_SERVER
    wait_until(lambda: nothing_is_left(lab), "everything has ended on all hosts", 10)


def test_the_run_ends_with_who_has_started_the_command(
    lab: Lab, ssh_config: Path, script: Script, saved: Saved
) -> None:
    argv = command("--die-with-parent", "--hosts", "h1,h2", script(SAVING))
    env = {"LAUNCHER_SSH": f"ssh -F {ssh_config}"}
    shell = lab["h1"].start("sh", "-c", '"$@" & wait', "sh", *argv, env=env)
    shell.wait_for("up", 2)
    shell.send(signal.SIGKILL)
    wait_until(lambda: nothing_is_left(lab), "everything has ended on all hosts", 10)
    assert saved() == [SIGTERM] * 2


def test_an_elastic_run_goes_on_without_a_host_whose_supervisor_is_killed(
    lab: Lab, start_over_ssh: StartOverSsh, script: Script
) -> None:
    name = script(
        "import os, time\n"
        "print('up', flush=True)\n"
        "while os.environ['WORLD_SIZE'] == '3': time.sleep(0.05)\n"
        "print('went on with', os.environ['WORLD_SIZE'])\n"
    )
    running = start_over_ssh("--nnodes", "2:3", "--max-restarts", "2", "--hosts", "h1,h2,h3", name)
    running.wait_for("up", 3)
    os.kill(find_process(lab, "h3", "-m launcher --nproc-per-node=1"), signal.SIGKILL)
    done = running.finish()
    assert done.code == 0, done.err
    assert done.out.count("went on with 2\n") == 2


def test_the_cable_of_a_host_is_pulled(lab: Lab, up: Callable[..., Running], saved: Saved) -> None:
    running = up("--node-timeout", "1")
    lab["h2"].unplug()
    done = running.finish()
    assert done.code == 1
    assert "FAILED: node 1 (h2) was lost: " in done.err
    assert "[launcher] h2 has been silent for 1 s\n" in done.err
    wait_until(lambda: nothing_is_left(lab), "everything has ended on all hosts", 10)
    assert saved() == [SIGTERM] * 4
    lab["h2"].kill()  # its sshd waits for a network that never comes


def test_the_cable_of_the_command_is_pulled_while_the_hosts_reach_each_other(
    lab: Lab, start_over_ssh: StartOverSsh, script: Script, saved: Saved
) -> None:
    args = ("--node-timeout", "1", "--hosts", "h2,h3", script(SAVING))
    running = start_over_ssh(*args)
    running.wait_for("up", 2)
    lab["h1"].unplug()
    done = running.finish()
    assert done.code == 3
    for name in ("h2", "h3"):
        assert f"[launcher] {name} has been silent for 5 s\n" in done.err
        assert f"[launcher] the connection to {name} is lost\n" in done.err
    wait_until(lambda: nothing_is_left(lab), "everything has ended on all hosts", 10)
    assert saved() == [SIGTERM] * 2
    for name in ("h2", "h3"):
        lab[name].kill()


def test_a_cable_that_is_out_for_a_moment_does_no_harm(
    lab: Lab, start_over_ssh: StartOverSsh, script: Script
) -> None:
    name = script(
        "import os, time\n"
        "print('up', flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.05)\n"
        "print('well')\n"
    )
    running = start_over_ssh("--hosts", "h1,h2", name)
    running.wait_for("up", 2)
    lab["h2"].unplug()
    lab["h3"].run("sleep", "2")
    lab["h2"].plug()
    lab["h3"].run("touch", "go")
    done = running.finish()
    assert (done.code, done.err) == (0, "")
    assert done.out.count("well") == 2
