"""Launches over ssh: real sshd on the hosts of the lab, the command on one of them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Completed, Running, command
from tests.lab.lab import Lab

StartOverSsh = Callable[..., Running]
RunOverSsh = Callable[..., Completed]

# Each rank says that it is there, and saves when it is asked to stop.
SAVING = """
import os, signal, sys, time

def save(signum, frame):
    name = signal.Signals(signum).name
    open(f"saved_{os.environ['RANK']}", "a").write(name + "\\n")
    print("saved after", name, flush=True)
    sys.exit(0)

for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, save)
print("up", flush=True)
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def ssh_config(lab: Lab) -> Path:
    """A configuration of ssh that leads to all hosts."""
    return lab.start_sshd()


@pytest.fixture
def start_over_ssh(lab: Lab, ssh_config: Path) -> StartOverSsh:
    """Start the launcher with these arguments on a host, h1 unless told otherwise."""

    def begin(*args: str, on: str = "h1", ssh: str = "", **options: Any) -> Running:
        env = {"LAUNCHER_SSH": f"ssh {ssh} -F {ssh_config}", **options.pop("env", {})}
        return lab[on].start(*command(*args), env=env, **options)

    return begin


@pytest.fixture
def run_over_ssh(start_over_ssh: StartOverSsh) -> RunOverSsh:
    """Run the launcher with these arguments on a host, to its end."""
    return lambda *args, **options: start_over_ssh(*args, **options).finish()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[], list[str]]:
    """Return the signals that the ranks of SAVING have saved after, one line for each time."""
    return lambda: [path.read_text() for path in sorted(tmp_path.glob("saved_*"))]


def options_of(ssh_config: Path) -> str:
    """Return the options of a configuration, without the hosts that they are for."""
    lines = ssh_config.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith("  "))


def own_processes(lab: Lab, name: str) -> dict[int, str]:
    """Return what runs on a host and is no daemon's: a dead connection keeps an sshd for long."""
    return {pid: line for pid, line in lab[name].processes().items() if "sshd:" not in line}


def find_process(lab: Lab, name: str, text: str) -> int:
    """Return the lowest number of the processes of a host with this text in their command line."""
    numbers = [pid for pid, line in lab[name].processes().items() if text in line]
    assert numbers, f"no {text!r} on {name}: {lab[name].processes()}"
    return min(numbers)


SIGTERM, SIGINT = signal.SIGTERM.name + "\n", signal.SIGINT.name + "\n"
