"""What ranks of an engine print and read: it leaves through the process that stands for the rank,
so that the engine's own options on output stay right.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_dirs
from tests.engines import needs_mpich, needs_mpirun

# Rank 1 prints while a line of rank 0's is half out.
HALVES = """
import os, sys, time
rank = os.environ["RANK"]
def until(name):
    while not os.path.exists(name): time.sleep(0.002)
if rank == "0":
    os.write(1, b"half a line, ")
    open("half", "w").close()
    until("other")
    os.write(1, b"and the rest\\n")
    print("read", repr(sys.stdin.read()), flush=True)
else:
    until("half")
    for number in range(3):
        print(f"line {number} of {rank}", flush=True)
    print(f"error of {rank}", file=sys.stderr, flush=True)
    if "OMPI_COMM_WORLD_RANK" in os.environ:  # MPICH leaves the others' stdin open
        print("read", repr(sys.stdin.read()), flush=True)
    if rank == "1":
        open("other", "w").close()
print("end of", rank, end="", flush=True)
"""
OF_ZERO = ["half a line, and the rest", "read 'for all\\n'", "end of 0"]


def _of_others(rank: int) -> list[str]:
    lines = [f"line {number} of {rank}" for number in range(3)]
    return [*lines, "read ''", f"end of {rank}"]


def _split(text: str, pattern: str) -> dict[str, list[str]]:
    """Return the lines of each rank, by what stands in the group of the pattern before them."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = re.match(pattern, line)
        assert match, f"{line!r} has no tag"
        found.setdefault(match[1], []).append(line[match.end() :])
    return found


@pytest.fixture
def stdin(tmp_path: Path) -> Any:
    """A file that the engine reads."""
    (tmp_path / "input").write_text("for all\n")
    with (tmp_path / "input").open() as file:
        yield file


@needs_mpirun
def test_tags_stand_before_whole_lines_stdin_is_rank_0s_and_logs_have_everything(
    start_mpirun: Any, stdin: Any, tmp_path: Path
) -> None:
    done = start_mpirun(3, HALVES, flags=["--tag-output"], stdin=stdin).finish()
    assert done.code == 0, done.err
    out = _split(done.out, r"\[1,(\d)\]<stdout>:")
    assert out == {"0": OF_ZERO, "1": _of_others(1), "2": _of_others(2)}
    err = _split(done.err, r"\[1,(\d)\]<stderr>:")
    assert err == {"1": ["error of 1"], "2": ["error of 2"]}
    (folder,) = run_dirs(tmp_path)
    assert (folder / "logs" / "rank_00.out").read_text() == "\n".join(OF_ZERO)
    assert (folder / "logs" / "rank_02.err").read_text() == "error of 2\n"


@needs_mpirun
def test_mpirun_writes_a_file_for_each_rank(start_mpirun: Any, stdin: Any, tmp_path: Path) -> None:
    done = start_mpirun(3, HALVES, flags=["--output-filename", "files"], stdin=stdin).finish()
    assert done.code == 0, done.err
    files = tmp_path / "files" / "1"
    assert (files / "rank.0" / "stdout").read_text().splitlines() == OF_ZERO
    assert (files / "rank.1" / "stdout").read_text().splitlines() == _of_others(1)
    assert (files / "rank.2" / "stderr").read_text() == "error of 2\n"


@needs_mpich
def test_mpich_tells_whose_line_it_is(start_mpich: Any, stdin: Any) -> None:
    done = start_mpich(3, HALVES, flags=["-prepend-rank"], stdin=stdin).finish()
    assert done.code == 0, done.err
    out = _split(done.out, r"\[(\d)\] ")
    expected = [[line for line in _of_others(rank) if "read" not in line] for rank in (1, 2)]
    assert out == {"0": OF_ZERO, "1": expected[0], "2": expected[1]}
    assert sorted(done.err.splitlines()) == ["[1] error of 1", "[2] error of 2"]


@needs_mpirun
def test_much_output_comes_whole_and_a_closed_stdout_does_no_harm(
    mpirun: Any, tmp_path: Path
) -> None:
    text = (
        "import os, sys\n"
        "for number in range(3000): print(os.environ['RANK'], f'{number:0200}')\n"
        "open('whole_' + os.environ['RANK'], 'w').close()\n"
    )
    done = mpirun(2, text, flags=["--output-filename", "files"])  # its terminal mixes lines
    assert done.code == 0, done.err
    for rank in range(2):
        written = (tmp_path / "files" / "1" / f"rank.{rank}" / "stdout").read_text()
        assert written == "".join(f"{rank} {number:0200}\n" for number in range(3000))
    closed = mpirun(2, text, wrapper=["sh", "-c", 'exec "$@" >&-', "sh"])
    assert (closed.code, closed.out) == (0, ""), closed.err
    assert len(list(tmp_path.glob("whole_*"))) == 2
