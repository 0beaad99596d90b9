"""The lab itself: what a test can rely on when it works with several hosts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, wait_until
from tests.lab.lab import Lab

PINGS = ("ping", "-n", "-W", "1", "-c")

SERVE = """
import socket
sock = socket.create_server(("0.0.0.0", 29400))
while True:
    sock.accept()[0].close()
"""
CONNECT = """
import socket, sys
try:
    socket.create_connection(("h2", 29400), 1.0)
    print("connected")
except OSError as error:
    print(type(error).__name__)
"""
ORPHAN = "sleep 0.01 & exec sh -c 'sleep 0.02'"


def can_reach(lab: Lab, to: str, start: str = "h1") -> bool:
    return lab[start].run(*PINGS, "1", to).code == 0


def test_hosts_have_names_addresses_and_folders_of_their_own(lab: Lab, tmp_path: Path) -> None:
    script = (
        "hostname; pwd; getent hosts $(hostname); mktemp -u; touch /run/it /dev/shm/it; ls /run"
    )
    for host in lab.hosts:
        out = host.run("sh", "-c", script).out.splitlines()
        assert out[:2] == [host.name, str(tmp_path)]
        assert out[2].split() == [host.address, host.name]
        assert out[3].startswith("/run/tmp/")
        assert out[4:] == ["it", "tmp"]
    assert not Path("/run/it").exists()


def test_a_command_on_a_host_is_a_child_with_its_own_code_and_signals(lab: Lab) -> None:
    assert lab["h1"].run("sh", "-c", "echo to stderr >&2; exit 3")[:3] == (3, "", "to stderr\n")
    sleeping = lab["h2"].start("sleep", "100")
    assert lab["h2"].processes() == {sleeping.pid: "sleep 100"}
    assert lab["h1"].processes() == {}
    sleeping.send(signal.SIGTERM)
    assert sleeping.finish().code == -signal.SIGTERM


def test_orphans_are_reaped(lab: Lab) -> None:
    lab["h1"].run("sh", "-c", ORPHAN)
    wait_until(lambda: "Z" not in lab["h1"].run("ps", "-eo", "stat").out, "no zombie is left on h1")


@pytest.mark.slow
def test_a_cable_can_be_pulled_and_put_back(lab: Lab) -> None:
    assert can_reach(lab, "h2") and can_reach(lab, "fd77::2")
    lab["h2"].unplug()
    assert not can_reach(lab, "h2")
    lab["h2"].plug()
    # The kernel looks at cables once a second.
    wait_until(lambda: can_reach(lab, "h2"), "h2 is reached again")


@pytest.mark.slow
def test_connections_of_a_host_that_is_killed_are_closed_of_one_without_power_they_are_not(
    lab: Lab,
) -> None:
    listen = "import socket; print(socket.create_server(('h2', 29400)).accept()[0].recv(1))"
    wait = (
        "import socket; sock = socket.create_connection(('h2', 29400)); print('connected',"
        " flush=True)\nsock.settimeout(1)\ntry: print(sock.recv(1))\nexcept OSError as error:"
        " print(type(error).__name__)\n"
    )
    for end, said in (("kill", "b''"), ("power_off", "TimeoutError")):
        lab["h2"].start(sys.executable, "-c", listen)
        wait_until(lambda: lab["h2"].listens(29400), "h2 listens")
        waiting = lab["h1"].start(sys.executable, "-c", wait)
        waiting.wait_for("connected")
        getattr(lab["h2"], end)()
        assert waiting.finish().out.splitlines()[-1] == said
        lab["h2"].boot()


@pytest.mark.slow
def test_a_firewall_drops_or_rejects(lab: Lab) -> None:
    lab["h2"].start(sys.executable, "-c", SERVE)
    wait_until(lambda: lab["h2"].listens(29400), "h2 listens")
    said = []
    for rule in ("", "REJECT --reject-with tcp-reset", "DROP"):
        if rule:
            lab["h2"].run("iptables", "-F")
            lab["h2"].filter(f"INPUT -p tcp --dport 29400 -j {rule}")
        said.append(lab["h1"].run(sys.executable, "-c", CONNECT).out.strip())
    assert said == ["connected", "ConnectionRefusedError", "TimeoutError"]


@pytest.mark.slow
def test_frames_are_lost_and_late(lab: Lab) -> None:
    lab["h2"].lose(0.3)
    lab["h3"].delay(50)
    out = lab["h1"].run("ping", "-n", "-q", "-i", "0.002", "-W", "1", "-c", "200", "h2").out
    arrived = int(out.partition(" received")[0].split()[-1])
    assert 60 <= arrived <= 140, out  # 98 on average: each way loses its share
    out = lab["h1"].run("ping", "-n", "-q", "-c", "2", "-i", "0.2", "h3").out
    fastest_ms = float(out.rpartition("= ")[2].partition("/")[0])
    assert 100 <= fastest_ms < 150


def test_a_host_can_have_another_clock(lab: Lab) -> None:
    ask = (sys.executable, "-c", "import time; print(time.monotonic())")
    lab["h2"].boot(uptime_s=86400)
    before_s, after_s = (float(lab[name].run(*ask).out) for name in ("h1", "h2"))
    assert 86400 <= after_s - before_s < 86410


def test_a_host_can_be_wrong_about_its_own_name_or_not_know_it(lab: Lab) -> None:
    for host, address in ((lab["h1"], "127.0.1.1"), (lab["h2"], "")):
        others = {name: value for name, value in host.names.items() if name != host.name}
        host.set_names(others | ({host.name: address} if address else {}))
        assert host.run("getent", "hosts", host.name).out.split()[:1] == [address][: bool(address)]


def test_hosts_can_be_without_ipv4(lab: Lab) -> None:
    lab.use_ipv6()
    assert lab["h1"].run("getent", "hosts", "h2").out.split() == ["fd77::2", "h2"]
    assert can_reach(lab, "h2")
    assert not can_reach(lab, "10.77.0.2")


def test_what_a_test_has_changed_is_as_before_afterwards(lab: Lab) -> None:
    lab.use_ipv6()
    lab["h2"].unplug()
    lab["h3"].kill()
    assert lab.renew() == {}
    assert can_reach(lab, "10.77.0.2") and can_reach(lab, "10.77.0.3", "h2")
    assert not any(host.is_changed for host in lab.hosts)


@pytest.mark.slow
def test_what_outlives_its_test_is_found(lab: Lab) -> None:
    lab["h2"].run("sh", "-c", "setsid sleep 100 >/dev/null 2>&1 &")
    (left,) = lab.renew()["h2"].values()
    assert left == "sleep 100"


@pytest.mark.slow
def test_nothing_of_a_lab_outlives_tests_that_are_killed(tmp_path: Path) -> None:
    make = (
        "import sys\nfrom pathlib import Path\nfrom tests.lab.lab import Lab\n"
        "lab = Lab(Path(sys.argv[1]))\nlab['h1'].start('sleep', '100')\n"
        "print(*lab['h1'].processes(), flush=True)\ninput()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", make, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None and other.stdin is not None
    pid = int(other.stdout.readline())
    other.kill()
    other.communicate()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}/fd/0"), "its processes have ended")


@pytest.mark.slow
def test_ssh_leads_from_each_host_to_each_other_one(lab: Lab) -> None:
    config = lab.start_sshd()
    for name in ("h3", "10.77.0.3", "fd77::3"):
        done = lab["h1"].run("ssh", "-F", config, name, "hostname")
        assert (done.code, done.out, done.err) == (0, "h3\n", "")
    lab["h3"].boot()
    assert lab["h1"].run("ssh", "-F", config, "h3", "hostname").out == "h3\n"


@pytest.mark.slow
def test_slurm_runs_on_all_hosts_also_after_one_was_lost(lab: Lab) -> None:
    env = {"SLURM_CONF": str(lab.start_slurm())}
    step = ("srun", "-N3", "--ntasks-per-node=1", "--gres=gpu:2")
    command = (*step, "sh", "-c", "echo $SLURM_PROCID $(hostname) $CUDA_VISIBLE_DEVICES")
    for name in ("", "h2", "h1"):
        if name:
            lab[name].kill()
            lab.renew()
        done = lab["h1"].run(*command, env=env)
        assert done.lines == ["0 h1 0,1", "1 h2 0,1", "2 h3 0,1"], done.err
