"""What is restarted, when, and what the report says about the attempts before."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Run, Script

pytestmark = pytest.mark.slow

Report = Callable[[], "dict[str, Any]"]

# How many runs must get over the death of a rank; a store that keeps old addresses fails most of
# them.
TIMES = int(os.environ.get("RESTART_TIMES", "2"))

HEAD = (
    "import os, sys, signal, time\nrank = int(os.environ['RANK'])\nattempt ="
    " int(os.environ['TORCHELASTIC_RESTART_COUNT'])\n"
)


def attempts_of(err: str) -> int:
    return err.count("; starting all ranks again") + 1


def test_same_traceback_at_the_start_twice_is_not_tried_a_third_time(
    run: Run, script: Script, report: Report
) -> None:
    done = run(
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "5",
        script(HEAD + "if rank == 1: raise ValueError('always')\ntime.sleep(60)\n"),
    )
    assert done.code == 1
    assert attempts_of(done.err) == 2
    assert (
        report()["verdict"]
        == "not restarted: two attempts in a row failed at their start with the same traceback"
    )
    (before,) = report()["history"]
    assert before.startswith("attempt 0 (")
    assert "rank 1 failed, exit code 1: ValueError: always" in before
    assert f"  before: {before}\n" in done.err


def test_different_errors_use_up_all_restarts_and_the_report_has_the_history(
    run: Run, script: Script, report: Report
) -> None:
    done = run(
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "3",
        "--restart-backoff",
        "0",
        script(HEAD + "if rank == 1: raise ValueError(attempt)\ntime.sleep(60)\n"),
    )
    assert attempts_of(done.err) == 4
    assert report()["attempt"] == 3
    assert report()["verdict"] == "all 3 restarts are used up"
    assert [line[:9] for line in report()["history"]] == ["attempt 0", "attempt 1", "attempt 2"]
    assert done.err.count("FAILED: ") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "import there_is_no_such_module",
            "another attempt would meet the same ModuleNotFoundError",
        ),
        ("sys.exit(2)", "exit code 2 at the start is a usage error"),
        (
            "import argparse; argparse.ArgumentParser().parse_args(['--wrong'])",
            "exit code 2 at the start is a usage error",
        ),
    ],
)
def test_what_cannot_heal_is_not_restarted(
    run: Run, script: Script, report: Report, text: str, reason: str
) -> None:
    done = run("--nproc-per-node", "2", "--max-restarts", "5", script(HEAD + text + "\n"))
    assert attempts_of(done.err) == 1
    assert report()["verdict"] == f"not restarted: {reason}"
    assert f"  not restarted: {reason}\n" in done.err


@pytest.mark.parametrize(
    ("codes", "code", "attempts"),
    [("77", 77, 1), ("64-78", 77, 1), ("3,64-78", 79, 3), ("137", 137, 1)],
)
def test_exit_codes_that_never_restart(
    run: Run, script: Script, report: Report, codes: str, code: int, attempts: int
) -> None:
    end = "os.kill(os.getpid(), 9)" if code == 137 else f"os._exit({code})"
    done = run(
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "2",
        "--restart-backoff",
        "0",
        "--no-restart-codes",
        codes,
        script(HEAD + f"if rank == 1: {end}\ntime.sleep(60)\n"),
    )
    assert (done.code, attempts_of(done.err)) == (code, attempts)
    assert ("names exit code" in report()["verdict"]) == (attempts == 1)


def test_budget_of_a_time_window_counts_beside_that_of_the_run(
    run: Run, script: Script, report: Report
) -> None:
    done = run(
        "--nproc-per-node",
        "1",
        "--max-restarts",
        "10",
        "--restart-limit",
        "2/600",
        "--restart-backoff",
        "0",
        script(HEAD + "os._exit(3)\n"),
    )
    assert attempts_of(done.err) == 3
    assert report()["verdict"] == "not restarted: --restart-limit allows 2 restarts in 600 s"


def test_first_restart_comes_at_once_and_the_second_after_a_pause(run: Run, script: Script) -> None:
    name = script(HEAD + "open(f'began{attempt}', 'w').write(str(time.monotonic()))\nos._exit(3)\n")
    done = run("--nproc-per-node", "1", "--max-restarts", "2", "--restart-backoff", "1", name)
    said = [line for line in done.err.splitlines() if "starting all ranks again" in line]
    assert said[0].endswith("; starting all ranks again")
    assert " again in " in said[1]


def test_signal_in_the_pause_before_a_restart_ends_the_run_at_once(
    start: Callable[..., Any], script: Script
) -> None:
    child = start(
        "--nproc-per-node",
        "1",
        "--max-restarts",
        "5",
        "--restart-backoff",
        "60",
        script(HEAD + "os._exit(3)\n"),
    )
    child.wait_for("starting all ranks again in ")
    began = time.monotonic()
    child.send(15)
    assert child.finish().code == 143
    assert time.monotonic() - began < 1.5


def test_signal_to_the_launcher_is_no_failure_to_restart(
    start: Callable[..., Any], script: Script
) -> None:
    child = start(
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "5",
        script(HEAD + "print('ready', flush=True)\nsignal.pause()\n"),
    )
    child.wait_for("ready", 2)
    child.send(15)
    done = child.finish()
    assert (done.code, attempts_of(done.err)) == (143, 1)


def test_restart_works_after_a_first_attempt_that_had_reduced(
    run: Run, script: Script, method: str
) -> None:
    pytest.importorskip("torch")
    name = script(
        HEAD + "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "for step in range(5):\n"
        "    dist.all_reduce(torch.ones(1))\n"
        "    if attempt == 0 and step == 3 and rank == 1: raise ValueError(f'attempt {attempt}')\n"
        "dist.destroy_process_group()\nprint('reduced in', attempt, flush=True)\n"
    )
    for _ in range(TIMES if method == "warm" else 1):
        done = run(
            "--nproc-per-node",
            "2",
            "--start",
            method,
            "--max-restarts",
            "1",
            "--restart-backoff",
            "0",
            name,
        )
        assert done.code == 0, done.err
        assert done.out.count("reduced in 1") == 2
