"""A Slurm for these tests alone: a controller and four virtual nodes on this machine, without
munge, systemd or cgroups.

Two nodes are named by loopback addresses, so that every rank can find the first of them; the other
two by names that nobody knows. The first node has GPUs, which are copies of /dev/null. The daemons
run in the foreground as children of the tests, and end with them.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Completed, Running, ask_until, wait_until
from tests.engines import MPI_SETTINGS

NODES = ("127.0.0.1", "127.0.0.2", "nowhere1.invalid", "nowhere2.invalid")
LAUNCHER = (sys.executable, "-m", "launcher")
ONE_NODE = ("-N1", "-w", NODES[0])
TWO_NODES = ("-N2", "-w", ",".join(NODES[:2]))

_PATIENCE_S = 30.0

# What srun says when the job before has not quite gone yet.
_WAITS = re.compile(r"srun: job \d+ (queued and waiting for|has been allocated) resources$")

_GPUS = 4
_PROGRAMS = {"slurmd": "slurmd", "slurmctld": "slurmctld", "srun": "slurm-client"}

_SETTINGS = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
GresTypes=gpu
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_min_interval=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=3
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="package")
def slurm_conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The configuration of a running Slurm; its path in SLURM_CONF is all that srun needs."""
    missing = [package for program, package in _PROGRAMS.items() if _find(program) is None]
    if missing:
        pytest.skip(f"Slurm is not installed: apt-get install {' '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("slurmd must run as root")
    folder = tmp_path_factory.mktemp("slurm")
    conf = _write_conf(folder)
    environ = {"PATH": _path(), "SLURM_CONF": str(conf)}
    daemons = [
        ["slurmctld", "-D", "-c", "-i"],
        *(["slurmd", "-D", "-c", "-N", node] for node in NODES),
    ]
    running = []
    try:
        for number, argv in enumerate(daemons):
            with (folder / f"log-{number}").open("wb") as log:
                # A test run that is killed takes them along.
                running.append(
                    subprocess.Popen(
                        ["setpriv", "--pdeathsig=TERM", *argv], env=environ, stdout=log, stderr=log
                    )
                )
        logs = [folder / f"log-{number}" for number in range(len(daemons))]
        assert _is_idle(environ), "Slurm has not started:\n" + "\n".join(
            log.read_text()[-1000:] for log in logs
        )
        yield conf
        # No step is left, and so no process of one, when the nodes are idle. There is no state
        # worth an orderly end.
        subprocess.run(["scancel", f"--user={_user()}"], env=environ, check=False)
        assert _is_idle(environ), "a job did not end"
    finally:
        for daemon in running:
            daemon.kill()
        for daemon in running:
            daemon.wait()


def _path() -> str:
    return os.environ["PATH"] + ":/usr/sbin"  # where Debian keeps daemons


def _find(program: str) -> str | None:
    return shutil.which(program, path=_path())


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _write_conf(folder: Path) -> Path:
    host = socket.gethostname().partition(".")[0]
    ports = _free_ports(len(NODES) + 1)
    text = _SETTINGS.format(folder=folder, host=host, ports=ports, user=_user())
    (folder / "state").mkdir()
    for number in range(_GPUS):
        os.mknod(folder / f"gpu{number}", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    (folder / "gres.conf").write_text(
        f"NodeName={NODES[0]} Name=gpu File={folder}/gpu[0-{_GPUS - 1}]\n"
    )
    for node, port in zip(NODES, ports[1:], strict=True):
        (folder / f"spool-{node}").mkdir()
        (folder / f"tmp-{node}").mkdir()
        text += (
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4"
            f" RealMemory=1000 State=UNKNOWN{f' Gres=gpu:{_GPUS}' if node == NODES[0] else ''}\n"
        )
    conf = folder / "slurm.conf"
    conf.write_text(text)
    return conf


def _free_ports(count: int) -> list[int]:
    """Return ports that are free all at once, so no two are the same."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def _is_idle(environ: dict[str, str]) -> bool:
    """Wait until all nodes are idle; False when they are not in time."""
    argv = ["sinfo", "--noheader", "--states=idle", "--format=%D"]

    def all_are() -> bool:
        done = subprocess.run(
            argv,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        return done.stdout.strip() == str(len(NODES))

    return bool(ask_until(all_are, _PATIENCE_S))


@pytest.fixture
def start_slurm(slurm_conf: Path, start_now: Callable[..., Running]) -> Callable[..., Running]:
    """Start a command of Slurm's in the folder of the test."""
    # Else srun says that it waits for the nodes of the test before.
    assert _is_idle({"PATH": _path(), "SLURM_CONF": str(slurm_conf)}), "a job did not end"

    return start_now


@pytest.fixture
def start_now(slurm_conf: Path, start_command: Callable[..., Running]) -> Callable[..., Running]:
    """The same while another job runs."""

    def start(*argv: str, stdin: Any = subprocess.DEVNULL, **env: str) -> Running:
        settings = {"PATH": _path(), "SLURM_CONF": str(slurm_conf), **MPI_SETTINGS}
        running = start_command(argv, env=settings | env, stdin=stdin)
        finish = running.finish
        running.finish = lambda *args: _without_waits(finish(*args))  # type: ignore[method-assign]
        return running

    return start


def _without_waits(done: Completed) -> Completed:
    """Leave out that the job before it had not quite gone."""
    lines = done.err.splitlines(keepends=True)
    return done._replace(err="".join(line for line in lines if not _WAITS.match(line)))


@pytest.fixture
def slurm(start_slurm: Callable[..., Running]) -> Callable[..., Any]:
    """Run a command of Slurm's to its end, in the folder of the test."""
    return lambda *argv, **options: start_slurm(*argv, **options).finish(60.0)


# So long after the end of a job, whose credentials it has revoked, Slurm takes new ones: it
# compares whole seconds.
_REVOKED_S = 2.0


def restart(job_id: str, run: Callable[..., Completed]) -> None:
    """Let a requeued job begin at once; Slurm would wait for some minutes."""
    state = ("squeue", "--noheader", "--format=%T", f"--jobs={job_id}")
    wait_until(lambda: run(*state).out.strip() == "PENDING", "the end of the first")
    time.sleep(_REVOKED_S)
    assert run("scontrol", "update", f"JobId={job_id}", "StartTime=now").code == 0


class Job:
    """A step of ranks that have come as far as saying that they are ready."""

    def __init__(self, running: Running, folder: Path, ranks: int) -> None:
        self.running = running
        self._folder = folder
        wait_until(lambda: self._places("ready_*").count("\n") == ranks, "ready ranks")
        places = [line.split() for line in self._places("ready_*").splitlines()]
        self.id = places[0][0]
        self.pids = [int(place[1]) for place in places]

    def _places(self, pattern: str) -> str:
        return "".join(path.read_text() for path in sorted(self._folder.glob(pattern)))


# What the scripts of such jobs begin with.
_PRELUDE = """
import os, signal, sys
RANK = os.environ["RANK"]
def ready():
    with open(f"ready_{RANK}", "w") as file:
        print(os.environ["SLURM_JOB_ID"], os.getpid(), file=file)
"""


@pytest.fixture
def start_job(
    start_slurm: Callable[..., Running], script: Callable[..., str], tmp_path: Path
) -> Callable[..., Job]:
    """Start the launcher below srun with a script's text; return once all ranks have called ready.

    nodes: the options of srun that choose them.
    """

    def start(ranks: int, text: str, *options: str, nodes: tuple[str, ...] = ONE_NODE) -> Job:
        argv = ("srun", *nodes, "-n", str(ranks), *LAUNCHER, *options, script(_PRELUDE + text))
        return Job(start_slurm(*argv), tmp_path, ranks)

    return start
