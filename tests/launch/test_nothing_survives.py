"""After the death of any process of the tree, at any moment, nothing of the run remains.

Each round starts a run, kills one of its processes at a random moment with SIGKILL, and counts what
is left two seconds later: processes, sockets, shared memory, temporary files. SURVIVOR_ROUNDS sets
the number of rounds, SURVIVOR_SEED the first seed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import (
    Run,
    Running,
    Script,
    Start,
    ask_until,
    command,
    is_alive,
    kill_leftovers,
    marked_processes,
    wait_until,
)

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("SURVIVOR_ROUNDS", "40"))
SEED = int(os.environ.get("SURVIVOR_SEED", "1"))

# How long everything may take to go.
GONE_S = 2.0

# Each rank has a child, which in some rounds ignores SIGTERM, and a grandchild in a process group
# of its own, as data workers may be.
TREE = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
signal.signal(signal.SIGUSR1, signal.SIG_DFL)
if os.fork() == 0:
    if int(os.environ.get("ROUND", "0")) % 3 == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setpgid(0, 0)
    while True: time.sleep(100)
if sys.argv[1] == "restart":
    time.sleep(0.05)
    os._exit(3)
if sys.argv[1] == "end":
    time.sleep(0.1)
    sys.exit(0)
while True: time.sleep(100)
"""


def orphaned_sockets() -> set[str]:
    """Return the launcher's abstract sockets that no process of somebody else's run holds."""
    lines = [
        line.split()
        for line in Path("/proc/net/unix").read_text().splitlines()
        if "@launcher/" in line
    ]
    held = set()
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            held.add(os.readlink(fd))
        except OSError:
            continue
    return {words[-1] for words in lines if f"socket:[{words[6]}]" not in held}


def shared_memory() -> set[Path]:
    return set(Path("/dev/shm").iterdir())


