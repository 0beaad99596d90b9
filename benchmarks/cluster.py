"""One run on several hosts of the lab, under this launcher or torchrun: its commands, and what its
ranks report. What is measured of it is in nodes.py.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import measure
from launchers import OURS, environment

if TYPE_CHECKING:
    from tests.conftest import Running
    from tests.lab.lab import Lab

# torchrun's other ways to meet: without elasticity, as it was first; and with a store of each
# attempt's own, which it needs to survive a restart after a collective.
STATIC, OWN_STORE = "torchrun, static", "torchrun, own store"

HOSTS = ("h1", "h2", "h3")
FIRST = "h1"

# How long both launchers wait for more nodes at the start of an elastic run, in seconds.
_LAST_CALL = "last_call_timeout=1"


class Reduced(NamedTuple):
    """The first all-reduce of a rank: when, and which process of which host it is."""

    at_ns: int
    host: str
    pid: int


class Cluster:
    """One run under one launcher: its commands on hosts, and what its ranks report."""

    def __init__(self, lab: Lab, name: str, port: int, fifo: str, lines: Iterator[list[str]]):
        self.lab = lab
        self.agents: dict[str, Running] = {}
        self.name = name
        self._port = port
        self._fifo = fifo
        self._lines = lines

    def command(self, host: str, nnodes: str, workers: int, restarts: int, way: str) -> list[str]:
        """Return what is typed on a host."""
        module = "launcher" if self.name == OURS else "torch.distributed.run"
        options = ["--nnodes", nnodes, "--nproc-per-node", str(workers)]
        if restarts:
            options += ["--max-restarts", str(restarts)]
        if self.name == STATIC:
            options += ["--node-rank", str(HOSTS.index(host)), "--master-addr", FIRST]
            options += ["--master-port", str(self._port)]
        else:
            options += ["--rdzv-endpoint", f"{FIRST}:{self._port}", "--rdzv-id", "benchmark"]
            options += ["--rdzv-conf", _LAST_CALL] if ":" in nnodes else []
            options += [] if self.name == OURS else ["--rdzv-backend", "c10d"]
        return [sys.executable, "-m", module, *options, measure.workload("nodes"), self._fifo, way]

    def start(
        self,
        hosts: Iterable[str],
        nnodes: str,
        workers: int = 1,
        restarts: int = 0,
        way: str = "on",
    ) -> None:
        """Type it on hosts."""
        env: dict[str, str | None] = {**environment(), "OMP_NUM_THREADS": "1"}
        if self.name == OWN_STORE:
            env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        for host in hosts:
            argv = self.command(host, nnodes, workers, restarts, way)
            self.agents[host] = self.lab[host].start(*argv, env=env, stdout=subprocess.DEVNULL)

    def wait_reduced(self, world_size: int, since_ns: int, within_s: float) -> dict[int, Reduced]:
        """Wait until all ranks of a world of this size have reduced after a moment, and return how.

        Raises Failed when they have not in time.
        """
        found: dict[int, Reduced] = {}
        ends_at = time.monotonic() + within_s
        for words in self._lines:
            if words:
                _, rank, size, reduced_ns, host, pid = words
                if int(size) == world_size and int(reduced_ns) > since_ns:
                    found[int(rank)] = Reduced(int(reduced_ns), host, int(pid))
            if len(found) == world_size:
                return found
            if time.monotonic() > ends_at:
                break
        raise measure.Failed(f"{len(found)} of {world_size} ranks have reduced in {within_s:g} s")

    def kill_rank(self, rank: Reduced) -> None:
        """Kill a rank, of which is known what its own host calls its process."""
        for pid in self.lab[rank.host].processes():
            status = Path(f"/proc/{pid}/status").read_text()
            numbers = status.partition("NSpid:")[2].partition("\n")[0].split()
            if int(numbers[-1]) == rank.pid:
                os.kill(pid, signal.SIGKILL)
                return
        raise measure.Failed(f"there is no process {rank.pid} on {rank.host}")

    def wait_ended(self, hosts: Iterable[str], processes: Iterable[int], within_s: float) -> None:
        """Wait for the end of the launchers on hosts, and of other processes; Failed if not."""
        waiting = [os.pidfd_open(self.agents[host].pid) for host in hosts]
        for pid in processes:
            try:
                waiting.append(os.pidfd_open(pid))
            except ProcessLookupError:
                pass
        ends_at = time.monotonic() + within_s
        try:
            while waiting:
                ready = select.select(waiting, [], [], max(0.0, ends_at - time.monotonic()))[0]
                if not ready:
                    raise measure.Failed(f"{len(waiting)} processes run on after {within_s:g} s")
                for fd in ready:
                    waiting.remove(fd)
                    os.close(fd)
        finally:
            for fd in waiting:
                os.close(fd)
