"""One launcher on each host, started by mpirun: nothing is typed of nodes, and they are one run."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Running, Script, wait_until
from tests.engines import MPI_SETTINGS, MPICH, needs_mpich, needs_mpirun
from tests.lab.lab import Lab
from tests.mpi.conftest import find_report, without_warning

StartNodes = Callable[..., Running]

SAY_PLACE = """
import os
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "GROUP_WORLD_SIZE")
print(os.uname().nodename, *(os.environ[name] for name in names))
"""

WAIT = """
import os, signal
print("waits", os.environ["RANK"], flush=True)
while True: signal.pause()
"""


@pytest.fixture
def start_openmpi(lab: Lab, script: Script) -> StartNodes:
    """Start one launcher on each of these hosts with mpirun on h1, over ssh."""
    config = lab.start_sshd()

    def start(
        text: str,
        *options: str,
        hosts: str = "h1,h2,h3",
        flags: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
    ) -> Running:
        name = script(text)
        argv = ["mpirun", "--mca", "plm_rsh_args", f"-F {config}", "-x", "PYTHONPATH", *flags]
        argv += ["-q", "-H", hosts, "--map-by", "ppr:1:node"]
        launcher = [sys.executable, "-m", "launcher", "--nproc-per-node", "2", *options, name]
        return lab["h1"].start(*argv, *launcher, env={**MPI_SETTINGS, **(env or {})})

    return start


@pytest.fixture
def start_mpich(lab: Lab, script: Script, tmp_path: Path) -> StartNodes:
    """Start one launcher on each of these hosts with MPICH's mpiexec on h1, over ssh."""
    agent = tmp_path / "agent"
    agent.write_text(f'#!/bin/sh\nexec ssh -F {shlex.quote(str(lab.start_sshd()))} "$@"\n')
    agent.chmod(0o755)

    def start(
        text: str,
        *options: str,
        hosts: str = "h1,h2,h3",
        flags: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
    ) -> Running:
        name = script(text)
        number = str(len(hosts.split(",")))
        argv = [MPICH, "-launcher", "ssh", "-launcher-exec", str(agent), *flags]
        argv += ["-hosts", hosts, "-ppn", "1", "-n", number]
        launcher = [sys.executable, "-m", "launcher", "--nproc-per-node", "2", *options, name]
        return lab["h1"].start(*argv, *launcher, env=env)

    return start


@pytest.fixture(
    params=[pytest.param("openmpi", marks=needs_mpirun), pytest.param("mpich", marks=needs_mpich)]
)
def start_nodes(request: pytest.FixtureRequest) -> StartNodes:
    """Start the launchers under Open MPI and under MPICH."""
    start: StartNodes = request.getfixturevalue(f"start_{request.param}")
    return start


def _places(hosts: str) -> list[str]:
    """Return what the ranks of hosts with two workers each say, sorted."""
    names = hosts.split(",")
    places = [(2 * node + local, local, node) for node in range(len(names)) for local in (0, 1)]
    size, number = len(places), len(names)
    return sorted(
        f"[{names[node]}:{rank}] {names[node]} {rank} {local} {size} {node} {number}"
        for rank, local, node in places
    )


def test_the_launchers_of_mpirun_find_each_other_and_have_a_secret(start_nodes: StartNodes) -> None:
    done = start_nodes(SAY_PLACE).finish()
    assert (done.code, without_warning(done.err)) == (0, "")
    assert done.lines == _places("h1,h2,h3")


def test_they_meet_also_where_the_host_of_mpirun_takes_no_part(start_nodes: StartNodes) -> None:
    done = start_nodes(SAY_PLACE, hosts="h3,h2").finish()
    assert (done.code, without_warning(done.err)) == (0, "")
    assert done.lines == _places("h3,h2")


@needs_mpirun
def test_hosts_may_be_given_by_address_and_without_a_name_for_each_other(
    start_openmpi: StartNodes, lab: Lab
) -> None:
    for host in lab.hosts:
        host.set_names({"localhost": "127.0.0.1"})
    done = start_openmpi(SAY_PLACE, hosts="10.77.0.1,10.77.0.3").finish()
    assert (done.code, without_warning(done.err)) == (0, "")
    assert done.lines == _places("h1,h3")


