"""Hosts that cannot take part: each is named at once, with the system's words, and nothing runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Completed, Run, Script, command
from tests.lab.lab import Lab
from tests.ssh.conftest import RunOverSsh, StartOverSsh

pytestmark = pytest.mark.slow

# Three hosts on two busy CPUs, an ssh to each of two, and one that fails.
SECONDS = 10.0

MUTE = """
import socket
server = socket.create_server(("", 2222))
print("listening", flush=True)
connection, _ = server.accept()
while connection.recv(100):
    pass
"""

Failing = Callable[..., Completed]


@pytest.fixture
def failing(run_over_ssh: RunOverSsh, tmp_path: Path) -> Failing:
    """Run a script that leaves a file, on hosts that cannot all take part."""
    (tmp_path / "script.py").write_text("import os; open('ran_' + os.environ['RANK'], 'w')\n")

    def execute(*args: str, **options: object) -> Completed:
        done = run_over_ssh(*args, "script.py", **options)
        assert list(tmp_path.glob("ran_*")) == []
        assert done.out == "" and done.seconds < SECONDS
        assert done.err.startswith("launcher: error: ")
        return done

    return execute


def test_a_host_that_refuses_connections(lab: Lab, failing: Failing) -> None:
    lab["h3"].filter("INPUT -p tcp --dport 22 -j REJECT --reject-with tcp-reset")
    done = failing("--hosts", "h1,h2,h3")
    assert done.code == 3
    reason = "h3 cannot be reached: ssh: connect to host h3 port 22: Connection refused. Try: ssh "
    assert reason in done.err


def test_a_host_that_does_not_answer(lab: Lab, failing: Failing) -> None:
    lab["h3"].filter("INPUT -p tcp --dport 22 -j DROP")
    done = failing("--hosts", "h1,h2,h3", ssh="-o ConnectTimeout=1")
    assert done.code == 3
    assert "h3 cannot be reached: ssh: connect to host h3 port 22: Connection timed out" in done.err


def test_a_host_that_accepts_and_says_nothing(lab: Lab, failing: Failing) -> None:
    lab["h2"].start(sys.executable, "-c", MUTE).wait_for("listening")
    done = failing(
        "--rdzv-conf", "join_timeout=1", "--hosts", "h1,h2", ssh="-o ConnectTimeout=60 -p 2222"
    )
    assert done.code == 3
    assert "h2 has not answered in 1 s." in done.err


def test_a_name_that_nobody_knows(failing: Failing) -> None:
    done = failing("--hosts", "h1,nowhere")
    assert done.code == 3
    assert "nowhere cannot be reached: ssh: Could not resolve hostname nowhere: " in done.err


def test_a_user_who_may_not_log_in(failing: Failing) -> None:
    done = failing("--hosts", "h1,nobody@h2")
    assert done.code == 3
    assert "h2 cannot be reached: nobody@h2: Permission denied (publickey" in done.err


def test_a_host_key_that_is_not_known(failing: Failing) -> None:
    done = failing("--hosts", "h1,h2", ssh="-o UserKnownHostsFile=/dev/null")
    assert done.code == 3
    assert "h2 cannot be reached: " in done.err
    assert "Host key verification failed. Try: ssh -o UserKnownHostsFile" in done.err


def test_all_hosts_that_fail_are_named(failing: Failing) -> None:
    done = failing("--hosts", "h1,nowhere2,nowhere1")
    lines = done.err.splitlines()
    assert lines[0] == "launcher: error: 2 of 3 hosts cannot take part:"
    assert [line.split()[0] for line in lines[1:]] == ["nowhere1", "nowhere2"]


def test_an_ssh_that_is_not_there(failing: Failing) -> None:
    done = failing("--hosts", "h1,h2", env={"LAUNCHER_SSH": "no-such-ssh"})
    assert "h2 cannot be reached: no-such-ssh: No such file or directory. LAUNCHER_SSH" in done.err


# What stands for ssh: one host answers and is gone a moment later, the other one says nothing.
GOING = """\
#!/bin/sh
case "$*" in *gone*) ;; *) exec sleep 60 ;; esac
mark="$*"
printf '\\036%s {"ready": {"port": 1, "address": "", "found": ""}}\\n' "${mark##* }"
echo "the line is cut" >&2
exit 255
"""


def test_a_host_that_has_answered_and_is_gone_before_all_have(
    run: Run, script: Script, tmp_path: Path
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(GOING)
    ssh.chmod(0o755)
    done = run("--hosts", "mute,gone", script("pass"), env={"LAUNCHER_SSH": str(ssh)})
    assert (done.code, done.seconds < SECONDS) == (3, True), done.err
    assert done.err == ("launcher: error: gone was lost before the run began: the line is cut.\n")


IN_FOLDER = 'mkdir -p "$1" && cd "$1" && touch script.py && shift && exec "$@"'


def test_a_host_without_the_folder(
    lab: Lab, start_over_ssh: StartOverSsh, ssh_config: Path
) -> None:
    argv = ["sh", "-c", IN_FOLDER, "sh", "/dev/shm/here"]
    argv += command("--hosts", "h1,h2", "script.py")
    done = lab["h1"].run(*argv, env={"LAUNCHER_SSH": f"ssh -F {ssh_config}"})
    assert done.code == 3
    reason = "h2 has no folder /dev/shm/here that could be entered: No such file or directory. All"
    assert reason in done.err


def test_a_host_without_the_script(lab: Lab, failing: Failing) -> None:
    lab["h1"].run("cp", "script.py", "/run/only_here.py")
    done = failing("--hosts", "h1,h2", "/run/only_here.py")
    assert done.code == 3
    assert "h2 cannot take part: There is no file /run/only_here.py." in done.err


def test_a_host_without_the_interpreter(lab: Lab, ssh_config: Path, tmp_path: Path) -> None:
    lab["h1"].run("ln", "-s", sys.prefix, "/run/venv")
    name = f"/run/venv/bin/{os.path.basename(sys.executable)}"
    (tmp_path / "script.py").write_text("print('ran')")
    env = {"LAUNCHER_SSH": f"ssh -F {ssh_config}"}
    done = lab["h1"].run(name, "-m", "launcher", "--hosts", "h1,h2", "script.py", env=env)
    assert (done.code, done.out) == (3, "")
    assert f"h2 does not have this interpreter, {name}: " in done.err
    assert "No such file or directory. The same environment must be at the same place" in done.err


def test_a_host_without_the_launcher(lab: Lab, ssh_config: Path, tmp_path: Path) -> None:
    lab["h1"].run("cp", "-r", str(ROOT / "launcher"), "/run/launcher")
    (tmp_path / "script.py").write_text("print('ran')")
    env = {"LAUNCHER_SSH": f"ssh -F {ssh_config}", "PYTHONPATH": "/run"}
    done = lab["h1"].run(*command("--hosts", "h1,h2", "script.py"), env=env)
    assert (done.code, done.out) == (3, "")
    assert "h2 does not have the launcher where it is here: " in done.err


def test_a_port_that_is_taken(failing: Failing) -> None:
    done = failing("--hosts", "h2,h1", "--control-port", "22")
    assert done.code == 3
    assert "h2 cannot serve port 22: Address already in use. Leave the port out" in done.err


def test_a_first_host_that_the_others_do_not_know(
    lab: Lab, failing: Failing, tmp_path: Path
) -> None:
    done = failing("--hosts", "localhost,h2")
    assert done.code == 3
    assert "h2 cannot reach the first host by the name localhost." in done.err
    assert "--rdzv-endpoint ADDRESS" in done.err


def test_an_elastic_run_begins_without_a_host_that_cannot_be_reached(
    run_over_ssh: RunOverSsh, script: Script
) -> None:
    conf = ("--rdzv-conf", "last_call_timeout=1")
    name = script("import os; print(os.environ['WORLD_SIZE'])")
    done = run_over_ssh("--nnodes", "2:3", *conf, "--hosts", "nowhere,h1,h2", name)
    assert done.code == 0, done.err
    assert sorted(line.split()[-1] for line in done.lines) == ["2", "2"]
    assert "[launcher] nowhere cannot be reached: " in done.err
    assert "; going on without it\n" in done.err


def test_with_too_few_hosts_an_elastic_run_does_not_begin(failing: Failing) -> None:
    done = failing("--nnodes", "2:3", "--hosts", "nowhere,h1,nobody@h2")
    assert done.code == 3
    assert "2 of 3 hosts cannot take part:" in done.err


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("--hosts", "h1:x"), "--hosts h1:x: must have a number of workers of at least 1"),
        (("--hostfile", "none"), "--hostfile none: cannot be read: No such file or directory. A"),
        (("--engine", "ssh"), "--engine ssh: needs hosts to start on. Type for example: "),
        (("--hosts", "h1,h2", "--nnodes", "3"), "contradict each other: there are 2 (h1,h2)."),
        (("--hosts", "h1:2,h2:2", "--nproc-per-node", "4"), "the list has the number of workers"),
        (("--hosts", "h1", "--node-rank", "0"), "the hosts have their ranks in the order of the"),
        (
            ("--hosts", "h1,h2", "--export", "NOT_SET"),
            "--export NOT_SET: there is no such variable",
        ),
    ],
)
def test_what_is_wrong_with_the_command_is_said_before_anything_is_reached(
    run_over_ssh: RunOverSsh, script: Script, args: tuple[str, ...], problem: str
) -> None:
    done = run_over_ssh(*args, script(""), env={"LAUNCHER_SSH": "no-such-ssh"})
    assert done.code == 2
    assert problem in done.err


def test_an_error_in_a_hostfile_names_its_line(
    run_over_ssh: RunOverSsh, script: Script, tmp_path: Path
) -> None:
    (tmp_path / "hosts.txt").write_text("h1 slots=1\nh2 slot=1\n")
    done = run_over_ssh("--hostfile", "hosts.txt", script(""))
    assert done.code == 2
    assert "--hostfile hosts.txt: line 2, `h2 slot=1`: must be HOST, HOST:N or HOST" in done.err
