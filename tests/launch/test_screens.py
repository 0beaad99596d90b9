"""What a user sees: whole screens of a real terminal, tmux, with a shell in it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Script, Start, Terminal, ask_until, command, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]

# Two nested bars in each rank, which stand still when step 5 has been drawn.
NESTED = """
import os, signal
from tqdm import tqdm
rank = os.environ['RANK']
for epoch in tqdm(range(2), desc='epoch', mininterval=0):
    for step in tqdm(range(10), desc='step', leave=False, mininterval=0):
        if (epoch, step) == (1, 2):
            tqdm.write(f'rank {rank} saved')
        if (epoch, step) == (1, 5):
            signal.pause()
"""
TABLE = """
import os, signal
from pip._vendor.rich.console import Console
from pip._vendor.rich.live import Live
console = Console()
with Live('head\\nrow 0', console=console, auto_refresh=False) as live:
    for number in range(1, 6):
        live.update(f'head\\nrow {number}\\nwidth {console.width}', refresh=True)
        if number == 3:
            console.print('printed above')
    open(f"drawn_{os.environ['RANK']}", 'w').close()
    signal.pause()
"""
ASK = """
import os, sys
if os.environ['RANK'] == '0':
    print('hello', input('name? '))
"""


class Screen:
    """A tmux server of its own with one window, in which a shell waits."""

    def __init__(self, folder: Path, columns: int, rows: int, term: str) -> None:
        self._tmux = ["tmux", "-f", os.devnull, "-S", str(folder / "tmux.sock")]
        size = ["-x", str(columns), "-y", str(rows)]
        shell = [
            "env",
            "-u",
            "COLUMNS",
            "-u",
            "LINES",
            f"TERM={term}",
            "PS1=$ ",
            "bash",
            "--norc",
            "--noprofile",
        ]
        self._run("new-session", "-d", *size, "-c", str(folder), *shell)
        self.wait_for("$")

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words], capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout

    def launch(self, *options: str) -> None:
        self.type("clear; " + shlex.join(map(str, command(*options))), "Enter")

    def type(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    @property
    def lines(self) -> list[str]:
        return self._run("capture-pane", "-p").rstrip("\n").splitlines()

    def wait_for(self, text: str, count: int = 1, start: str = "") -> list[str]:
        """Wait until a text stands so often on the screen; return its lines then.

        start: count only in lines that begin so.
        """

        def is_there() -> bool:
            self._seen = self.lines
            counted = [line for line in self._seen if line.startswith(start)]
            return "\n".join(counted).count(text) >= count

        wait_until(is_there, f"{text!r} {count} times on the screen", timeout_s=30)
        return self._seen

    def wait_for_rows(self, *texts: str) -> None:
        """Wait until there is nothing on the screen but a row with each of these texts."""

        def is_so() -> bool:
            self._seen = [line for line in self.lines if line]
            rows = zip(self._seen, texts, strict=False)
            return len(self._seen) == len(texts) and all(text in line for line, text in rows)

        is_shown = ask_until(is_so, 30)
        assert is_shown, f"not rows with {texts} and no other: {self._seen}"

    def close(self) -> None:
        self._run("kill-server")


Open = Callable[..., Screen]


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Open]:
    """Open screens, of 80 columns and 24 rows or as wanted."""
    opened: list[Screen] = []

    def begin(columns: int = 80, rows: int = 24, term: str = "screen") -> Screen:
        opened.append(Screen(tmp_path, columns, rows, term))
        return opened[-1]

    yield begin
    for each in opened:
        each.close()


@pytest.mark.parametrize(("columns", "ranks"), [(80, 2), (200, 2), (80, 16)])
def test_nested_bars_of_one_rank_are_drawn_in_place(
    columns: int, ranks: int, screen: Open, script: Script
) -> None:
    terminal = screen(columns, 40)
    all_ranks = ("--console-ranks", f"0-{ranks - 1}")
    terminal.launch("--nproc-per-node", str(ranks), *all_ranks, script(NESTED))
    terminal.wait_for(" saved", ranks)
    # Another rank's bars stand there while this one has none, as between a line and its bars.
    prefix = "[0]" if ranks < 10 else "[ 0]"
    terminal.wait_for("| 1/2 [", start=prefix)
    lines = terminal.wait_for("| 5/10 [", start=prefix)
    live = [line for line in lines if line.startswith(prefix) and "|" in line]
    assert [line.removeprefix(prefix).split()[0] for line in live] == ["epoch:", "step:"]
    assert all(len(line) <= columns for line in live)
    assert max(map(len, live)) > columns - 8  # as wide as there is room for
    assert sum("step:" in line for line in lines) == 1
    assert sum(" saved" in line for line in lines) == ranks


def test_a_live_table_is_drawn_in_place(screen: Open, script: Script, tmp_path: Path) -> None:
    pytest.importorskip("pip._vendor.rich.live")
    terminal = screen()
    terminal.launch("--nproc-per-node", "2", script(TABLE))
    wait_until(lambda: all((tmp_path / f"drawn_{rank}").exists() for rank in (0, 1)), "tables")
    lines = terminal.wait_for("[0] row 5\n[0] width 76")
    rank_0 = [line.rstrip() for line in lines if line.startswith("[0]")]
    assert rank_0[-3:] == ["[0] head", "[0] row 5", "[0] width 76"]
    assert "[0] row 4" not in rank_0
    terminal.type("C-c")
    lines = terminal.wait_for("[1] width 76")
    assert sum(line.startswith("[1] row") for line in lines) == 1


@pytest.mark.parametrize(("ranks", "rows"), [(16, 40), (64, 24)])
def test_bars_of_all_ranks_have_a_line_each(
    ranks: int, rows: int, screen: Open, script: Script
) -> None:
    name = script(
        "import signal\n"
        "from tqdm import tqdm\n"
        "for step in tqdm(range(10), desc='step', mininterval=0):\n"
        "    if step == 5: signal.pause()\n"
    )
    terminal = screen(80, rows)
    terminal.launch("--bars", "all", "--nproc-per-node", str(ranks), name)
    if ranks >= rows:
        terminal.wait_for(f"and {ranks - rows + 2} more ranks")
    lines = terminal.wait_for("5/10", min(ranks, rows - 2))
    bars = [line for line in lines if "5/10" in line]
    shown = ranks if ranks < rows else rows - 2
    assert [line[:4] for line in bars] == [f"[{rank:2d}]" for rank in range(shown)]
    assert any(f"and {ranks - shown} more ranks" in line for line in lines) == (ranks > shown)


def test_bars_follow_a_new_size(screen: Open, script: Script) -> None:
    name = script(
        "import os, signal, time\n"
        "from tqdm import tqdm\n"
        "bar = tqdm(total=10, desc='step', dynamic_ncols=True, mininterval=0)\n"
        "def draw(*_): bar.refresh()\n"
        "signal.signal(signal.SIGWINCH, draw)\n"
        "while True: signal.pause()\n"
    )
    terminal = screen(100, 20)
    terminal.launch("--nproc-per-node", "2", name)
    terminal.wait_for("0/10")
    for columns in (60, 120):
        terminal.resize(columns, 20)
        wait_until(
            lambda columns=columns: any(
                columns - 8 < len(line) <= columns for line in terminal.lines if "0/10" in line
            ),
            f"a bar of {columns} columns",
        )
        assert sum("0/10" in line for line in terminal.lines) <= 2


def test_bars_that_keep_their_width_do_not_fill_a_narrower_screen(
    screen: Open, script: Script
) -> None:
    name = script(
        "import os, signal, time\n"
        "from tqdm import tqdm\n"
        # Blocked, a signal also waits for one who is not there yet.
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})\n"
        "bar = tqdm(total=99, desc='step', mininterval=0)\n"
        # Each time the other rank draws, all is drawn again: also while tmux is narrower already
        # and has not said so.
        "while os.environ['RANK'] == '1': bar.refresh(); time.sleep(0.01)\n"
        "while True:\n"
        "    signal.sigwait({signal.SIGWINCH})\n"
        "    for _ in range(9): bar.n += 1; bar.refresh()\n"
    )
    terminal = screen(100, 20)
    terminal.launch("--nproc-per-node", "2", name)
    terminal.wait_for("0/99", start="[0]")
    for columns, steps in ((80, 9), (60, 18)):
        terminal.resize(columns, 20)
        terminal.wait_for_rows(f"step: {steps:3d}%")


def test_attached_on_a_narrower_screen_bars_take_one_row_each_and_nothing_else(
    screen: Open, script: Script, start_command: Start, suite_mark: str, tmp_path: Path
) -> None:
    name = script(
        "import os, time\n"
        "from tqdm import tqdm\n"
        "outer = tqdm(total=99, desc='epoch', mininterval=0)\n"
        "inner = tqdm(total=99, desc='step', mininterval=0)\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "for _ in range(9): inner.n += 1; inner.refresh(); outer.refresh()\n"
        "while not os.path.exists('end'): time.sleep(0.01)\n"
        "inner.close(); outer.close()\n"
    )
    first = Terminal(start_command, "--rdzv-id", suite_mark, name, size=(100, 30))
    first.wait_for(b"step:   0%")
    terminal = screen(60, 12)
    attach = shlex.join([sys.executable, "-m", "launcher.ctl", "attach", suite_mark])
    terminal.type(f"clear; echo mine; {attach}", "Enter")
    terminal.wait_for("step:   0%")
    (tmp_path / "go").touch()
    terminal.wait_for_rows("mine", "epoch:   0%", "step:   9%")
    (tmp_path / "end").touch()
    assert first.finish() == 0


def test_a_terminal_without_escapes_shows_one_row(screen: Open, script: Script) -> None:
    terminal = screen(80, 40, "dumb")
    terminal.launch("--nproc-per-node", "2", script(NESTED))
    terminal.wait_for(" saved", 2)
    lines = terminal.wait_for("[0] epoch:")
    assert not any("\x1b" in line or "[K" in line for line in lines)


def test_a_question_stays_while_others_write(screen: Open, script: Script) -> None:
    name = script(
        "import os, time\n"
        "if os.environ['RANK'] == '0':\n"
        "    print('hello', input('name? '))\n"
        "    open('answered', 'w').close()\n"
        "else:\n"
        "    number = 0\n"
        "    while not os.path.exists('answered'):\n"
        "        print('line', number, flush=True)\n"
        "        number += 1\n"
        "        time.sleep(0.05)\n"
    )
    terminal = screen(80, 10)
    terminal.launch("--nproc-per-node", "2", name)
    terminal.wait_for("name?")
    terminal.wait_for("[1] line ")
    for typed in ("B", "Bo", "Bob"):
        terminal.type(typed[-1])
        lines = terminal.wait_for(f"[0] name? {typed}")
        assert sum("name?" in line for line in lines) == 1
    number = int(terminal.lines[-2].split()[-1])
    assert terminal.wait_for(f"line {number + 5}")[-1].rstrip() == "[0] name? Bob"
    terminal.type("Enter")
    terminal.wait_for("[0] hello Bob")


def test_ctrl_z_gives_the_shell_its_terminal_and_fg_takes_it_again(
    screen: Open, script: Script
) -> None:
    terminal = screen()
    terminal.launch("--nproc-per-node", "2", script(ASK))
    terminal.wait_for("name?")
    terminal.type("Bo")
    terminal.wait_for("[0] name? Bo")
    terminal.type("C-z")
    terminal.wait_for("Stopped")
    terminal.type("stty -a | grep -o ' icanon\\| echo '", "Enter")
    terminal.wait_for(" echo\n")
    terminal.wait_for(" icanon")
    terminal.type("fg", "Enter")
    terminal.wait_for("[0] name? Bo")
    terminal.type("b", "Enter")
    terminal.wait_for("[0] hello Bob")


def test_in_the_background_the_shell_has_the_keys(screen: Open, script: Script) -> None:
    terminal = screen()
    words = shlex.join(map(str, command("--nproc-per-node", "2", script(ASK))))
    terminal.type(f"clear; {words} &", "Enter")
    terminal.wait_for("name?")
    terminal.type("echo $((6 * 7)) for the shell", "Enter")
    terminal.wait_for("42 for the shell")
    terminal.type("jobs", "Enter")
    terminal.wait_for("Running")
    terminal.type("fg", "Enter")
    terminal.type("Bob", "Enter")
    terminal.wait_for("[0] hello Bob")
