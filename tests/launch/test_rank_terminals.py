"""Ranks on terminals of their own: what they find there, what files and streams get, and one rank
for which the user types.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import Run, Script, Start, Terminal, wait_until

pytestmark = pytest.mark.slow

LOOK = """
import os, sys
streams = (sys.stdin, sys.stdout, sys.stderr)
print('tty', *(int(stream.isatty()) for stream in streams), flush=True)
print('size', *os.get_terminal_size(1), flush=True)
"""
ASK = """
import os, sys
rank = os.environ['RANK']
if rank == os.environ['LAUNCHER_STDIN_RANK']:
    print('hello', input('name? '))
else:
    print('nothing', repr(sys.stdin.read()))
"""
DEBUG = """
import os
x = 41
breakpoint()
print('after', x, 'in', os.environ['RANK'])
"""


def lines_of(terminal: Terminal) -> list[bytes]:
    return sorted(terminal.seen.replace(b"\r\n", b"\n").splitlines())


@pytest.mark.parametrize("columns", [80, 200])
def test_ranks_find_terminals_that_are_narrower_by_the_prefix(
    columns: int, method: str, start_command: Start, script: Script
) -> None:
    terminal = Terminal(
        start_command,
        *("--nproc-per-node", "2", "--start", method, script(LOOK)),
        size=(columns, 30),
        NO_COLOR="1",
    )
    assert terminal.finish() == 0
    size = b"size %d 30" % (columns - len("[0] "))
    assert lines_of(terminal) == [
        *(b"[0] " + size, b"[0] tty 1 1 1", b"[1] " + size, b"[1] tty 0 1 1")
    ]


def test_sixteen_and_more_ranks_have_a_wider_prefix(start_command: Start, script: Script) -> None:
    terminal = Terminal(
        start_command,
        *("--nproc-per-node", "64", "--console-ranks", "0-63", "--start", "warm", script(LOOK)),
        size=(80, 30),
        TERM="dumb",
    )
    assert terminal.finish() == 0
    assert terminal.seen.count(b"size 75 30\r\n") == 64
    assert terminal.seen.count(b"tty 0 1 1\r\n") == 63
    assert b"\x1b" not in terminal.seen


def test_without_terminals_ranks_write_into_pipes(start_command: Start, script: Script) -> None:
    name = script("import sys\nprint('tty', sys.stdout.isatty(), sys.stderr.isatty())\n")
    terminal = Terminal(start_command, "--no-tty", name, NO_COLOR="1")
    assert terminal.finish() == 0
    assert terminal.seen == b"[0] tty False False\r\n"


def test_a_stream_that_is_no_terminal_stays_a_pipe(
    start_command: Start, script: Script, tmp_path: Path
) -> None:
    name = script("import sys\nprint('out', sys.stdout.isatty(), sys.stderr.isatty())\n")
    with (tmp_path / "out").open("wb") as file:
        terminal = Terminal(start_command, name, streams={"stdout": file.fileno()}, NO_COLOR="1")
        assert terminal.finish() == 0
    assert (tmp_path / "out").read_text() == "[0] out False True\n"


def test_a_pipe_stays_a_pipe(run: Run, script: Script) -> None:
    done = run(script("import sys\nprint(sys.stdout.isatty(), sys.stderr.isatty())\n"))
    assert done.out == "[0] False False\n"


def test_files_have_the_bytes_and_streams_stay_apart(
    method: str,
    start_command: Start,
    script: Script,
    tmp_path: Path,
    only_run_dir: Callable[[], Path],
) -> None:
    name = script(
        "import os\n"
        "os.write(1, b'out\\n' * 3 + b'a\\r\\nb\\tc\\r 10%\\r 20%\\n\\xff\\n')\n"
        "os.write(2, b'\\x1b[31mred\\x1b[0m\\nand\\n')\n"
    )
    with (tmp_path / "err").open("wb") as file:
        terminal = Terminal(
            start_command,
            *("--start", method, name),
            streams={"stderr": file.fileno()},
            NO_COLOR="1",
        )
        assert terminal.finish() == 0
    logs = only_run_dir() / "logs"
    out = b"out\n" * 3 + b"a\r\nb\tc\r 10%\r 20%\n\xff\n"
    assert (logs / "rank_00.out").read_bytes() == out
    assert (logs / "rank_00.err").read_bytes() == b"\x1b[31mred\x1b[0m\nand\n"
    assert (tmp_path / "err").read_bytes() == b"[0] \x1b[31mred\x1b[0m\n[0] and\n"
    assert terminal.seen.startswith(b"[0] out\r\n" * 3 + b"[0] a\r\n")
    assert b"[0] \xff\r\n" in terminal.seen
    assert b"and" not in terminal.seen


def test_nothing_that_a_rank_has_written_is_lost(
    method: str, start_command: Start, script: Script, only_run_dir: Callable[[], Path]
) -> None:
    name = script(
        "import os, sys\n"
        "for number in range(20000): sys.stdout.write(f'line {number}\\n')\n"
        "sys.stdout.flush()\n"
        "os._exit(0)\n"
    )
    options = ("--nproc-per-node", "2", "--start", method, name)
    terminal = Terminal(start_command, *options, NO_COLOR="1", PYTHONUNBUFFERED="")
    assert terminal.finish() == 0
    expected = [b"line %d" % number for number in range(20000)]
    shown = terminal.seen.replace(b"\r\n", b"\n").splitlines()
    for rank in (0, 1):
        prefix = b"[%d] " % rank
        mine = [line[len(prefix) :] for line in shown if line.startswith(prefix)]
        assert mine == expected
        log = only_run_dir() / "logs" / f"rank_0{rank}.out"
        assert log.read_bytes().splitlines() == expected


def test_a_new_size_is_passed_on(method: str, start_command: Start, script: Script) -> None:
    name = script(
        "import os, signal\n"
        "def tell(*_): print('now %d %d' % os.get_terminal_size(1), flush=True)\n"
        "signal.signal(signal.SIGWINCH, tell)\n"
        "os.write(1, b'ready\\n')\n"
        "while True: signal.pause()\n"
    )
    options = ("--nproc-per-node", "2", "--start", method, name)
    terminal = Terminal(start_command, *options, size=(80, 24))
    terminal.wait_for(b"ready", 2)
    terminal.resize(100, 40)
    terminal.wait_for(b"now 96 40", 2)
    terminal.type(b"\x03")
    assert terminal.finish() == 130


def test_one_rank_is_asked_and_the_others_read_the_end(
    method: str, start_command: Start, script: Script
) -> None:
    options = ("--nproc-per-node", "2", "--start", method, script(ASK))
    terminal = Terminal(start_command, *options, NO_COLOR="1")
    terminal.wait_for(b"nothing ''")
    terminal.wait_for(b"name? ")
    terminal.type(b"Boq\x7fb\r")
    assert terminal.finish() == 0
    assert b"[0] hello Bob\r\n" in terminal.seen
    assert b"[0] name? Bob\r\n" in terminal.seen


def test_another_rank_is_asked_if_the_user_wants_it(start_command: Start, script: Script) -> None:
    options = ("--nproc-per-node", "2", "--stdin-rank", "1", script(ASK))
    terminal = Terminal(start_command, *options, NO_COLOR="1")
    terminal.wait_for(b"nothing ''")
    terminal.wait_for(b"name? ")
    terminal.type(b"Eve\n")
    assert terminal.finish() == 0
    assert b"[1] hello Eve\r\n" in terminal.seen


@pytest.mark.parametrize("rank", [0, 1])
def test_a_pipe_goes_to_one_rank_and_may_end(rank: int, run: Run, script: Script) -> None:
    name = script("import os, sys\nprint(os.environ['RANK'], repr(sys.stdin.read()))\n")
    done = run("--nproc-per-node", "2", "--stdin-rank", str(rank), name, stdin="some\ntext\n")
    texts = {rank: r"'some\ntext\n'", 1 - rank: "''"}
    assert done.lines == [f"[{n}] {n} {texts[n]}" for n in (0, 1)]


def test_a_rank_that_does_not_exist_cannot_be_asked(run: Run, script: Script) -> None:
    done = run("--nproc-per-node", "2", "--stdin-rank", "2", script("print('never')\n"))
    assert done.code == 2
    assert "--stdin-rank 2: must be below 2, the world size" in done.err
    assert "--stdin-rank 1" in done.err


def test_what_is_typed_at_a_secret_is_not_shown(
    start_command: Start, script: Script, only_run_dir: Callable[[], Path]
) -> None:
    name = script("import getpass\nprint('length', len(getpass.getpass('secret: ')))\n")
    terminal = Terminal(start_command, name, NO_COLOR="1")
    terminal.wait_for(b"secret: ")
    terminal.type(b"swordfish\r")
    assert terminal.finish() == 0
    assert b"length 9" in terminal.seen
    assert b"sword" not in terminal.seen
    assert b"sword" not in (only_run_dir() / "logs" / "rank_00.out").read_bytes()


def test_the_end_of_the_input_can_be_typed(start_command: Start, script: Script) -> None:
    name = script("import sys\nprint('> ', end='', flush=True)\nprint([*sys.stdin])\n")
    terminal = Terminal(start_command, name, NO_COLOR="1")
    terminal.wait_for(b"> ")
    terminal.type(b"one\r")
    terminal.wait_for(b"one")
    terminal.type(b"\x04")
    assert terminal.finish() == 0
    assert rb"['one\n']" in terminal.seen


def test_input_without_a_question_arrives_line_by_line(
    start_command: Start, script: Script
) -> None:
    name = script("import sys\nprint('ready')\nprint('read', sys.stdin.readline())\n")
    terminal = Terminal(start_command, name, NO_COLOR="1")
    terminal.wait_for(b"ready")
    terminal.type(b"typed\n")
    assert terminal.finish() == 0
    assert b"read typed" in terminal.seen


def test_ctrl_c_at_a_question_stops_the_run(
    method: str, start_command: Start, script: Script
) -> None:
    options = ("--nproc-per-node", "2", "--start", method)
    terminal = Terminal(start_command, *options, script("input('name? ')\n"))
    terminal.wait_for(b"name? ")
    terminal.type(b"ab\x03")
    assert terminal.finish() in (1, 130)  # rank 1 has found the end of its input


def test_pdb_edits_lines_and_ctrl_c_is_its_own(
    method: str, start_command: Start, script: Script
) -> None:
    options = ("--nproc-per-node", "2", "--start", method, script(DEBUG))
    terminal = Terminal(start_command, *options, NO_COLOR="1", size=(80, 24))
    terminal.wait_for(b"after 41 in 1")
    terminal.wait_for(b"(Pdb) ")
    terminal.type(b"x = 9999\x1b[D\x1b[D\x7f1\r")  # two to the left, and another digit
    terminal.wait_for(b"(Pdb) ", 2)
    terminal.type(b"p x, 'is x'\r")
    terminal.wait_for(b"(9199, 'is x')")
    terminal.type(b"half a line")
    terminal.wait_for(b"half a line")
    terminal.type(b"\x03")
    terminal.wait_for(b"--KeyboardInterrupt--")
    terminal.type(b"c\r")
    assert terminal.finish() == 0
    assert b"after 9199 in 0" in terminal.seen
    seen = b" ".join(terminal.seen.split())
    assert b"because rank 0 reads what is typed; --stdin-rank 1 changes that" in seen


def test_ctrl_c_twice_in_pdb_stops_the_run(start_command: Start, script: Script) -> None:
    name = script("import os, signal\nprint(f'pid {os.getpid()}.')\nbreakpoint()\nsignal.pause()\n")
    terminal = Terminal(start_command, "--nproc-per-node", "2", name, size=(80, 24), NO_COLOR="1")
    terminal.wait_for(b"(Pdb) ")
    (pid,) = re.findall(rb"\[0\] pid (\d+)\.", terminal.seen)
    # Python heeds a Ctrl-C between prompt and wait for a key only when the next key comes.
    wait_until(lambda: psutil.Process(int(pid)).status() == psutil.STATUS_SLEEPING, "pdb waits")
    terminal.type(b"\x03")
    terminal.wait_for(b"--KeyboardInterrupt--")
    terminal.type(b"\x03\x03")
    terminal.wait_for(b"received SIGINT")
    assert terminal.finish() == 130


def test_the_terminal_is_left_as_it_was(start_command: Start, script: Script) -> None:
    import termios

    terminal = Terminal(start_command, script("input('name? ')\n"))
    before = termios.tcgetattr(terminal.master)
    terminal.wait_for(b"name? ")
    wait_until(
        lambda: not termios.tcgetattr(terminal.master)[3] & termios.ICANON, "every key counts"
    )
    terminal.type(b"x\r")
    while terminal.running.process.poll() is None:
        if not terminal.read():
            break
    # What is left of it belongs to a terminal whose other end is closed.
    assert termios.tcgetattr(terminal.master) == before
    os.close(terminal.master)


def test_a_run_whose_terminal_goes_away_ends(start_command: Start, script: Script) -> None:
    terminal = Terminal(start_command, "--nproc-per-node", "2", script(ASK))
    terminal.wait_for(b"name? ")
    os.close(terminal.master)
    assert terminal.running.process.wait(30) == 128 + signal.SIGHUP


def test_a_terminal_that_controls_another_session_is_read(
    start_command: Start, script: Script
) -> None:
    """As in a container, or under setsid."""
    from tests.conftest import command

    master, slave = os.openpty()
    try:
        running = start_command(
            command(script(ASK)), stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        seen = b""
        while b"name? " not in seen:
            seen += os.read(master, 4096)
        os.write(master, b"Ann\r")
        while b"hello Ann" not in seen:
            seen += os.read(master, 4096)
        assert running.process.wait(30) == 0
    finally:
        os.close(master)


def test_output_of_ranks_is_exact_in_the_c_locale(start_command: Start, script: Script) -> None:
    name = script("import sys\nsys.stdout.buffer.write('\\rbar \\u2588 \\xe9\\n'.encode())\n")
    terminal = Terminal(start_command, name, LC_ALL="C", NO_COLOR="1")
    assert terminal.finish() == 0
    assert "[0] bar \u2588 \xe9\r\n".encode() in terminal.seen


def test_colours_of_a_rank_end_with_its_line(start_command: Start, script: Script) -> None:
    name = script("print('\\x1b[31mred')\nprint('still\\x1b[0m')\nprint('plain')\n")
    terminal = Terminal(start_command, name, NO_COLOR="1")
    assert terminal.finish() == 0
    assert terminal.seen == (b"[0] \x1b[31mred\x1b[0m\r\n[0] \x1b[31mstill\x1b[0m\r\n[0] plain\r\n")


def test_a_report_has_no_escapes(start_command: Start, script: Script) -> None:
    name = script(
        "import os, sys\nsys.stderr.write('\\x1b[1;31mbad\\x1b[0m thing\\n')\nos._exit(3)\n"
    )
    terminal = Terminal(start_command, name, NO_COLOR="1")
    assert terminal.finish() == 3
    assert b"FAILED" in terminal.seen
    assert b"\x1b" not in terminal.seen.partition(b"FAILED")[2]


def test_a_shell_in_a_rank_reads_a_terminal_too(start_command: Start, script: Script) -> None:
    script("read -p 'your name? ' name; echo \"hello $name\"\n", "ask.sh")
    terminal = Terminal(start_command, "--no-python", "bash", "ask.sh", NO_COLOR="1")
    terminal.wait_for(b"your name? ")
    terminal.type(b"Zoe\r")
    assert terminal.finish() == 0
    assert b"[0] hello Zoe\r\n" in terminal.seen


def test_the_second_attempt_can_be_asked_again(start_command: Start, script: Script) -> None:
    name = script(
        "import os, sys\n"
        "if input('go on? ') != 'yes' : sys.exit(5)\n"
        "print('finished', os.environ['TORCHELASTIC_RESTART_COUNT'])\n"
    )
    terminal = Terminal(start_command, "--max-restarts", "1", name, NO_COLOR="1")
    terminal.wait_for(b"go on? ")
    terminal.type(b"no\r")
    terminal.wait_for(b"starting all ranks again")
    terminal.wait_for(b"go on? ", terminal.seen.count(b"go on? ") + 1)
    terminal.type(b"yes\r")
    assert terminal.finish() == 0
    assert b"finished 1" in terminal.seen


def test_a_terminal_that_is_not_read_blocks_nothing(
    start_command: Start, script: Script, tmp_path: Path
) -> None:
    name = script(
        "import sys\n"
        "for number in range(300000): sys.stdout.write(f'line {number} and more of it\\n')\n"
        "sys.stdout.flush()\n"
        "open('written', 'w').close()\n"
    )
    terminal = Terminal(start_command, name, PYTHONUNBUFFERED="")
    wait_until((tmp_path / "written").exists, "the rank has ended", timeout_s=60)
    assert terminal.running.process.wait(60) == 0
    os.close(terminal.master)


def test_subprocess_of_a_rank_has_its_terminal(start_command: Start, script: Script) -> None:
    code = "import sys; print(\\'child\\', sys.stdout.isatty())"
    name = script(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', '{code}'])\n")
    terminal = Terminal(start_command, name, NO_COLOR="1")
    assert terminal.finish() == 0
    assert terminal.seen == b"[0] child True\r\n"


def test_a_daemon_that_outlives_its_rank_holds_nothing_up(
    start_command: Start, script: Script
) -> None:
    name = script(
        "import os, subprocess\n"
        "child = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "print('child', child.pid)\n"
    )
    terminal = Terminal(start_command, name, NO_COLOR="1")
    assert terminal.running.process.wait(30) == 0
    terminal.wait_for(b"\r\n")
    pid = int(terminal.seen.split()[-1])
    os.kill(pid, signal.SIGKILL)
    os.close(terminal.master)
    wait_until(lambda: subprocess.run(["kill", "-0", str(pid)], capture_output=True).returncode, "")
