"""A run's output and figures from another terminal: `ctl logs`, `attach`, `top` and `ps`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Completed, Run, Running, Script, Start, Terminal, find_free_port

pytestmark = pytest.mark.slow

# Says what stands in the file `say`, line by line, as `RANK TEXT`; ends with `end`.
TALKER = """
import os, sys, time
rank, done = os.environ["RANK"], 0
print("ready", flush=True)
while True:
    try:
        lines = open("say").read().split("\\n")[:-1]
    except FileNotFoundError:
        lines = []
    for line in lines[done:]:
        who, _, text = line.partition(" ")
        if text == "end":
            sys.exit(0)
        if who == rank:
            print(text, file=sys.stderr if text.startswith("oh") else sys.stdout, flush=True)
    done = len(lines)
    time.sleep(0.005)
"""

Ctl = Callable[..., Completed]


class Talk:
    """A run of two ranks that say what they are told."""

    def __init__(self, child: Running, folder: Path) -> None:
        self.child = child
        self._file = folder / "say"

    def say(self, rank: int, text: str) -> None:
        with self._file.open("a") as file:
            file.write(f"{rank} {text}\n")
        if text != "end":
            self.child.wait_for(f"[{rank}] {text}\n")

    def end(self) -> Completed:
        self.say(0, "end")
        return self.child.finish()


@pytest.fixture
def ctl(run_command: Run) -> Ctl:
    """Run `launcher.ctl` with these arguments."""
    return lambda *args: run_command([sys.executable, "-m", "launcher.ctl", *args])


@pytest.fixture
def start_ctl(start_command: Start) -> Start:
    """Start `launcher.ctl` with these arguments, and go on."""
    return lambda *args: start_command([sys.executable, "-m", "launcher.ctl", *args])


@pytest.fixture
def talk(start: Start, script: Script, suite_mark: str, tmp_path: Path) -> Talk:
    child = start("--nproc-per-node", "2", "--rdzv-id", f"one-{suite_mark}", script(TALKER))
    child.wait_for("ready", 2)
    return Talk(child, tmp_path)


def test_logs_have_the_lines_of_all_ranks_in_the_order_of_time(
    talk: Talk, ctl: Ctl, suite_mark: str
) -> None:
    said = [(1, "a"), (0, "b"), (0, "oh c"), (1, "oh d"), (0, "e"), (1, "f")]
    for rank, text in said:
        talk.say(rank, text)
    expected = [f"[{rank}] {text}" for rank, text in said]
    going_on = ctl("logs", f"one-{suite_mark}")
    assert going_on.out.splitlines()[2:] == expected
    assert talk.end().code == 0
    ended = ctl("logs", f"one-{suite_mark}")
    assert (ended.code, ended.out, ended.err) == (0, going_on.out, "")


def test_logs_can_be_chosen_by_rank_text_and_time(talk: Talk, ctl: Ctl, suite_mark: str) -> None:
    for rank, text in ((1, "loss 3"), (0, "loss 2"), (1, "other")):
        talk.say(rank, text)
    name = f"one-{suite_mark}"
    assert ctl("logs", name, "--rank", "1").out == "[1] ready\n[1] loss 3\n[1] other\n"
    assert ctl("logs", name, "--grep", "loss").out == "[1] loss 3\n[0] loss 2\n"
    assert len(ctl("logs", name, "--since", "1h").out.splitlines()) == 5
    together = ctl("logs", name, "--since", "1h", "--rank", "0-1", "--grep", "loss 3")
    assert together.out == "[1] loss 3\n"
    assert ctl("logs", name, "--since", "0s").out == ""
    talk.end()


def test_logs_are_followed_until_the_run_ends(
    talk: Talk, start_ctl: Start, suite_mark: str
) -> None:
    reader = start_ctl("logs", f"one-{suite_mark}", "-f")
    reader.wait_for("[0] ready")
    for number in range(3):
        talk.say(number % 2, f"line {number}")
        reader.wait_for(f"[{number % 2}] line {number}\n")
    talk.end()
    assert reader.finish().code == 0


def test_logs_of_a_run_with_a_restart_have_both_attempts(
    run: Run, ctl: Ctl, script: Script, suite_mark: str
) -> None:
    name = script(
        "import os, sys\nattempt = os.environ['TORCHELASTIC_RESTART_COUNT']\n"
        "print('attempt', attempt)\nsys.exit(attempt == '0')\n"
    )
    run("--max-restarts", "1", "--rdzv-id", suite_mark, name)
    assert ctl("logs", suite_mark).out == "[0] attempt 0\n[0] attempt 1\n"


def test_attach_shows_what_the_first_terminal_sees_from_then_on(
    talk: Talk, start_ctl: Start, suite_mark: str
) -> None:
    talk.say(0, "before")
    reader = start_ctl("attach", f"one-{suite_mark}")
    number = 0
    while "[1] line" not in reader.out:  # it takes a moment until it listens
        number += 1
        talk.say(1, f"line {number}")
    talk.say(0, "oh no")
    first = talk.end()
    done = reader.finish()
    assert done.code == 0
    shown = first.out.splitlines()
    heard = done.out.splitlines()
    assert heard == shown[shown.index(heard[0]) :]
    assert done.err == "[0] oh no\n"
    assert "before" not in done.out


def test_a_reader_that_stands_still_does_not_hold_up_the_run(
    start: Start, start_ctl: Start, script: Script, suite_mark: str, tmp_path: Path
) -> None:
    name = script(
        "import os, time\n"
        "while not os.path.exists('go'): print('ready', flush=True); time.sleep(0.01)\n"
        "for _ in range(300_000): print('x' * 99)\n"
        "while not os.path.exists('end'): print('last', flush=True); time.sleep(0.01)\n"
    )
    child = start("--rdzv-id", suite_mark, name)
    child.wait_for("ready")
    readers = [start_ctl("attach", suite_mark) for _ in range(2)]
    for reader in readers:
        reader.wait_for("ready")
    readers[0].send(signal.SIGSTOP)
    (tmp_path / "go").touch()
    # It may be too slow for some of the lines, too, but it catches up.
    readers[1].wait_for("last")
    (tmp_path / "end").touch()
    done = child.finish()
    readers[0].send(signal.SIGCONT)
    assert done.code == 0
    assert done.out.count("x" * 99 + "\n") == 300_000
    for reader in readers:
        assert reader.finish().code == 0
    assert "the end is missing: this reader was too slow" in readers[0].err


def test_ctrl_c_ends_attach_and_not_the_run(talk: Talk, start_ctl: Start, suite_mark: str) -> None:
    reader = start_ctl("attach", f"one-{suite_mark}")
    number = 0
    while "line" not in reader.out:
        number += 1
        talk.say(1, f"line {number}")
    reader.send(signal.SIGINT)
    assert reader.finish().code == 130
    talk.say(0, "still here")
    assert talk.end().code == 0


def test_top_is_one_table_where_nobody_looks_on(talk: Talk, ctl: Ctl, suite_mark: str) -> None:
    done = ctl("top", f"one-{suite_mark}")
    node, empty, header, *ranks = done.out.splitlines()
    assert node.startswith(f"{os.uname().nodename}  CPU ")
    assert empty == ""
    assert "".join(header.split()) == "rankpidCPUmemorypeakthreadsprocsreadwritten"
    assert [line.split()[0] for line in ranks] == ["0", "1"]
    assert all("MiB" in line for line in ranks)
    talk.end()


def test_top_is_drawn_again_on_a_terminal_until_ctrl_c(
    talk: Talk, start_command: Start, suite_mark: str
) -> None:
    def ctl_command(argv: list[str], **options: object) -> Running:
        return start_command([sys.executable, "-m", "launcher.ctl", *argv[3:]], **options)

    terminal = Terminal(ctl_command, "top", f"one-{suite_mark}")
    terminal.wait_for(b"procs", 2)
    terminal.type(b"\x03")
    assert terminal.finish() == 0
    assert talk.end().code == 0


def test_ps_shows_memory_and_steps(start: Start, ctl: Ctl, script: Script, suite_mark: str) -> None:
    name = script(
        "import os, time\nfrom launcher.worker.pace import Pacer\n"
        "pacer = Pacer(os.environ['LAUNCHER_ERROR_FILE'])\n"
        "while True:\n    pacer.beat()\n    time.sleep(0.01)\n"
    )
    child = start("--rdzv-id", suite_mark, name)
    line = ""
    while "steps/s" not in line:
        assert child.process.poll() is None
        line = next((line for line in ctl("ps").out.splitlines() if suite_mark in line), "")
    assert " MiB  " in line
    child.send(signal.SIGTERM)
    assert child.finish().code == 143


def test_figures_and_logs_of_a_run_on_two_nodes_are_those_of_all_ranks(
    start: Start, ctl: Ctl, script: Script, suite_mark: str, tmp_path: Path
) -> None:
    endpoint = f"127.0.0.1:{find_free_port()}"
    name = script(
        "import os, time\nprint('ready', flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
    )
    where = ("--nnodes", "2", "--rdzv-endpoint", endpoint, "--rdzv-id", suite_mark)
    nodes = [
        start(*where, "--node-rank", str(rank), name, env={"LAUNCHER_SECRET": suite_mark})
        for rank in range(2)
    ]
    for child in nodes:
        child.wait_for("ready")
    for child in nodes:
        table = ctl("top", str(child.pid)).out.splitlines()
        assert table[-3].split()[:3] == ["rank", "host", "pid"]
        assert [line.split()[0] for line in table[-2:]] == ["0", "1"]
        (line,) = [line for line in ctl("ps").out.splitlines() if f"pid {child.pid} " in line]
        assert "2/2 ranks running on 2 nodes" in line
        assert " MiB  " in line
        written = ctl("logs", str(child.pid)).out
        assert sorted(written.splitlines()) == ["[0] ready", "[1] ready"]
    (tmp_path / "go").touch()
    assert [child.finish().code for child in nodes] == [0, 0]
