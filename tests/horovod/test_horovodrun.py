"""Ranks that horovodrun has started: one supervisor runs them, and Horovod's own variables are left
alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines import needs_horovod

pytestmark = needs_horovod


@pytest.fixture
def horovodrun(run_command: Any, script: Any, tmp_path: Path) -> Any:
    """Run the launcher under horovodrun with a script's text, over loopback."""

    def run(text: str, *options: str) -> Any:
        starter = [
            str(Path(sys.executable).parent / "horovodrun"),
            "-np",
            "2",
            "--gloo",
            "--network-interface",
            "lo",
        ]
        argv = [*starter, sys.executable, "-m", "launcher", *options, script(text)]
        return run_command(argv, timeout_s=100.0, env={"TMPDIR": str(tmp_path)})

    return run


def test_horovod_meets_over_horovodruns_own_store(
    horovodrun: Any, said: Any, tmp_path: Path
) -> None:
    done = horovodrun(
        "import os, torch, horovod.torch as hvd\n"
        "hvd.init()\n"
        "total = hvd.allreduce(torch.ones(1), op=hvd.Sum).item()\n"
        "names = 'RANK WORLD_SIZE HOROVOD_CONTROLLER HOROVOD_RANK'.split()\n"
        "parent = open(f'/proc/{os.getppid()}/cmdline').read()\n"
        "with open(f'said_{hvd.rank()}', 'w') as file:\n"
        "    file.write(f\"{total} {[os.environ[n] for n in names]} {'forkserver' in parent}\")\n"
    )
    assert done.code == 0, done.err
    assert said() == [f"2.0 ['{rank}', '2', 'gloo', '{rank}'] True" for rank in range(2)]
    assert len(list(tmp_path.glob("runs/[!l]*/logs/rank_*.out"))) == 2


def test_torch_meets_at_a_port_that_all_ranks_derive(horovodrun: Any, said: Any) -> None:
    done = horovodrun(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "total = torch.ones(1)\n"
        "dist.all_reduce(total)\n"
        "open(f'said_{dist.get_rank()}', 'w').write(f'{total.item()}')\n"
        "dist.destroy_process_group()\n"
    )
    assert done.code == 0, done.err
    assert said() == ["2.0", "2.0"]


def test_one_report_names_the_rank_that_failed(horovodrun: Any, tmp_path: Path) -> None:
    done = horovodrun(
        "import torch, horovod.torch as hvd\n"
        "hvd.init()\n"
        "hvd.allreduce(torch.ones(1), name='together')\n"
        "if hvd.rank() == 1: raise ValueError('only here')\n"
        "hvd.allreduce(torch.ones(1), name='alone')\n"
    )
    assert done.code == 1
    text = done.out + done.err
    assert text.count("FAILED:") == 1, text
    report = text.partition("FAILED: rank 1 (pid ")[2]
    assert "ValueError: only here" in report
    assert "also failed, later: rank 0: horovod.common.exceptions.HorovodInternalError" in report
    assert len(list(tmp_path.glob("runs/[!l]*/report.json"))) == 1


def test_nproc_per_node_below_horovodrun_is_refused_with_the_command_to_type(
    horovodrun: Any,
) -> None:
    done = horovodrun("print('never')\n", "--nproc-per-node", "2")
    assert done.code != 0
    text = done.out + done.err
    assert "horovodrun has started 2 processes on this node (HOROVOD_LOCAL_SIZE=2)" in text
    assert "horovodrun -np 2 python -m launcher script.py" in text
    assert "never" not in text
