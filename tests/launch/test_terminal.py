"""The launcher in the foreground of a terminal: Ctrl-C stops the ranks, Ctrl-Z and fg hold and
continue them.
"""

from __future__ import annotations

import os
import pty
import select
import shlex
import signal
from pathlib import Path

import pytest

from tests.conftest import TIMEOUT_S, Script, Start, Terminal, command, marked_processes, wait_until

pytestmark = pytest.mark.slow

INTERRUPTED = """
import os, signal
try:
    print('ready ' + os.environ['RANK'], flush=True)
    while True: signal.pause()
except KeyboardInterrupt:
    print('interrupted')
    raise
"""
STUBBORN = """
import os, signal
for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, signal.SIG_IGN)
print('ready ' + os.environ['RANK'], flush=True)
while True: signal.pause()
"""


def begin(start_command: Start, *args: str) -> Terminal:
    """Start two ranks on a terminal, and wait until they are ready."""
    terminal = Terminal(start_command, "--nproc-per-node", "2", *args, NO_COLOR="1")
    terminal.wait_for(b"ready 0")
    terminal.wait_for(b"ready 1")
    return terminal


def test_ctrl_c_once_stops_the_ranks_with_keyboard_interrupt(
    method: str, start_command: Start, script: Script
) -> None:
    terminal = begin(start_command, "--start", method, script(INTERRUPTED))
    terminal.type(b"\x03")
    assert terminal.finish() == 130
    assert terminal.seen.count(b"interrupted\r\n") == 2
    assert b"FAILED" not in terminal.seen


def test_ctrl_c_twice_kills_stubborn_ranks(
    method: str, start_command: Start, script: Script
) -> None:
    name = script(STUBBORN)
    terminal = begin(start_command, "--start", method, "--shutdown-timeout", "1000", name)
    terminal.type(b"\x03")
    terminal.wait_for(b"received SIGINT")
    terminal.type(b"\x03")
    assert terminal.finish() == 130


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def ranks_of(mark: str) -> list[int]:
    return [pid for pid, words in marked_processes(mark).items() if words.startswith("[rank ")]


def test_ctrl_z_and_fg_keep_the_job_whole(
    script: Script, tmp_path: Path, suite_mark: str, method: str
) -> None:
    """In a real terminal under a real shell: all ranks stop, and go on when the job is in the
    foreground again.
    """
    name = script(
        "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
        "print('all done', flush=True)\n"
    )
    options = ("--nproc-per-node", "2", "--start", method, "--hang-timeout", "20")
    words = shlex.join(map(str, command(*options, name)))
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], {**os.environ, "PS1": "$ "})
    try:
        os.write(terminal, words.encode() + b"\n")
        wait_until(lambda: len(ranks_of(suite_mark)) == 2, "both ranks run")
        ranks = ranks_of(suite_mark)
        wait_until(lambda: all(state_of(rank) == "S" for rank in ranks), "they wait")
        os.write(terminal, b"\x1a")  # Ctrl-Z
        wait_until(lambda: all(state_of(rank) == "T" for rank in ranks), "all ranks have stopped")
        supervisors = [
            p for p, line in marked_processes(suite_mark).items() if "-m launcher" in line
        ]
        wait_until(lambda: any(state_of(p) == "T" for p in supervisors), "the launcher has stopped")
        os.write(terminal, b"fg\n")
        wait_until(lambda: all(state_of(rank) == "S" for rank in ranks), "all ranks run again")
        (tmp_path / "go").touch()
        wait_until(lambda: not ranks_of(suite_mark), "the ranks have ended")
        # What is typed before is for rank 0, and lost with it.
        wait_until(lambda: os.tcgetpgrp(terminal) == pid, "the shell has the terminal again")
        os.write(terminal, b"echo code=$?; exit\n")
        shown = b""
        while True:
            assert select.select([terminal], [], [], TIMEOUT_S)[0], f"silence after {shown!r}"
            try:
                data = os.read(terminal, 4096)
            except OSError:
                break
            if not data:
                break
            shown += data
        assert shown.count(b"all done") == 2
        assert b"code=0" in shown
    finally:
        os.close(terminal)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(pid, 0)
