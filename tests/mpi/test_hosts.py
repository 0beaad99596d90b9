"""Ranks that mpirun has started on several hosts: which node each of them is on, and what is not
said where nobody knows.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import kill_leftovers, wait_until
from tests.engines import needs_mpirun
from tests.mpi.conftest import GONE_S, find_report, without_warning

pytestmark = needs_mpirun

# What mpirun calls in place of ssh: the command runs on this machine, with the name of the host.
AGENT = """\
#!/bin/sh
while :; do case $1 in -*) shift ;; *) break ;; esac; done
host=$1
shift
exec unshare --uts sh -c "hostname $host; $*"
"""

SAY_NODE = """
import os
names = ("NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE")
with open("said_" + os.environ["RANK"], "w") as file:
    file.write(" ".join([os.uname().nodename, *(os.environ.get(name, "-") for name in names)]))
"""


@pytest.fixture
def start_on_hosts(start_mpirun: Any, tmp_path: Path) -> Callable[..., Any]:
    """Start a script's text on 4 ranks of hosts that exist in name only: `h1:3,h2:1`, say."""
    can_rename = (
        shutil.which("unshare")
        and subprocess.run(["unshare", "--uts", "true"], check=False).returncode == 0
    )
    if not can_rename:
        pytest.skip("a process of its own host name needs root")
    agent = tmp_path / "agent"
    agent.write_text(AGENT)
    agent.chmod(0o755)
    loopback = ("--mca", "oob_tcp_if_include", "lo", "--mca", "btl_tcp_if_include", "lo")
    flags = ("--mca", "plm_rsh_agent", str(agent), *loopback)

    def start(
        hosts: str, text: str, *more_flags: str, options: tuple[str, ...] = (), **how: Any
    ) -> Any:
        all_flags = (*flags, "--host", hosts, *more_flags)
        return start_mpirun(4, text, *options, flags=all_flags, **how)

    return start


@pytest.fixture
def on_hosts(start_on_hosts: Any) -> Callable[..., Any]:
    """Run it to its end."""
    return lambda *args, **how: start_on_hosts(*args, **how).finish(120.0)


@pytest.mark.parametrize(
    ("hosts", "flags", "nodes"),
    [
        ("h1:2,h2:2", (), "0011"),
        ("h1:2,h2:2", ("--map-by", "node"), "0101"),
        ("h1:3,h2:1", (), "0001"),
        ("h1:2,h2:2", ("-x", "MASTER_ADDR=127.0.0.1", "-x", "MASTER_PORT=29500"), "0011"),
    ],
    ids=["by slot", "by node", "uneven", "with an address of the user's"],
)
def test_each_rank_knows_its_node_and_how_many_there_are(
    on_hosts: Any, said: Any, hosts: str, flags: tuple[str, ...], nodes: str
) -> None:
    done = on_hosts(hosts, SAY_NODE, *flags)
    assert (done.code, without_warning(done.err)) == (0, "")
    assert said() == [f"h{int(node) + 1} {node} {node} 2" for node in nodes]


def test_the_hosts_need_no_mpi4py_to_find_each_other(
    on_hosts: Any, said: Any, without_mpi4py: Any
) -> None:
    path = f"PYTHONPATH={without_mpi4py['PYTHONPATH']}"
    done = on_hosts("h1:2,h2:2", SAY_NODE, "-x", path)
    assert (done.code, without_warning(done.err)) == (0, "")
    assert said() == ["h1 0 0 2", "h1 0 0 2", "h2 1 1 2", "h2 1 1 2"]


# As under Open MPI 5 and MPICH, which do not say how many hosts there are.
UNCOUNTED = ("env", "-u", "OMPI_MCA_orte_num_nodes")


def test_where_nobody_counts_the_hosts_the_ranks_do_it_over_mpi(on_hosts: Any, said: Any) -> None:
    done = on_hosts("h1:2,h2:2", SAY_NODE, "--map-by", "node", wrapper=UNCOUNTED)
    assert (done.code, without_warning(done.err)) == (0, "")
    assert said() == ["h1 0 0 2", "h2 1 1 2", "h1 0 0 2", "h2 1 1 2"]


def test_without_mpi4py_either_no_number_is_given_rather_than_a_wrong_one(
    on_hosts: Any, said: Any, without_mpi4py: Any
) -> None:
    flags = ("-x", "MASTER_ADDR=127.0.0.1", "-x", f"PYTHONPATH={without_mpi4py['PYTHONPATH']}")
    done = on_hosts("h1:2,h2:2", SAY_NODE, *flags, wrapper=UNCOUNTED)
    assert (done.code, without_warning(done.err)) == (0, "")
    assert said() == [f"{host} - - -" for host in ("h1", "h1", "h2", "h2")]


SAY_MASTER = """
import os
with open("said_" + os.environ["RANK"], "w") as file:
    file.write(os.environ["MASTER_ADDR"] + " " + os.environ["MASTER_PORT"])
"""


