"""--engine mpi: from a list of hosts to mpirun, over a real ssh."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run, Running, Script, command
from tests.engines import MPI_SETTINGS, needs_mpirun
from tests.lab.lab import Lab
from tests.mpi.conftest import find_report, without_warning

StartEngine = Callable[..., Running]

SAY_PLACE = """
import os
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")
print(os.uname().nodename, *(os.environ[name] for name in names))
"""

SAVE = """
import os, signal, sys, time
def save(*args):
    time.sleep(1.5)  # longer than mpirun's own patience
    print("saved", os.environ["RANK"], flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("waits", os.environ["RANK"], flush=True)
while True: signal.pause()
"""


@pytest.mark.parametrize(
    ("hosts", "sizes"),
    [("h1:2,h2:2,h3:2", (2, 2, 2)), ("h1:1,h2:2", (1, 2)), ("h2:2,h3:1", (2, 1))],
    ids=["alike", "different", "elsewhere"],
)
def test_each_host_has_the_workers_that_the_list_says(
    start_engine: StartEngine, hosts: str, sizes: tuple[int, ...]
) -> None:
    done = start_engine(SAY_PLACE, "--hosts", hosts).finish()
    assert (done.code, without_warning(done.err)) == (0, "")
    names = [entry.partition(":")[0] for entry in hosts.split(",")]
    places = [(node, local) for node, size in enumerate(sizes) for local in range(size)]
    assert done.lines == [
        f"[{names[node]}:{rank}] {names[node]} {rank} {local} {len(places)} {node}"
        for rank, (node, local) in enumerate(places)
    ]


def test_a_hostfile_of_open_mpi_s_form(start_engine: StartEngine, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("h1 slots=1\nh2 slots=1  # the second\n")
    done = start_engine(SAY_PLACE, "--hostfile", "hosts").finish()
    assert (done.code, done.lines) == (0, ["[h1:0] h1 0 0 2 0", "[h2:1] h2 1 0 2 1"]), done.err


def test_variables_go_along(start_engine: StartEngine) -> None:
    text = """
import os
names = ("MINE", "TYPED", "NCCL_DEBUG", "OTHER", "LAUNCHER_SECRET")
print(*(os.environ.get(name, "-") for name in names))
"""
    options = ("--hosts", "h2:1,h3:1", "--export", "MINE,TYPED=a b")
    variables = {"MINE": "1", "NCCL_DEBUG": "WARN", "OTHER": "2"}
    done = start_engine(text, *options, **variables).finish()
    assert (done.code, done.lines) == (0, ["[h2:0] 1 a b WARN - -", "[h3:1] 1 a b WARN - -"]), (
        done.err
    )


def test_there_is_one_report_and_its_exit_code(start_engine: StartEngine) -> None:
    text = 'import os, sys\nif os.environ["RANK"] == "3": sys.exit(7)\nwhile True: pass\n'
    done = start_engine(text, "--hosts", "h1:2,h2:2").finish()
    assert done.code == 7
    assert " on h2): exit code 7" in find_report(done.err)
    assert "Primary job" not in done.err  # mpirun's banner


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_all_ranks_their_time(start_engine: StartEngine, signum: int) -> None:
    job = start_engine(SAVE, "--hosts", "h1:1,h2:1,h3:1")
    job.wait_for("waits", 3)
    job.send(signum)
    done = job.finish()
    assert done.out.count("saved") == 3, done.err
    # Open MPI tells that all have ended with 0; MPICH says nothing that could be trusted.
    assert done.code in (0, 128 + signum)


def test_a_second_signal_forces(start_engine: StartEngine) -> None:
    text = SAVE.replace("time.sleep(1.5)", 'print("saves", flush=True); time.sleep(100)')
    job = start_engine(text, "--hosts", "h1:1,h2:1")
    job.wait_for("waits", 2)
    job.send(signal.SIGTERM)
    job.wait_for("saves", 2)
    job.send(signal.SIGTERM)
    assert job.finish().code == 128 + signal.SIGTERM


def test_nothing_is_left_when_the_engine_s_launcher_is_killed(start_engine: StartEngine) -> None:
    job = start_engine(
        "import time\nprint('waits', flush=True)\ntime.sleep(100)\n", "--hosts", "h1,h2"
    )
    job.wait_for("waits", 2)
    job.send(signal.SIGKILL)
    job.finish()  # and the lab sees to it that nothing is left


@needs_mpirun
def test_signals_that_do_not_stop_reach_the_ranks(lab: Lab, script: Script) -> None:
    text = """
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *args: (print("heard", flush=True), sys.exit(0)))
print("waits", flush=True)
while True: signal.pause()
"""
    env = {**MPI_SETTINGS, "OMPI_MCA_plm_rsh_args": f"-F {lab.start_sshd()}"}
    job = lab["h1"].start(*command("--engine", "mpi", "--hosts", "h1,h2", script(text)), env=env)
    job.wait_for("waits", 2)
    job.send(signal.SIGUSR1)
    done = job.finish()
    assert (done.code, done.out.count("heard")) == (0, 2), done.err


def test_the_secret_stands_in_no_argument(start_engine: StartEngine, lab: Lab) -> None:
    text = "import time\nprint('waits', flush=True)\ntime.sleep(100)\n"
    job = start_engine(text, "--hosts", "h1,h2", LAUNCHER_SECRET="choose-a-long-one")
    job.wait_for("waits", 2)
    lines = [line for host in lab.hosts for line in host.processes().values()]
    assert len(lines) > 6
    assert [line for line in lines if "choose-a-long-one" in line] == []
    job.send(signal.SIGTERM)
    job.finish()


@needs_mpirun
def test_a_host_that_cannot_be_reached_is_named_with_ssh_s_words(lab: Lab, script: Script) -> None:
    env = {**MPI_SETTINGS, "OMPI_MCA_plm_rsh_args": f"-F {lab.start_sshd()}"}
    lab["h2"].filter("INPUT -p tcp --dport 22 -j REJECT --reject-with tcp-reset")
    argv = command("--engine", "mpi", "--hosts", "h1,h2", script(SAY_PLACE))
    done = lab["h1"].run(*argv, env=env)
    assert done.code not in (0, 2)
    assert "connect to host h2 port 22: Connection refused" in done.err


@needs_mpirun
def test_a_dry_run_shows_the_command(lab: Lab, script: Script) -> None:
    options = ("--engine", "mpi", "--hosts", "h1:2,h2:1", "--dry-run")
    done = lab["h1"].run(*command(*options, script(SAY_PLACE)), env={"LAUNCHER_SECRET": "word"})
    assert (done.code, without_warning(done.err)) == (0, "")
    words = shlex.split(done.out)
    assert words[0] == "mpirun" and words.count(":") == 1
    assert "LAUNCHER_SECRET" in words and "word" not in done.out
    assert words[words.index("--host") + 1] == "h1"
    assert f"{sys.executable} -m launcher --nproc-per-node=2" in done.out


def test_without_an_mpirun_there_is_word_of_what_to_install(run: Run, script: Script) -> None:
    options = ("--engine", "mpi", "--hosts", "h1")
    done = run(*options, script(SAY_PLACE), env={"PATH": os.path.dirname(sys.executable)})
    assert done.code == 1
    assert "--engine mpi needs mpirun, and there is none here" in done.err
    assert "apt-get install openmpi-bin" in done.err
