"""What the tests of several nodes share: one launcher on each host of the lab, and ranks that tell
where they are.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TIMEOUT_S, Completed, Running, Script, command, wait_until
from tests.lab.lab import Lab

PORT = 29400
ENDPOINT = f"h1:{PORT}"

# What the scripts of these tests begin with. `say` writes a line to stdout, which the launcher
# tags; `wait` is for a file that a test makes, `meet` for all other ranks of the attempt.
PRELUDE = """\
import json, os, signal, sys, time
RANK, WORLD_SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
ATTEMPT, NODE = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), os.uname().nodename
def say(text):
    print(text, flush=True)
def wait(name):
    while not os.path.exists(name):
        time.sleep(0.005)
def meet():
    open(f"here_{ATTEMPT}_{RANK}", "w").close()
    for rank in range(WORLD_SIZE):
        wait(f"here_{ATTEMPT}_{rank}")
say(f"attempt {ATTEMPT}: rank {RANK} of {WORLD_SIZE} on {NODE}")
"""

# Ranks that do nothing until the test makes the file `end`.
WAITING = PRELUDE + "wait('end')\n"

# How long the others may take to hear of a failure, and end. The figure to reach is in
# benchmarks/nodes.py; here the machine may be busy.
SOON_S = 5.0


class Job:
    """The launchers of one run, by the name of their host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.nodes: dict[str, Running] = {}

    def __getitem__(self, host: str) -> Running:
        return self.nodes[host]

    def wait_for_ranks(self, count: int, attempt: int = 0, hosts: Iterable[str] = ()) -> None:
        """Wait until all ranks of an attempt with so many have said where they are."""
        text = f"attempt {attempt}: rank "
        of = f" of {count} on "
        names = tuple(hosts) or tuple(self.nodes)

        def all_are() -> bool:
            lines = [line for name in names for line in self[name].out.splitlines()]
            return sum(text in line and of in line for line in lines) == count

        try:
            wait_until(all_are, f"{count} ranks of attempt {attempt}", TIMEOUT_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.show()}") from None

    def end(self) -> None:
        """Let all ranks that wait for it end with 0."""
        (self._folder / "end").touch()

    def finish(self, timeout_s: float = TIMEOUT_S) -> dict[str, Completed]:
        """Wait until all have ended, and return how."""
        try:
            return {name: node.finish(timeout_s) for name, node in self.nodes.items()}
        except Exception as error:
            raise AssertionError(f"{error}\n{self.show()}") from None

    def codes(self, timeout_s: float = TIMEOUT_S) -> dict[str, int]:
        """Wait until all have ended, and return their exit codes."""
        return {name: done.code for name, done in self.finish(timeout_s).items()}

    def seconds_to_end(self, hosts: Iterable[str] = (), timeout_s: float = TIMEOUT_S) -> float:
        """Wait until the launchers of these hosts have ended; return how long that took."""
        began = time.monotonic()
        for name in tuple(hosts) or tuple(self.nodes):
            self[name].process.wait(timeout_s)
        return time.monotonic() - began

    def show(self) -> str:
        """Return all that all have said so far."""
        return "\n".join(
            f"--- {name}, code {node.process.poll()}\n{node.out}{node.err}"
            for name, node in self.nodes.items()
        )


StartNode = Callable[..., Running]
StartNodes = Callable[..., Job]


@pytest.fixture
def start_node(lab: Lab) -> StartNode:
    """Start the launcher on a host with these arguments; the nodes of a run have a secret."""

    def start(host: str, *args: Any, env: Mapping[str, str | None] | None = None) -> Running:
        return lab[host].start(*command(*args), env={"LAUNCHER_SECRET": "hush", **(env or {})})

    return start


@pytest.fixture
def start_nodes(start_node: StartNode, script: Script, tmp_path: Path) -> StartNodes:
    """Start a script's text on hosts, whose number is that of --nnodes if nothing else is said.

    only: more options of some of them, by host. program: what to run in place of a script.
    """

    def start(
        text: str,
        *options: str,
        hosts: Sequence[str] = ("h1", "h2"),
        nnodes: str = "",
        endpoint: str = ENDPOINT,
        only: Mapping[str, Sequence[str]] | None = None,
        program: Sequence[str] = (),
        name: str = "script.py",
        **how: Any,
    ) -> Job:
        program = program or (script(text, name),)
        job = Job(tmp_path)
        where = ("--rdzv-endpoint", endpoint) if endpoint else ()
        for host in hosts:
            more = (only or {}).get(host, ())
            job.nodes[host] = start_node(
                host,
                "--nnodes",
                nnodes or str(len(hosts)),
                *where,
                *options,
                *more,
                *program,
                **how,
            )
        return job

    return start


@pytest.fixture
def run_nodes(start_nodes: StartNodes) -> Callable[..., dict[str, Completed]]:
    """Run a script's text on hosts to its end; returns how each launcher ended, by host."""
    return lambda *args, **options: start_nodes(*args, **options).finish()


def own_lines(text: str) -> list[str]:
    """Return what a launcher has said itself: not a rank's words, not a report."""
    return [line for line in text.splitlines() if line.startswith("[launcher] ")]


def find_report(done: Mapping[str, Completed], host: str = "h1") -> str:
    """Return the only report of a run; it must stand on this host's screen, at the end."""
    reports = {name: one.err.count("FAILED:") for name, one in done.items()}
    shown = "".join(f"--- {name}, code {one.code}\n{one.err}" for name, one in done.items())
    assert reports == {name: int(name == host) for name in done}, shown
    return done[host].err[done[host].err.index("FAILED:") :]


def kill(running: Running) -> None:
    """Kill a launcher as nothing can be prepared for."""
    running.send(signal.SIGKILL)
