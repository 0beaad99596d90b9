"""Signals to the launcher, and to what belongs to it: everything stops once, and nothing
survives.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import (
    Run,
    Running,
    Script,
    Start,
    Terminal,
    is_alive,
    marked_processes,
    wait_until,
)

WAIT = (
    "import os, signal, time\nprint('ready', os.getpid(), flush=True)\nwhile True: signal.pause()\n"
)
STUBBORN = (
    "import signal\nfor s in (signal.SIGTERM, signal.SIGINT): signal.signal(s, signal.SIG_IGN)\n"
    + WAIT
)
SAVES = """
import os, signal, sys
def save(signum, frame):
    open('saved' + os.environ['RANK'], 'w').write(signal.Signals(signum).name)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print('ready', os.getpid(), flush=True)
while True: signal.pause()
"""


def pids_of(running: Running) -> list[int]:
    return [int(line.split()[-1]) for line in running.out.splitlines() if "ready" in line]


@pytest.fixture
def begin(start: Start, method: str, script: Script) -> Callable[..., Running]:
    """Start two ranks of a script, and wait until they are ready."""

    def go(text: str, *options: str, **more: object) -> Running:
        script(text)
        running = start("--start", method, "--nproc-per-node", "2", *options, "script.py", **more)
        running.wait_for("ready", 2)
        return running

    return go


@pytest.mark.slow
@pytest.mark.parametrize("signame", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"])
def test_a_signal_stops_all_ranks_and_gives_128_plus_its_number(
    signame: str, begin: Callable[..., Running]
) -> None:
    running = begin(WAIT)
    running.send(getattr(signal, signame))
    done = running.finish()
    assert done.code == 128 + getattr(signal, signame)
    assert f"[launcher] received {signame}" in done.err
    assert "FAILED" not in done.err
    assert not any(is_alive(pid) for pid in pids_of(running))


@pytest.mark.slow
def test_ranks_that_save_and_exit_0_make_the_launcher_exit_0(
    begin: Callable[..., Running], tmp_path: Path
) -> None:
    running = begin(SAVES)
    running.send(signal.SIGTERM)
    assert running.finish().code == 0
    assert [(tmp_path / f"saved{rank}").read_text() for rank in range(2)] == ["SIGTERM", "SIGTERM"]


@pytest.mark.slow
def test_ranks_may_save_when_every_process_of_the_job_gets_the_signal(
    begin: Callable[..., Running], tmp_path: Path, suite_mark: str
) -> None:
    """Slurm (scancel, the time limit) and systemd send it to the launcher, to its helpers and to
    the ranks alike.
    """
    running = begin(
        "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('warned', flush=True))\n"
        + SAVES
    )
    for pid in marked_processes(suite_mark):
        os.kill(pid, signal.SIGUSR1)
    running.wait_for("warned", 2)
    for pid in marked_processes(suite_mark):
        os.kill(pid, signal.SIGTERM)
    # A rank gets it from the launcher as well: python has no handler left for a second one that
    # comes at its very end.
    assert running.finish().code in (0, 128 + signal.SIGTERM), running.err
    assert [(tmp_path / f"saved{rank}").read_text() for rank in (0, 1)] == ["SIGTERM", "SIGTERM"]


def test_ranks_that_ignore_sigterm_are_killed_when_the_grace_is_over(
    begin: Callable[..., Running],
) -> None:
    running = begin(STUBBORN, "--shutdown-timeout", "0.3")
    asked = time.monotonic()
    running.send(signal.SIGTERM)
    done = running.finish()
    assert done.code == 143
    assert 0.3 <= time.monotonic() - asked < 10
    assert not any(is_alive(pid) for pid in pids_of(running))


@pytest.mark.slow
def test_a_second_signal_forces(begin: Callable[..., Running]) -> None:
    running = begin(STUBBORN, "--shutdown-timeout", "1000")
    running.send(signal.SIGTERM)
    running.wait_for("received SIGTERM")
    running.send(signal.SIGTERM)
    assert running.finish().code == 143
    assert not any(is_alive(pid) for pid in pids_of(running))


@pytest.mark.slow
def test_a_failure_stops_stubborn_neighbours_too(method: str, run: Run, script: Script) -> None:
    script("import os, sys\nif os.environ['RANK'] == '1': sys.exit(3)\n" + STUBBORN)
    done = run("--start", method, "--nproc-per-node", "3", "--shutdown-timeout", "0.3", "script.py")
    assert done.code == 3
    assert "FAILED: rank 1" in done.err


@pytest.mark.slow
def test_ctrl_c_once_stops_the_ranks_with_keyboard_interrupt(
    method: str, start_command: Start, script: Script
) -> None:
    script(
        "import os, time\ntry:\n    print('ready', os.environ['RANK'], flush=True)\n   "
        " time.sleep(1000)\nexcept KeyboardInterrupt:\n    print('interrupted')\n    raise\n"
    )
    terminal = Terminal(
        start_command, "--start", method, "--nproc-per-node", "2", "script.py", NO_COLOR="1"
    )
    terminal.wait_for(b"ready 0")
    terminal.wait_for(b"ready 1")
    terminal.type(b"\x03")
    assert terminal.finish() == 130
    assert terminal.seen.count(b"interrupted\r\n") == 2
    assert b"FAILED" not in terminal.seen


@pytest.mark.slow
def test_ctrl_c_twice_kills_stubborn_ranks(
    method: str, start_command: Start, script: Script
) -> None:
    script(STUBBORN.replace("os.getpid()", "os.environ['RANK']"))
    terminal = Terminal(
        start_command,
        "--start",
        method,
        "--nproc-per-node",
        "2",
        "--shutdown-timeout",
        "1000",
        "script.py",
        NO_COLOR="1",
    )
    terminal.wait_for(b"ready 0")
    terminal.wait_for(b"ready 1")
    terminal.type(b"\x03")
    terminal.wait_for(b"received SIGINT")
    terminal.type(b"\x03")
    assert terminal.finish() == 130


@pytest.mark.slow
def test_user_signals_are_passed_on_and_stop_nothing(begin: Callable[..., Running]) -> None:
    running = begin(
        "import os, signal\ngot = []\ndef note(signum, frame):\n    got.append(signum)\n   "
        " print('got', signum, flush=True)\nfor s in (signal.SIGUSR1, signal.SIGUSR2):"
        " signal.signal(s, note)\nprint('ready', os.getpid(), flush=True)\nimport time\nwhile"
        " len(got) < 2: time.sleep(0.01)\n"
    )
    running.send(signal.SIGUSR1)
    running.wait_for(f"got {int(signal.SIGUSR1)}", 2)
    running.send(signal.SIGUSR2)
    assert running.finish().code == 0
    running.wait_for(f"got {int(signal.SIGUSR2)}", 2)


@pytest.mark.slow
def test_under_nohup_a_hang_up_stops_nothing(begin: Callable[..., Running], tmp_path: Path) -> None:
    running = begin(
        "import os, signal, time\nprint('ready', os.getpid(), flush=True)\nwhile not"
        " os.path.exists('go'): time.sleep(0.01)\nprint(repr(signal.getsignal(signal.SIGHUP)))\n",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    running.send(signal.SIGHUP)
    (tmp_path / "go").touch()
    done = running.finish()
    assert done.code == 0
    assert done.out.count(repr(signal.SIG_IGN)) == 2


@pytest.mark.slow
def test_signals_that_were_blocked_when_we_were_started_hide_nothing_from_us(
    begin: Callable[..., Running],
) -> None:
    blocked = {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1}
    running = begin(
        "import os, signal, time\nblocked = signal.pthread_sigmask(signal.SIG_BLOCK,"
        " ())\nprint('ready', sorted(map(int, blocked)), flush=True)\nif os.environ['RANK'] == '1':"
        " os._exit(5)\nsignal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)\nsignal.pause()\n",
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, blocked),
    )
    # The exit of rank 1 is seen, and so is the end of rank 0; the ranks themselves find the mask as
    # it was.
    assert running.finish().code == 5
    assert running.out.count(f"ready {sorted(map(int, blocked))}") == 2


@pytest.mark.slow
def test_only_the_signals_that_were_chosen_are_handled(begin: Callable[..., Running]) -> None:
    running = begin(WAIT, "--signals-to-handle", "SIGTERM")
    running.send(signal.SIGHUP)
    assert running.finish().code == -signal.SIGHUP
    wait_until(
        lambda: not any(is_alive(pid) for pid in pids_of(running)),
        "the ranks die with the launcher",
    )


@pytest.mark.slow
def test_stopped_ranks_are_continued_so_that_they_can_end(begin: Callable[..., Running]) -> None:
    running = begin(WAIT)
    for pid in pids_of(running):
        os.kill(pid, signal.SIGSTOP)
    running.send(signal.SIGTERM)
    assert running.finish().code == 143


@pytest.mark.slow
def test_sigterm_at_any_moment_of_the_start_ends_it_without_leftovers(
    method: str, start: Start, script: Script, suite_mark: str
) -> None:
    script("import time\ntime.sleep(0.2)\n")
    chance = random.Random(2)
    for _ in range(20):
        running = start("--start", method, "--nproc-per-node", "2", "script.py")
        time.sleep(chance.uniform(0, 0.35))  # the moment is what is tested
        running.send(signal.SIGTERM)
        code = running.finish().code
        # Before python has come to our code, the signal ends it as any other process.
        assert code in (0, 143, -signal.SIGTERM), running.err
        assert "Traceback" not in running.err
        wait_until(lambda: not marked_processes(suite_mark), "all of it is gone", 2.0)


FAMILY = """
import os, signal, subprocess, sys
child = subprocess.Popen(['sleep', '1001'])
daemon = subprocess.Popen(['sleep', '1002'], start_new_session=True)
code = "import signal\\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\\n"
code += "print('ready 0', flush=True)\\nsignal.pause()"
stubborn = subprocess.Popen([sys.executable, '-c', code])
print('ready', child.pid, daemon.pid, stubborn.pid, os.getppid(), os.getpid(), flush=True)
signal.pause()
"""


def family_of(running: Running) -> list[int]:
    return [
        int(word)
        for line in running.out.splitlines()
        if "ready" in line
        for word in line.split()[2:]
        if word != "0"
    ]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def keeper_of(running: Running) -> int:
    """Return the process id of the keeper: the child with the supervisor's own command line; 0
    while there is none.
    """
    line = Path(f"/proc/{running.pid}/cmdline").read_bytes()
    for pid in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split():
        if is_alive(int(pid)) and Path(f"/proc/{pid}/cmdline").read_bytes() == line:
            return int(pid)
    return 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim", ["supervisor", "keeper", "rank 0", "rank 1", "parent of the ranks"]
)
def test_whoever_is_killed_nothing_survives(
    victim: str, method: str, start: Start, script: Script, suite_mark: str
) -> None:
    script(FAMILY)
    running = start(
        "--start", method, "--nproc-per-node", "2", "--shutdown-timeout", "1", "script.py"
    )
    running.wait_for("ready", 4)
    ranks = [
        int(line.split()[-1])
        for line in sorted(running.out.splitlines())
        if line.split()[-1] != "0"
    ]
    parent = parent_of(ranks[0])
    keeper = keeper_of(running)
    pids = {
        "supervisor": running.pid,
        "keeper": keeper,
        "parent of the ranks": parent,
        "rank 0": ranks[0],
        "rank 1": ranks[1],
    }
    os.kill(pids[victim], signal.SIGKILL)
    if victim == "keeper":
        wait_until(lambda: keeper_of(running) not in (0, keeper), "another keeper takes its place")
        os.kill(running.pid, signal.SIGKILL)
    done = running.finish()
    if victim.startswith("rank"):
        assert done.code == 137
        assert f"FAILED: {victim}" in done.err
    wait_until(lambda: not marked_processes(suite_mark), "all of it is gone", 2.0)
    assert not any(is_alive(pid) for pid in family_of(running))


@pytest.mark.slow
def test_after_success_a_daemon_may_stay_and_forgotten_children_may_not(
    method: str, run: Run, script: Script
) -> None:
    script(
        "import subprocess\nprint(subprocess.Popen(['sleep', '1003'], start_new_session=True).pid,"
        " subprocess.Popen(['sleep', '1004']).pid)\n"
    )
    done = run("--start", method, "script.py")
    assert done.code == 0
    daemon, forgotten = (int(word) for word in done.out.split()[1:])
    try:
        assert is_alive(daemon)
        assert not is_alive(forgotten)
    finally:
        os.kill(daemon, signal.SIGKILL)


@pytest.mark.slow
def test_a_foreign_command_is_stopped_with_its_whole_group(start: Start, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text("#!/bin/sh\nsleep 1005 &\necho ready $!\nwait\n")
    (tmp_path / "job.sh").chmod(0o755)
    running = start("--no-python", "--nproc-per-node", "2", "./job.sh")
    running.wait_for("ready", 2)
    running.send(signal.SIGTERM)
    assert running.finish().code == 143
    assert not any(is_alive(pid) for pid in pids_of(running))
