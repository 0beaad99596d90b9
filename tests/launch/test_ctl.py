"""`python -m launcher.ctl` from another terminal: look at runs that are going on, and act on
them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.ctl import messages
from tests.conftest import Completed, Run, Running, Script, Start, wait_until

pytestmark = pytest.mark.slow

WAITING = """
import os, signal, time
rank = os.environ["RANK"]
signal.signal(signal.SIGUSR1, lambda *_: print(f"got USR1 on {rank}", flush=True))
signal.signal(signal.SIGWINCH, lambda *_: print(f"got WINCH on {rank}", flush=True))
print("ready", flush=True)
def wait():
    while True: time.sleep(100)
wait()
"""

Ctl = Callable[..., Completed]
Waiting = Callable[..., Running]


@pytest.fixture
def ctl(run_command: Run) -> Ctl:
    """Run `launcher.ctl` with these arguments."""
    return lambda *args, before=(), **options: run_command(
        [*before, sys.executable, "-m", "launcher.ctl", *args], **options
    )


@pytest.fixture
def waiting(start: Start, script: Script) -> Waiting:
    """Start a run of two ranks with this id, and wait until both are there."""

    def begin(run_id: str, *options: str) -> Running:
        child = start(
            "--nproc-per-node", "2", "--rdzv-id", run_id, *options, script(WAITING), "--lr", "0.1"
        )
        child.wait_for("ready", 2)
        return child

    return begin


def lines_of(done: Completed, run_id: str) -> list[str]:
    """Return the lines about one run; others may be going on on this machine."""
    return [line for line in done.out.splitlines() if line.startswith(run_id)]


def test_ps_shows_id_state_ranks_age_and_last_output(
    waiting: Waiting, ctl: Ctl, suite_mark: str
) -> None:
    child = waiting(f"one-{suite_mark}")
    (line,) = lines_of(ctl("ps"), f"one-{suite_mark}")
    assert f"pid {child.pid}  2/2 ranks running  " in line
    assert "last output " in line
    assert line.endswith("script.py --lr 0.1")


def test_ps_without_runs_says_so(ctl: Ctl) -> None:
    # A network namespace is what abstract sockets live in: in one of its own there are no runs of
    # anybody else.
    words = ["unshare", "-n"]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to make a network namespace")
    done = ctl("ps", before=words)
    assert (done.code, done.out) == (0, "no runs on this machine\n")


def test_stacks_show_where_every_rank_is_and_disturb_nothing(
    waiting: Waiting, ctl: Ctl, suite_mark: str
) -> None:
    child = waiting(f"one-{suite_mark}")
    for _ in range(3):
        done = ctl("stacks", f"one-{suite_mark}")
        assert done.code == 0
        assert done.out.startswith("ranks 0-1: each is at script.py:8 in wait\n")
    (line,) = lines_of(ctl("ps"), f"one-{suite_mark}")
    assert "2/2 ranks running" in line
    assert child.process.poll() is None


def test_stop_is_as_polite_as_sigterm(waiting: Waiting, ctl: Ctl, suite_mark: str) -> None:
    child = waiting(f"one-{suite_mark}")
    done = ctl("stop", f"one-{suite_mark}")
    assert (done.code, done.out) == (0, f"one-{suite_mark}: asked to stop\n")
    assert child.finish().code == 143


def test_signal_reaches_every_rank_and_stops_nothing(
    waiting: Waiting, ctl: Ctl, suite_mark: str
) -> None:
    child = waiting(f"one-{suite_mark}")
    for name, shown in (
        ("SIGUSR1", "USR1"),
        ("winch", "WINCH"),
        (str(int(signal.SIGUSR1)), "USR1"),
    ):
        assert ctl("signal", name, f"one-{suite_mark}").code == 0
        child.wait_for(f"got {shown} on 0")
        child.wait_for(f"got {shown} on 1")
    child.wait_for("got USR1 on 1", 2)
    assert child.process.poll() is None


def test_unknown_signal_is_a_usage_error(ctl: Ctl) -> None:
    done = ctl("signal", "SIGNONSENSE")
    assert done.code == 2
    assert "There is no signal SIGNONSENSE" in done.err


def test_two_runs_must_be_told_apart_by_the_beginning_of_the_id(
    waiting: Waiting, ctl: Ctl, suite_mark: str
) -> None:
    first, second = waiting(f"{suite_mark}-a"), waiting(f"{suite_mark}-b")
    both = ctl("stop", suite_mark)
    assert both.code == 2
    assert f"{suite_mark}-a" in both.err
    assert f"{suite_mark}-b" in both.err
    assert ctl("stop", f"{suite_mark}-b").code == 0
    assert second.finish().code == 143
    assert first.process.poll() is None
    assert ctl("stop", suite_mark).code == 0  # one is left
    assert first.finish().code == 143


def test_whole_id_is_found_although_another_begins_with_it(
    waiting: Waiting, ctl: Ctl, suite_mark: str
) -> None:
    first, second = waiting(suite_mark), waiting(f"{suite_mark}-2")
    assert ctl("stop", suite_mark).code == 0
    assert first.finish().code == 143
    assert second.process.poll() is None


def test_unknown_run_is_an_error_with_what_to_type(ctl: Ctl, suite_mark: str) -> None:
    done = ctl("stacks", suite_mark)
    assert done.code == 1
    assert f"No run {suite_mark}" in done.err
    assert "launcher.ctl ps" in done.err


def test_supervisor_that_is_stopped_is_listed_and_does_not_hang_ctl(
    waiting: Waiting, ctl: Ctl, suite_mark: str
) -> None:
    child = waiting(f"one-{suite_mark}")
    os.kill(child.pid, signal.SIGSTOP)
    done = ctl("ps", timeout_s=20)
    os.kill(child.pid, signal.SIGCONT)
    assert "does not answer (stopped, or very busy)" in done.out
    assert done.code == 0


def test_caller_that_says_nothing_does_not_hold_up_the_run(
    waiting: Waiting, ctl: Ctl, suite_mark: str
) -> None:
    child = waiting(f"one-{suite_mark}")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect("\0" + socket_of(child))
        (line,) = lines_of(ctl("ps"), f"one-{suite_mark}")
    assert "2/2 ranks running" in line
    assert child.process.poll() is None


def test_run_of_another_user_is_neither_shown_nor_stopped(
    waiting: Waiting, ctl: Ctl, suite_mark: str
) -> None:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to become another user")
    child = waiting(f"one-{suite_mark}")
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if (
        subprocess.run(
            [*other, sys.executable, "-c", "0"], capture_output=True, check=False
        ).returncode
        != 0
    ):
        # The interpreter lies where other users cannot read: then only the socket can be tried, as
        # that user.
        asked = ask_as(65534, socket_of(child))
        assert asked == b""
    else:
        assert f"one-{suite_mark}" not in ctl("ps", before=other, cwd="/").out
        assert ctl("stop", f"one-{suite_mark}", before=other, cwd="/").code == 1
        assert ask_as(65534, socket_of(child)) == b""
    (line,) = lines_of(ctl("ps"), f"one-{suite_mark}")
    assert "2/2 ranks running" in line


def socket_of(child: Running) -> str:
    """Return the abstract name of a run's socket."""
    inodes = set()
    for fd in Path(f"/proc/{child.pid}/fd").iterdir():
        target = os.readlink(fd)
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    for line in Path("/proc/net/unix").read_text().splitlines():
        if "@launcher/" in line and line.split()[6] in inodes:
            return line.partition("@")[2].strip()
    raise AssertionError("no socket")


def ask_as(uid: int, name: str) -> bytes:
    """Ask a run to stop, as another user, past our own command; return its answer."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as caller:
                caller.settimeout(5)
                caller.connect("\0" + name)
                caller.sendall(messages.encode(messages.Stop()))
                os.write(write_end, caller.recv(4096))
        except OSError:
            pass
        finally:
            os._exit(0)
    os.close(write_end)
    os.waitpid(pid, 0)
    answer = os.read(read_end, 4096)
    os.close(read_end)
    return answer


def test_no_socket_is_left_after_the_run(waiting: Waiting, suite_mark: str) -> None:
    child = waiting(f"one-{suite_mark}")
    name = socket_of(child)
    child.process.kill()
    child.process.wait()
    wait_until(lambda: name not in Path("/proc/net/unix").read_text(), "the socket has gone")
