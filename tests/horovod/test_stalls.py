"""Ranks that wait for each other in Horovod: its stall inspector tells, and the launcher acts on
it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines import needs_horovod

pytestmark = [pytest.mark.slow, needs_horovod]

HANG = ("--hang-timeout", "2", "--shutdown-timeout", "2")
HEAD = (
    "import os, time, torch, horovod.torch as hvd\n"
    "hvd.init()\n"
    "def reduce(name): return hvd.allreduce(torch.ones(1), op=hvd.Sum, name=name).item()\n"
    "def sleep(): time.sleep(100)\n"
    "for _ in range(3): reduce('known')\n"
)

Report = Callable[[], "dict[str, Any]"]


@pytest.fixture
def report(only_run_dir: Callable[[], Path]) -> Report:
    """Return the content of report.json of the only run of this test."""
    return lambda: json.loads((only_run_dir() / "report.json").read_text())


# Horovod finds a tensor that it has seen in an earlier step in another way than a new one.
@pytest.mark.parametrize("name", ["new", "known"])
def test_a_rank_that_does_not_take_part_is_named_with_the_tensor(
    run: Any, script: Any, report: Report, method: str, name: str
) -> None:
    text = f"sleep() if hvd.rank() == 1 else reduce('{name}')\n"
    done = run(
        "--nproc-per-node",
        "2",
        "--start",
        method,
        "--backend",
        "horovod",
        *HANG,
        script(HEAD + text),
    )
    assert done.code == 124, done.err
    assert done.err.count("FAILED: ") == 1
    found = report()
    assert found["rank"] == 1
    assert found["what"].startswith("Horovod has waited for ")
    assert f" s for rank 1 in allreduce.{name}: " in found["what"]
    assert "rank 1: is at script.py:4 in sleep" in found["stacks"]
    assert "script.py:3 in reduce" in found["stacks"], "where rank 0 waits"


def test_ranks_that_wait_for_each_other_are_both_named(
    run: Any, script: Any, report: Report
) -> None:
    done = run("--nproc-per-node", "2", *HANG, script(HEAD + "reduce(f'of_{hvd.rank()}')\n"))
    assert done.code == 124, done.err
    assert report()["rank"] == -1
    assert " for rank 0 in allreduce.of_1; rank 1 in allreduce.of_0: " in report()["what"]


def test_a_restart_heals_a_stall(run: Any, script: Any) -> None:
    text = (
        "if hvd.rank() == 1 and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':"
        " sleep()\nprint('sum', reduce('after'))\n"
    )
    done = run("--nproc-per-node", "2", "--max-restarts", "1", *HANG, script(HEAD + text))
    assert done.code == 0, done.err
    assert done.lines[-2:] == ["[0] sum 2.0", "[1] sum 2.0"]
    assert "for rank 1 in allreduce.after" in done.err
    assert "starting all ranks again" in done.err


def test_without_a_timeout_there_is_one_warning_with_the_stacks_and_the_run_goes_on(
    start: Any, script: Any, tmp_path: Path
) -> None:
    text = (
        "def late():\n"
        "    while not os.path.exists('go'): time.sleep(0.05)\n"
        "if hvd.rank() == 1: late()\n"
        "print('sum', reduce('late'))\n"
    )
    child = start(
        "--nproc-per-node", "2", script(HEAD + text), env={"HOROVOD_STALL_CHECK_TIME_SECONDS": "1"}
    )
    child.wait_for("Missing ranks:", count=3)
    (tmp_path / "go").touch()
    done = child.finish()
    assert done.code == 0, done.err
    assert done.lines[-2:] == ["[0] sum 2.0", "[1] sum 2.0"]
    assert done.err.count("Horovod has waited for 1 s for rank 1 in allreduce.late:") == 1
    assert "in late" in done.err
    assert "FAILED" not in done.err


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        ("torch.ones(4 + hvd.rank())", "Mismatched ALLREDUCE tensor shapes"),
        (
            "torch.ones(4, dtype=[torch.float32, torch.float64][hvd.rank()])",
            "Mismatched data types",
        ),
    ],
)
def test_tensors_that_do_not_match_are_the_cause_on_all_ranks(
    run: Any, script: Any, report: Report, tensor: str, said: str
) -> None:
    done = run("--nproc-per-node", "2", script(HEAD + f"hvd.allreduce({tensor}, name='pair')\n"))
    assert done.code == 1
    found = report()
    assert found["error_type"].endswith("HorovodInternalError")
    assert found["error_message"].startswith(said)
    assert [other["is_same"] for other in found["others"]] in ([], [True]), (
        "the other rank says the same, if it came to that"
    )
