"""Which variables go along to the hosts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launcher.engines.variables import TAKEN, select_variables
from launcher.errors import UsageError
from launcher.options.spec import LaunchSpec

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "ssh.md"


def select(environ: dict[str, str], *exports: str) -> dict[str, str]:
    return select_variables(LaunchSpec(script="train.py", export=exports), environ)


def test_what_decides_how_things_run_goes_along_and_what_belongs_to_a_machine_stays() -> None:
    taken = {"PATH": "/bin", "PYTHONPATH": "here", "NCCL_DEBUG": "INFO", "OMP_NUM_THREADS": "4"}
    stays = {"HOME": "/root", "TMPDIR": "/tmp", "CUDA_VISIBLE_DEVICES": "3", "RANK": "1"}
    stays |= {"PET_NNODES": "2", "SLURM_JOB_ID": "7", "LAUNCHER_SECRET": "x", "PATHS": "no"}
    assert select({**taken, **stays}) == taken


def test_what_is_exported_goes_along_whatever_it_is() -> None:
    environ = {"MINE": "1", "CUDA_VISIBLE_DEVICES": "3", "OTHER": "2"}
    exports = ("MINE", "CUDA_VISIBLE_DEVICES", "NEW=a=b", "EMPTY=")
    wanted = {"MINE": "1", "CUDA_VISIBLE_DEVICES": "3", "NEW": "a=b", "EMPTY": ""}
    assert select(environ, *exports) == wanted


@pytest.mark.parametrize("export", ["", "=1", "1A", "A B", "A-B=1", "NOT_THERE"])
def test_what_cannot_be_exported_is_an_error(export: str) -> None:
    with pytest.raises(UsageError, match="--export "):
        select({}, export)


def test_the_page_has_the_same_table() -> None:
    rows = re.findall(r"^\| `([A-Z_*]+)` \| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE)
    assert dict(rows) == TAKEN
