"""What the terminal shows of many ranks: chosen, folded, with times, or without our own words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import Run, Script, Start, Terminal

pytestmark = pytest.mark.slow

HELLO = """
import os, sys
rank = os.environ["RANK"]
print("out of", rank, flush=True)
print("err of", rank, file=sys.stderr, flush=True)
"""


def test_chosen_ranks_alone_are_shown(run: Run, script: Script) -> None:
    done = run("--nproc-per-node", "5", "--console-ranks", "0,2-3", script(HELLO))
    assert done.lines == ["[0] out of 0", "[2] out of 2", "[3] out of 3"]
    assert sorted(done.err.splitlines()) == ["[0] err of 0", "[2] err of 2", "[3] err of 3"]


def test_ranks_that_the_run_does_not_have_are_named(run: Run, script: Script) -> None:
    done = run("--nproc-per-node", "2", "--console-ranks", "1,7", script(HELLO))
    assert done.lines == ["[1] out of 1"]
    assert "[launcher] --console-ranks 1,7: there is no rank 7 in this run; it has ranks 0-1" in (
        done.err.splitlines()
    )


def test_of_many_ranks_a_terminal_shows_the_first_ones_stdout_and_all_of_stderr(
    start_command: Start, script: Script
) -> None:
    options = ("--nproc-per-node", "9", "--rdzv-id", "many")
    terminal = Terminal(start_command, *options, script(HELLO), NO_COLOR="1")
    assert terminal.finish() == 0
    lines = terminal.seen.decode().replace("\r\n", "\n").splitlines()
    (said,) = [line for line in lines if line.startswith("[launcher]")]
    assert said.startswith("[launcher] 9 ranks: showing stdout of rank 0 and stderr of all; ")
    assert "runs/many/logs (--console-ranks all shows everything)" in said
    assert [line for line in lines if " out of" in line] == ["[0] out of 0"]
    assert sum(" err of" in line for line in lines) == 9


@pytest.mark.parametrize(("ranks", "options"), [("8", ()), ("9", ("--console-ranks", "all"))])
def test_few_ranks_or_all_that_were_asked_for_are_shown_on_a_terminal(
    start_command: Start, script: Script, ranks: str, options: tuple[str, ...]
) -> None:
    terminal = Terminal(
        start_command, "--nproc-per-node", ranks, *options, script(HELLO), NO_COLOR="1"
    )
    assert terminal.finish() == 0
    assert terminal.seen.count(b" out of ") == int(ranks)
    assert b"[launcher]" not in terminal.seen


def test_in_a_pipe_many_ranks_are_shown(run: Run, script: Script) -> None:
    done = run("--nproc-per-node", "9", script(HELLO))
    assert len(done.lines) == 9
    assert "[launcher]" not in done.err


def test_equal_lines_of_all_ranks_are_shown_once(run: Run, script: Script) -> None:
    name = script(
        "import os, time\nfrom pathlib import Path\nPath('ready' + os.environ['RANK']).touch()\n"
        "while not all(Path(f'ready{rank}').exists() for rank in range(4)): time.sleep(0.001)\n"
        "for epoch in range(100): print(f'epoch {epoch}', flush=True)\n"
        "print('last of ' + os.environ['RANK'], flush=True)\n"
    )
    done = run("--nproc-per-node", "4", "--fold", name)
    lines = done.out.splitlines()
    # Ranks that are more than 0.15 s apart have lines of their own.
    assert "[0-3] epoch 99" in lines or len(lines) < 300
    for rank in range(4):
        own = [line.partition("] ")[2] for line in lines if rank in ranks_of(line)]
        assert own == [*(f"epoch {epoch}" for epoch in range(100)), f"last of {rank}"]


def ranks_of(line: str) -> set[int]:
    ranks: set[int] = set()
    for part in line[1 : line.index("]")].split(","):
        low, _, high = part.partition("-")
        ranks.update(range(int(low), int(high or low) + 1))
    return ranks


def test_a_folded_line_of_one_rank_comes_soon(start: Start, script: Script, tmp_path: Path) -> None:
    name = script(
        "import os, time\nif os.environ['RANK'] == '1': print('alone', flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
    )
    child = start("--nproc-per-node", "2", "--fold", name)
    child.wait_for("[1] alone\n")
    (tmp_path / "go").touch()
    assert child.finish().code == 0


def test_times_stand_in_front_of_each_line(run: Run, script: Script) -> None:
    done = run("--nproc-per-node", "2", "--timestamps", script(HELLO))
    for line in (*done.lines, *done.err.splitlines()):
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d\d\d \[\d\] (out|err) of \d", line)


def test_quiet_leaves_the_ranks_and_the_report(run: Run, script: Script) -> None:
    name = script("import os, sys\nprint('hi')\nsys.exit(3 * (os.environ['RANK'] == '0'))\n")
    options = ("--nproc-per-node", "2", "--max-restarts", "1", "--restart-backoff", "0")
    loud = run(*options, name)
    assert "[launcher] " in loud.err
    done = run(*options, "--quiet", name)
    assert done.code == 3
    assert "[launcher] " not in done.err
    assert "rank 0" in done.err
    assert set(done.lines) <= {"[0] hi", "[1] hi"}