def one_round(seed: int, folder: Path, mark: str) -> str:
    """Start a run, kill one of its processes at a random moment, and return what is left after two
    seconds, or "".
    """
    chance = random.Random(seed)
    method = chance.choice(["warm", "spawn"])
    stage = chance.choice(["start", "run", "stop", "restart", "end"])
    argv = command(
        "--nproc-per-node",
        "2",
        "--start",
        method,
        "--max-restarts",
        "1",
        "--restart-backoff",
        "0",
        "--shutdown-timeout",
        "0.3",
        "tree.py",
        stage,
    )
    temporary = folder / f"tmp{seed}"
    temporary.mkdir()
    before = shared_memory()
    process = subprocess.Popen(
        argv,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(temporary), "ROUND": str(seed)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # In `start` and `restart` any moment may be hit; in the others the tree stands first.
    if stage in ("run", "stop"):
        ask_until(lambda: len(marked_processes(mark)) >= 8 or process.poll() is not None, 5.0)
        if process.poll() is not None:  # nothing would be left of a launcher that cannot start
            return (
                f"seed {seed}: {method}, {stage}: the launcher ended by itself with"
                f" {process.returncode}"
            )
    if stage == "stop":
        process.send_signal(signal.SIGTERM)
    # The moment is what is tested.
    time.sleep(chance.random() * (0.3 if stage in ("start", "restart", "end") else 0.1))
    tree = sorted(marked_processes(mark))
    victim = chance.choice(tree) if tree else 0
    title = marked_processes(mark).get(victim, "?")[:50]
    if victim:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if victim != process.pid:
        # The run goes on, restarts or fails: then the supervisor must clean up. If it went on, it
        # is asked to end.
        time.sleep(
            0.05
        )  # one more moment, so that the request does not always meet the run as it was
        if stage in ("start", "run") and process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(8)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(8)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return f"seed {seed}: {method}, {stage}, killed {title}: the launcher does not end"
    process.wait()
    left = kill_leftovers(mark, GONE_S)
    # Logs and the report stay in the run folder; nothing else does.
    rest = {
        *temporary.iterdir(),
        *(path for path in shared_memory() - before if path.name.startswith("launcher")),
    }
    if left or rest:
        return f"seed {seed}: {method}, {stage}, killed {title}: left {left} {rest}"
    return ""


def test_killing_any_process_at_any_moment_leaves_nothing(
    script: Script, tmp_path: Path, suite_mark: str
) -> None:
    script(TREE, "tree.py")
    problems = [
        problem
        for seed in range(SEED, SEED + ROUNDS)
        if (problem := one_round(seed, tmp_path, suite_mark))
    ]
    assert not problems, "\n".join(problems)
    # Runs of others end while we look.
    wait_until(lambda: not orphaned_sockets(), "no socket is left")


@pytest.fixture
def tree(start: Start, script: Script, suite_mark: str) -> Callable[..., Running]:
    """Start two ranks with a child and a grandchild each, and wait until all are there."""

    def begin(*options: str) -> Running:
        child = start("--nproc-per-node", "2", *options, script(TREE, "tree.py"), "run")
        wait_until(
            lambda: (
                sum(
                    line.startswith(("[rank ", "python")) or "tree.py" in line
                    for line in marked_processes(suite_mark).values()
                )
                >= 7
            ),
            "the tree stands",
        )
        return child

    return begin


def test_children_of_a_killed_rank_go_with_it_although_the_run_restarts(
    tree: Callable[..., Running], suite_mark: str
) -> None:
    child = tree("--max-restarts", "1")
    # Their children bear the same title, but lead no session.
    titles = {
        pid: line for pid, line in marked_processes(suite_mark).items() if line.startswith("[rank ")
    }
    ranks = {line[6]: pid for pid, line in titles.items() if os.getsid(pid) == pid}
    old = set(marked_processes(suite_mark)) - {child.pid}
    os.kill(ranks["1"], signal.SIGKILL)
    child.wait_for("starting all ranks again")
    sessions = {pid: os.getsid(pid) for pid in old if is_alive(pid)}
    wait_until(
        lambda: (
            not any(is_alive(pid) for pid, session in sessions.items() if session in ranks.values())
        ),
        "they are gone",
        2.0,
    )
    child.send(signal.SIGTERM)
    child.finish()


FAMILY = """
import os, signal, subprocess, sys
child = subprocess.Popen(['sleep', '1001'])
daemon = subprocess.Popen(['sleep', '1002'], start_new_session=True)
grouped = subprocess.Popen(['sleep', '1003'], preexec_fn=os.setpgrp)
code = "import os, signal\\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\\n"
code += "os.write(1, b'ready 0\\\\n')\\nsignal.pause()"
stubborn = subprocess.Popen([sys.executable, '-c', code])
family = (child.pid, daemon.pid, grouped.pid, stubborn.pid, os.getppid(), os.getpid())
os.write(1, b'ready %d %d %d %d %d %d\\n' % family)  # print() writes word by word
signal.pause()
"""


def family_of(running: Running) -> list[int]:
    """Return the process ids of the ranks, of their children and of their parent."""
    lines = [line.split()[2:] for line in running.out.splitlines() if "ready" in line]
    return [int(word) for words in lines for word in words if word != "0"]


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


@pytest.mark.parametrize(
    "victim", ["supervisor", "keeper", "rank 0", "rank 1", "parent of the ranks"]
)
def test_whoever_is_killed_nothing_survives_for_two_seconds(
    victim: str, method: str, start: Start, script: Script, suite_mark: str
) -> None:
    name = script(FAMILY)
    running = start("--start", method, "--nproc-per-node", "2", "--shutdown-timeout", "1", name)
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
    elif pids[victim] != running.pid and victim != "keeper":
        words = "the fork server, parent of all workers here, has died: killed by SIGKILL (9)"
        assert words in done.err
        assert done.code == 1
    wait_until(lambda: not marked_processes(suite_mark), "all of it is gone", GONE_S)
    assert not any(is_alive(pid) for pid in family_of(running))


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    {before}
    with open('new', 'w') as file: file.write(str(os.getpid()))
    os.rename('new', 'daemon')
    time.sleep(100)
while not os.path.exists('daemon'): time.sleep(0.01)
"""
LET_GO_OF_STREAMS = "for fd in (0, 1, 2): os.dup2(os.open('/dev/null', os.O_RDWR), fd)"


def test_daemon_of_a_successful_rank_stays(
    run: Run, script: Script, tmp_path: Path, method: str
) -> None:
    name = script(DAEMON.format(before=LET_GO_OF_STREAMS))
    assert run("--nproc-per-node", "1", "--start", method, name).code == 0
    pid = int((tmp_path / "daemon").read_text())
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "it has ended")


def test_daemon_of_a_failed_rank_goes(
    run: Run, script: Script, tmp_path: Path, method: str
) -> None:
    name = script(DAEMON.format(before="pass") + "sys.exit(3)\n")
    assert run("--nproc-per-node", "1", "--start", method, name).code == 3
    assert not is_alive(int((tmp_path / "daemon").read_text()))


def test_after_success_a_daemon_that_keeps_its_streams_may_stay_and_forgotten_children_may_not(
    method: str, run: Run, script: Script
) -> None:
    name = script(
        "import subprocess\n"
        "print(subprocess.Popen(['sleep', '1003'], start_new_session=True).pid,"
        " subprocess.Popen(['sleep', '1004']).pid)\n"
    )
    done = run("--start", method, name)
    assert done.code == 0
    daemon, forgotten = (int(word) for word in done.out.split()[1:])
    try:
        assert is_alive(daemon)
        assert not is_alive(forgotten)
    finally:
        os.kill(daemon, signal.SIGKILL)
