"""What the tests of an engine's ranks share: mpirun as they need it, and who is who in a run."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from launcher.attached.proxy import DAEMONS
from tests.conftest import Running, command, marked_processes, wait_until
from tests.engines import MPI_SETTINGS, MPICH, make_mpich_settings, needs_mpich, needs_mpirun
from tests.lab.lab import Lab

# How long everything may take to go when one of a run's processes has been killed.
GONE_S = 10.0


@pytest.fixture
def start_mpirun(start_command: Any, script: Any) -> Any:
    """Start the launcher under mpirun with a script's text; "" for a command in `args`.

    `wrapper` is a command that each process goes through before it becomes the launcher.
    """

    def start(
        ranks: int,
        text: str,
        *options: str,
        args: Iterable[str] = (),
        env: Any = None,
        flags: Iterable[str] = (),
        wrapper: Iterable[str] = (),
        engine: str = "mpirun",
        **how: Any,
    ) -> Running:
        launcher = [*wrapper, sys.executable, "-m", "launcher", *options]
        program = [script(text), *args] if text else args
        argv = [engine, *flags, "-np", str(ranks), *launcher, *program]
        return start_command(argv, env={**MPI_SETTINGS, **(env or {})}, **how)

    return start


@pytest.fixture
def mpirun(start_mpirun: Any) -> Any:
    """Run the launcher under mpirun with a script's text; returns what `Running.finish` returns."""
    return lambda *args, **options: start_mpirun(*args, **options).finish(120.0)


@pytest.fixture
def start_mpich(start_mpirun: Any, tmp_path: Path) -> Any:
    """Start the launcher under MPICH's mpiexec."""
    settings = make_mpich_settings(tmp_path / "mpich")

    def start(*args: Any, env: Any = None, **options: Any) -> Running:
        env = {**settings, **(env or {})}
        return start_mpirun(*args, env=env, engine=MPICH, **options)

    return start


@pytest.fixture(
    params=[pytest.param("openmpi", marks=needs_mpirun), pytest.param("mpich", marks=needs_mpich)]
)
def start_ranks(request: pytest.FixtureRequest) -> Any:
    """Start the launcher under Open MPI and under MPICH."""
    names = {"openmpi": "start_mpirun", "mpich": "start_mpich"}
    return request.getfixturevalue(names[request.param])


@pytest.fixture
def without_mpi4py(tmp_path: Path) -> dict[str, str]:
    """Variables with which mpi4py cannot be imported."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    (folder / "mpi4py.py").write_text("raise ImportError('hidden by a test')\n")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}"}


def find_report(text: str) -> str:
    """Return the only report in what mpirun has printed; lines of others may follow it.

    They have come by other pipes, which mpirun reads as it likes.
    """
    assert text.count("FAILED:") == 1, text
    report, log, _ = text[text.index("FAILED:") :].partition("\n  log: ")
    assert log, text
    return report


def without_warning(text: str) -> str:
    """Return what mpirun has printed without its word that a child was quicker than itself."""
    return "\n".join(line for line in text.splitlines() if "plm:rsh: Warning" not in line)


class Family(NamedTuple):
    """The processes of a run on one host."""

    daemon: int  # the engine's, parent of the proxies
    proxies: list[int]  # by local rank; these stand for the ranks
    supervisor: int
    keeper: int
    server: int  # the fork server
    ranks: list[int]  # by local rank


@pytest.fixture
def find_families(suite_mark: str) -> Callable[..., list[Family]]:
    """Wait until all processes of a run stand, on so many hosts, and return who is who."""

    def find(ranks: int, hosts: int = 1) -> list[Family]:
        def look() -> list[Family] | None:
            found = _families(marked_processes(suite_mark))
            num_ranks = sum(len(family.ranks) for family in found)
            num_proxies = sum(len(family.proxies) for family in found)
            is_whole = len(found) == hosts and num_ranks == num_proxies == ranks
            return found if is_whole else None

        families: list[Family] = wait_until(look, f"{ranks} ranks on {hosts} hosts stand")
        return families

    return find


def read_stat(pid: int) -> tuple[str, list[str]]:
    """Return a process's name, and its fields in proc(5) from the third on: state, parent, ..."""
    before, _, behind = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    return before.partition("(")[2], behind.split()


def _families(processes: dict[int, str]) -> list[Family]:
    """Return those whose supervisor has a fork server and a keeper, by the daemon's number."""
    names, parents, sessions = {}, {}, {}
    for pid in processes:
        try:
            names[pid], fields = read_stat(pid)
        except OSError:
            continue
        parents[pid], sessions[pid] = int(fields[1]), int(fields[3])
    proxies = {
        _number_of(pid): pid
        for pid in parents
        if names.get(parents[pid]) in DAEMONS and names[pid] not in DAEMONS
    }
    found = []
    for server in [pid for pid in parents if " forkserver " in processes[pid]]:
        supervisor = parents[server]
        keepers = [
            pid for pid in parents if parents[pid] == supervisor and pid not in (server, supervisor)
        ]
        ranks = {
            int(processes[pid].split()[1].partition("/")[0]): pid
            for pid in parents
            if parents[pid] == server
            and sessions[pid] == pid
            and processes[pid].startswith("[rank ")
        }
        # The supervisor is nobody's child: who stands for whom, the engine's numbers tell.
        job, _ = _number_of(server)
        mine = [proxies[job, rank] for rank in sorted(ranks) if (job, rank) in proxies]
        if len(keepers) != 1 or not ranks or len(mine) != len(ranks):
            continue
        by_rank = [ranks[number] for number in sorted(ranks)]
        found.append(Family(parents[mine[0]], mine, supervisor, keepers[0], server, by_rank))
    return sorted(found)


def _number_of(pid: int) -> tuple[bytes, int]:
    """Return the job and the rank of which the engine has told a process, or its maker."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    environ = dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)
    rank = environ.get(b"OMPI_COMM_WORLD_RANK") or environ.get(b"PMI_RANK", b"-1")
    return environ.get(b"PMIX_NAMESPACE", b""), int(rank)  # -1: a program of the engine's own


@pytest.fixture(
    params=[pytest.param("openmpi", marks=needs_mpirun), pytest.param("mpich", marks=needs_mpich)]
)
def engine_settings(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> dict[str, str]:
    """Variables with which `--engine mpi` on a host of the lab reaches the others."""
    config = lab.start_sshd()
    if request.param == "openmpi":
        return {**MPI_SETTINGS, "OMPI_MCA_plm_rsh_args": f"-F {config}"}
    agent = tmp_path / "agent"
    agent.write_text(f'#!/bin/sh\nexec ssh -F {shlex.quote(str(config))} "$@"\n')
    agent.chmod(0o755)
    return {"LAUNCHER_MPIRUN": f"{MPICH} -launcher ssh -launcher-exec {agent}"}


@pytest.fixture
def start_engine(lab: Lab, engine_settings: dict[str, str], script: Any) -> Callable[..., Running]:
    """Start a script's text with the engine, from h1."""

    def start(
        text: str, *options: str, stdin: Any = subprocess.DEVNULL, **variables: str
    ) -> Running:
        argv = command("--engine", "mpi", *options, script(text))
        return lab["h1"].start(*argv, env={**engine_settings, **variables}, stdin=stdin)

    return start
