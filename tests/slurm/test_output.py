"""What ranks of srun print and read: each one has the streams that srun has given to its task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.slurm.conftest import LAUNCHER, ONE_NODE

pytestmark = pytest.mark.slow

# `srun --label` cuts what is longer than 1024 bytes.
PRINT = """
import os, sys
rank = os.environ["RANK"]
for number in range(200):
    print(rank, number, rank * 900)
    print(rank, number, file=sys.stderr)
sys.stdout.write("no end of line")
"""


def _out(rank: int) -> list[str]:
    return [f"{rank} {number} {str(rank) * 900}" for number in range(200)] + ["no end of line"]


def _err(rank: int) -> list[str]:
    return [f"{rank} {number}" for number in range(200)]


def test_labels_of_srun_stand_before_whole_lines_of_their_ranks(slurm: Any, script: Any) -> None:
    done = slurm("srun", "--label", *ONE_NODE, "-n", "4", *LAUNCHER, script(PRINT))
    assert done.code == 0
    for rank in range(4):
        label = f"{rank}: "
        for text, wanted in ((done.out, _out(rank)), (done.err, _err(rank))):
            lines = [line for line in text.splitlines() if line.startswith(label)]
            assert [line.removeprefix(label) for line in lines] == wanted


def test_files_of_srun_have_the_lines_of_their_ranks(
    slurm: Any, script: Any, tmp_path: Path
) -> None:
    files = ("--output=out_%t", "--error=err_%t")
    done = slurm("srun", *files, *ONE_NODE, "-n", "4", *LAUNCHER, script(PRINT))
    assert (done.code, done.out, done.err) == (0, "", "")
    for rank in range(4):
        assert (tmp_path / f"out_{rank}").read_text().splitlines() == _out(rank)
        assert (tmp_path / f"err_{rank}").read_text().splitlines() == _err(rank)


READ = "import os, sys\nprint(os.environ['RANK'], [line.strip() for line in sys.stdin])\n"


@pytest.mark.parametrize(
    ("options", "read"),
    [
        ((), ["0 ['one', 'two']", "1 ['one', 'two']"]),
        (("--input=1",), ["0 []", "1 ['one', 'two']"]),
    ],
    ids=["all", "one"],
)
def test_ranks_read_what_srun_gives_to_their_tasks(
    slurm: Any, script: Any, tmp_path: Path, options: tuple[str, ...], read: list[str]
) -> None:
    (tmp_path / "input").write_text("one\ntwo\n")
    command = ("srun", *options, *ONE_NODE, "-n", "2", *LAUNCHER, script(READ))
    with (tmp_path / "input").open() as stdin:
        done = slurm(*command, stdin=stdin)
    assert (done.code, done.lines) == (0, read), done.err