@needs_mpirun
def test_an_address_of_the_users_is_where_they_meet_and_what_the_workers_see(
    start_openmpi: StartNodes,
) -> None:
    text = 'import os\nprint(os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"])\n'
    flags = ("-x", "MASTER_ADDR=h1", "-x", "MASTER_PORT=29511")
    done = start_openmpi(text, hosts="h1,h2", flags=flags).finish()
    assert (done.code, without_warning(done.err)) == (0, "")
    assert done.lines == [f"[h{rank // 2 + 1}:{rank}] h1 29511" for rank in range(4)]


@needs_mpirun
@pytest.mark.skipif(os.cpu_count() == 1, reason="needs more than one CPU")
@pytest.mark.parametrize("flags", [(), ("--bind-to", "core")], ids=["by itself", "as asked"])
def test_mpirun_binds_a_launcher_to_one_core_only_where_it_was_asked_to(
    start_openmpi: StartNodes, flags: tuple[str, ...]
) -> None:
    text = 'import os\nprint("may use", len(os.sched_getaffinity(0)))\n'
    done = start_openmpi(text, hosts="h1,h2", flags=flags).finish()
    assert done.code == 0, done.err
    has_all = done.out.count(f"may use {len(os.sched_getaffinity(0))}\n") == 4
    assert has_all == (not flags), done.out


def test_there_is_one_report_for_the_job_and_its_exit_code(start_nodes: StartNodes) -> None:
    text = WAIT.replace(
        "while", 'if os.environ["RANK"] == "3": raise ValueError("only here")\nwhile'
    )
    done = start_nodes(text).finish()
    assert done.code == 1
    report = find_report(done.err)
    assert " on h2): exit code 1" in report and "ValueError: only here" in report
    assert "the report is shown on" not in done.err  # all write to one terminal


def test_all_nodes_start_again_together(start_nodes: StartNodes) -> None:
    text = (
        'import os, sys\nattempt = os.environ["TORCHELASTIC_RESTART_COUNT"]\n'
        'print(os.environ["RANK"], attempt)\n'
        'sys.exit(os.environ["RANK"] == "2" and attempt == "0")\n'
    )
    done = start_nodes(text, "--max-restarts", "1", hosts="h1,h2").finish()
    assert done.code == 0, done.err
    assert {f"[h{rank // 2 + 1}:{rank}] {rank} 1" for rank in range(4)} <= set(done.lines)


@pytest.mark.parametrize("name", ["h1", "h2"])
def test_a_launcher_that_is_killed_ends_the_others(
    start_nodes: StartNodes, lab: Lab, name: str
) -> None:
    job = start_nodes(WAIT)
    job.wait_for("waits", 6)
    os.kill(_find_launcher(lab, name), signal.SIGKILL)
    assert job.finish().code != 0  # and the lab sees to it that nothing is left


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_on_any_host_when_mpirun_is_ended(
    start_nodes: StartNodes, signum: int
) -> None:
    job = start_nodes(WAIT)
    job.wait_for("waits", 6)
    job.send(signum)
    job.finish()  # hydra's mpiexec ends with 0 then


def test_flags_that_do_not_go_with_mpirun_are_named(start_nodes: StartNodes) -> None:
    done = start_nodes(SAY_PLACE, "--nnodes", "3", hosts="h1,h2").finish()
    assert done.code == 2
    assert done.out == ""
    assert "--nnodes 3 does not go with the 2 nodes that mpirun gives" in done.err
    assert "python -m launcher --nnodes 2 --nproc-per-node 2" in done.err


@needs_mpirun
def test_the_secret_stands_in_no_argument_and_the_workers_do_not_have_it(
    start_openmpi: StartNodes, lab: Lab
) -> None:
    name = "OMPI_MCA_orte_precondition_transports"
    job = start_openmpi(WAIT.replace('"waits"', f'"{name}" in os.environ, "waits"'))
    job.wait_for("waits", 6)
    environ = Path(f"/proc/{_find_launcher(lab, 'h2')}/environ").read_bytes().split(b"\0")
    values = dict(os.fsdecode(entry).split("=", 1) for entry in environ if b"=" in entry)
    assert len(values[name]) > 30
    lines = [line for host in lab.hosts for line in host.processes().values()]
    assert [line for line in lines if values[name] in line] == []
    assert job.out.count("False waits") == 6
    job.send(signal.SIGTERM)
    job.finish()


def _find_launcher(lab: Lab, name: str) -> int:
    """Return the launcher of a host, which is the first of the processes that are called so."""

    def look() -> Any:
        found = lab[name].processes()
        mine = [
            pid for pid, line in found.items() if line.startswith(f"{sys.executable} -m launcher")
        ]
        return sorted(mine)

    pids = wait_until(look, f"a launcher on {name}")
    return int(pids[0])