@pytest.mark.parametrize("has_mpi4py", [True, False])
@pytest.mark.parametrize("wrapper", [(), UNCOUNTED], ids=["counted", "not counted"])
def test_an_address_of_the_users_is_kept_and_all_have_the_same_port(
    on_hosts: Any,
    said: Any,
    without_mpi4py: dict[str, str],
    wrapper: tuple[str, ...],
    has_mpi4py: bool,
) -> None:
    more = [] if has_mpi4py else ["-x", f"PYTHONPATH={without_mpi4py['PYTHONPATH']}"]
    flags = ("-x", "MASTER_ADDR=127.0.0.1", *more)
    done = on_hosts("h1:2,h2:2", SAY_MASTER, *flags, wrapper=wrapper)
    assert (done.code, without_warning(done.err)) == (0, "")
    addresses, ports = zip(*(line.split() for line in said()), strict=True)
    assert set(addresses) == {"127.0.0.1"}
    assert ports[0].isdigit() and set(ports) == {ports[0]}


def test_a_failure_on_the_second_host_is_reported_once_and_ends_the_first(on_hosts: Any) -> None:
    text = (
        "from mpi4py import MPI\n"
        "if MPI.COMM_WORLD.rank == 3: raise ValueError('only here')\n"
        "MPI.COMM_WORLD.barrier()\n"
    )
    done = on_hosts("h1:2,h2:2", text)
    assert done.code == 1
    assert done.err.count("FAILED:") == 1, done.err
    assert "FAILED: rank 3 (pid " in done.err
    assert " on h2): exit code 1" in done.err


def test_ranks_of_several_hosts_that_wait_for_another_have_one_report(on_hosts: Any) -> None:
    """Both hosts have lost something: the others' connection is what the first cause led to."""
    text = """
import os, sys, time
import torch.distributed as dist
dist.init_process_group("gloo")
if os.environ["RANK"] == "2":
    raise ValueError("only here")
dist.barrier()
"""
    done = on_hosts("h1:2,h2:2", text)
    assert done.code == 1
    assert "FAILED: rank 2 (pid " in done.err
    assert " on h2): exit code 1" in find_report(done.err)
    assert "the report is shown on" not in done.err  # all write to one terminal


def test_ranks_of_several_hosts_start_again_together(on_hosts: Any, said: Any) -> None:
    text = (
        """
import os, sys
attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
if (os.environ["RANK"], attempt) == ("3", "0"):
    sys.exit(5)
if attempt == "0":
    while True: pass
"""
        + SAY_NODE
    )
    done = on_hosts("h1:2,h2:2", text, options=("--max-restarts", "1"))
    assert done.code == 0, done.err
    assert said() == ["h1 0 0 2", "h1 0 0 2", "h2 1 1 2", "h2 1 1 2"]
    assert "rank 3 failed, exit code 5" in done.err


def test_a_stop_of_mpirun_s_ends_the_job_without_a_report(start_on_hosts: Any) -> None:
    job = start_on_hosts("h1:2,h2:2", "print('waits', flush=True)\n" + WAIT)
    job.wait_for("waits", 4)
    job.send(signal.SIGTERM)
    done = job.finish()
    assert done.code != 0
    assert "FAILED" not in done.err


WAIT = "import signal\nwhile True: signal.pause()\n"


@pytest.fixture
def start_waiting(
    start_on_hosts: Any, find_families: Any, without_mpi4py: Any
) -> Callable[[], tuple[Any, Any, Any]]:
    """Start ranks without MPI, which would notice lost ones by itself; return both families."""

    def start() -> tuple[Any, Any, Any]:
        path = f"PYTHONPATH={without_mpi4py['PYTHONPATH']}"
        job = start_on_hosts("h1:2,h2:2", WAIT, "-x", "MASTER_ADDR=127.0.0.1", "-x", path)
        first, second = sorted(find_families(4, hosts=2), key=_first_rank)
        return job, first, second

    return start


def _first_rank(family: Any) -> str:
    return Path(f"/proc/{family.ranks[0]}/cmdline").read_text()


@pytest.mark.parametrize("kind", ["daemon", "supervisor", "server", "keeper", "proxies", "ranks"])
def test_whoever_is_killed_on_the_second_host_all_ends_on_both(
    start_waiting: Any, find_families: Any, suite_mark: str, kind: str
) -> None:
    job, _, second = start_waiting()
    victim = getattr(second, kind)
    os.kill(victim[0] if isinstance(victim, list) else victim, signal.SIGKILL)
    if kind == "keeper":  # another takes its place, and all goes on until somebody ends it
        wait_until(
            lambda: second.keeper not in [family.keeper for family in find_families(4, hosts=2)],
            "another keeper",
        )
        job.send(signal.SIGTERM)
    assert job.finish().code != 0
    assert kill_leftovers(suite_mark, GONE_S) == {}


def test_nothing_outlives_an_mpirun_that_was_killed_on_any_host(
    start_waiting: Any, suite_mark: str
) -> None:
    job, _, _ = start_waiting()
    job.process.kill()
    job.finish()
    assert kill_leftovers(suite_mark, GONE_S) == {}
