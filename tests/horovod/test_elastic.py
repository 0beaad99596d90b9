"""Elastic Horovod on one machine: ranks that are left keep the state that they committed while a
lost one is replaced.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.engines import needs_horovod

SCRIPT = str(Path(__file__).resolve().parents[1] / "workers" / "horovod_elastic.py")

pytestmark = needs_horovod

# What a script of a test begins with, when what matters is how its ranks come and go.
_PROLOGUE = (
    "import os, signal, sys, time\n"
    "import horovod.torch as hvd, torch\n"
    "from horovod.common.exceptions import HorovodInternalError\n"
    "is_first = os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'\n"
    "{before_init}\n"
    "hvd.init()\n"
    "@hvd.elastic.run\n"
    "def train(state):\n"
    "    while state.step < 4:\n"
    "        {in_step}\n"
    "        hvd.allreduce(torch.ones(1), name='together')\n"
    "        state.step += 1\n"
    "        state.commit()\n"
)
_TRAIN = "train(hvd.elastic.TorchState(step=0))\n"
_LOSE_1 = "if is_first and state.step == 2 and hvd.rank() == 1: os.kill(os.getpid(), 9)"


def program(
    in_step: str = _LOSE_1,
    before_init: str = "pass",
    after: str = "print('done', hvd.rank(), hvd.size())\n",
) -> str:
    return _PROLOGUE.format(before_init=before_init, in_step=in_step) + _TRAIN + after


@pytest.fixture
def run(run: Any) -> Any:
    """As elsewhere, with time for ranks that wait for each other and import torch again."""
    return lambda *args, **options: run(*args, timeout_s=120.0, **options)


class Begin(NamedTuple):
    """A line of the script: who takes up the training, and where."""

    rank: int
    step: int
    pid: int
    restart: int


def begins(out: str) -> list[Begin]:
    found = re.findall(r"^\[(\d)\] begins at (\d+) pid (\d+) restart (\d+)$", out, re.MULTILINE)
    return [Begin(*map(int, line)) for line in found]


def check_the_end(out: str, num_ranks: int) -> None:
    """All ranks end, shown under the ranks that they have then, with the same weights."""
    found = re.findall(r"^\[(\d)\] ends as (\d) of (\d) weights (.*)$", out, re.MULTILINE)
    assert sorted((int(shown), int(rank)) for shown, rank, *_ in found) == [
        (rank, rank) for rank in range(num_ranks)
    ]
    assert {int(size) for *_, size, _ in found} == {num_ranks}
    assert len({weights for *_, weights in found}) == 1


def test_a_killed_rank_is_replaced_and_the_other_goes_on_from_its_commit(
    run: Any, method: str, only_run_dir: Any
) -> None:
    done = run(
        "--start", method, "--nproc-per-node", "2", "--max-restarts", "1", SCRIPT, "1:5:kill"
    )
    assert done.code == 0, done.err
    check_the_end(done.out, 2)
    survivor = [begin for begin in begins(done.out) if begin.rank == 0]
    lost, newcomer = (begin for begin in begins(done.out) if begin.rank == 1)
    assert [(begin.step, begin.restart) for begin in survivor] == [(0, 0), (4, 0)]
    assert survivor[0].pid == survivor[1].pid
    assert (newcomer.step, newcomer.restart) == (4, 1)
    assert newcomer.pid != lost.pid
    assert re.search(
        r"attempt 0 \(\d+\.\d s\): rank 1 failed, .*SIGKILL.*; replacing it, rank 0 keeps its"
        r" state\n",
        done.err,
    )
    logs = only_run_dir() / "logs"
    assert sorted(path.name for path in logs.glob("*.out")) == [
        "rank_00.out",
        "rank_01.1.out",
        "rank_01.out",
    ]
    assert f"pid {lost.pid} " in (logs / "rank_01.out").read_text()
    assert f"pid {newcomer.pid} " in (logs / "rank_01.1.out").read_text()


def test_when_rank_0_is_killed_the_lowest_rank_left_takes_its_place(run: Any) -> None:
    done = run("--nproc-per-node", "3", "--max-restarts", "1", SCRIPT, "0:3:kill")
    assert done.code == 0, done.err
    check_the_end(done.out, 3)
    found = begins(done.out)
    first = {begin.rank: begin.pid for begin in found if begin.step == 0}
    second = {begin.rank: begin.pid for begin in found if begin.step == 2}
    assert (second[0], second[2]) == (first[1], first[2])
    assert second[1] not in first.values()
    assert "; replacing it, ranks 0, 2 keep their state; rank 1 is rank 0 from now on\n" in done.err


def test_an_exception_costs_a_rank_and_not_the_run(run: Any) -> None:
    done = run("--nproc-per-node", "2", "--max-restarts", "1", SCRIPT, "1:3:raise")
    assert done.code == 0, done.err
    check_the_end(done.out, 2)
    assert (
        "rank 1 failed, exit code 1: ValueError: told to; replacing it, rank 0 keeps its state\n"
        in done.err
    )


def test_each_replacement_costs_one_restart(run: Any) -> None:
    done = run("--nproc-per-node", "2", "--max-restarts", "2", SCRIPT, "1:3:kill", "0:5:kill")
    assert done.code == 0, done.err
    check_the_end(done.out, 2)
    assert done.err.count("; replacing it, rank 0 keeps its state") == 2
    assert {(begin.step, begin.restart) for begin in begins(done.out)} == {
        (0, 0),
        (2, 0),
        (2, 1),
        (4, 1),
        (4, 2),
    }


def test_a_loss_that_no_restart_is_left_for_ends_the_run(run: Any) -> None:
    done = run("--nproc-per-node", "2", "--max-restarts", "1", SCRIPT, "1:3:kill", "1:5:kill")
    assert done.code == 137
    report = done.err[done.err.index("FAILED:") :]
    assert report.startswith("FAILED: rank 1 ")
    assert re.search(
        r"  before: attempt 0 \(.*\): rank 1 failed, .*; replacing it, rank 0 keeps its state\n",
        report,
    )
    assert "  all 1 restarts are used up\n" in report


def test_two_ranks_that_are_lost_at_once_are_both_replaced(run: Any) -> None:
    done = run("--nproc-per-node", "3", "--max-restarts", "2", SCRIPT, "0:3:kill", "2:3:kill")
    assert done.code == 0, done.err
    check_the_end(done.out, 3)
    assert done.err.count("; replacing it, ") == 2
    assert {begin.restart for begin in begins(done.out)} == {0, 1, 2}
    assert "rank 1 is rank 0 from now on" in done.err


def test_without_max_restarts_the_report_says_what_they_would_do(run: Any) -> None:
    done = run("--nproc-per-node", "2", SCRIPT, "1:3:kill")
    assert done.code == 137
    assert (
        "with --max-restarts 1 a lost rank would be replaced while the others keep their state"
        in done.err
    )


def test_when_the_others_fail_as_well_all_ranks_start_again(run: Any, script: Any) -> None:
    name = script(
        "import os, horovod.torch as hvd, torch\n"
        "hvd.init()\n"
        "hvd.allreduce(torch.ones(1), name='first')\n"
        "state = hvd.elastic.TorchState(step=0)\n"  # and nobody calls hvd.elastic.run
        "if hvd.rank() == 1 and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':"
        " os.kill(os.getpid(), 9)\n"
        "print('sum', hvd.allreduce(torch.ones(1), op=hvd.Sum, name='after').item())\n"
    )
    done = run("--nproc-per-node", "2", "--max-restarts", "1", name)
    assert done.code == 0, done.err
    assert done.lines == ["[0] sum 2.0", "[1] sum 2.0"]
    assert "rank 1 failed, killed by SIGKILL (9); starting all ranks again" in done.err


def test_a_replacement_that_fails_before_it_has_come_is_replaced(run: Any, script: Any) -> None:
    fails = "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '1': sys.exit(5)"
    done = run("--nproc-per-node", "2", "--max-restarts", "2", script(program(before_init=fails)))
    assert done.code == 0, done.err
    assert done.lines == ["[0] done 0 2", "[1] done 1 2"]
    assert "rank 1 failed, exit code 5; replacing it, rank 0 keeps its state" in done.err


def test_a_rank_that_ends_well_while_others_come_back_is_started_again(
    run: Any, script: Any
) -> None:
    leave = (
        f"{_LOSE_1}\n"
        "        try: hvd.allreduce(torch.ones(1), name='leave')\n"
        "        except HorovodInternalError:\n"
        "            if hvd.rank() == 0: sys.exit(0)\n"
        "            raise\n"
    )
    done = run("--nproc-per-node", "3", "--max-restarts", "1", script(program(in_step=leave)))
    assert done.code == 0, done.err
    assert done.lines == [f"[{rank}] done {rank} 3" for rank in range(3)]


def test_a_signal_ends_a_run_that_waits_for_a_replacement(start: Any, script: Any) -> None:
    name = script(program(before_init="if not is_first: print('late', flush=True); signal.pause()"))
    running = start("--nproc-per-node", "2", "--max-restarts", "1", name)
    running.wait_for("[1] late\n")
    running.send(signal.SIGTERM)
    assert running.finish().code == 143


def test_a_replacement_that_never_comes_is_given_up_in_time(run: Any, script: Any) -> None:
    name = script(program(before_init="if not is_first: signal.pause()"))
    done = run(
        "--nproc-per-node", "2", "--max-restarts", "1", name, env={"HOROVOD_ELASTIC_TIMEOUT": "2"}
    )
    assert done.code == 1
    assert (
        "FAILED: rank 1 did not come to hvd.init() in 2 s (HOROVOD_ELASTIC_TIMEOUT)\n" in done.err
    )
    assert "  before: attempt 0" in done.err


def test_ranks_that_only_lost_sight_of_each_other_meet_again_at_no_cost(
    start: Any, script: Any
) -> None:
    pause = (
        "if state.step == 2 and hvd.rank() == 1 and not os.path.exists('paused'):\n"
        "            open('paused', 'w').close()\n"
        "            print('pauses', os.getpid(), flush=True)\n"
        "            os.kill(os.getpid(), signal.SIGSTOP)"
    )
    name = script(program(in_step=pause))
    running = start(
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "1",
        name,
        env={"HOROVOD_GLOO_TIMEOUT_SECONDS": "3"},
    )
    running.wait_for("Horovod background loop uncaught exception")
    os.kill(int(running.out.partition("pauses ")[2].split()[0]), signal.SIGCONT)
    done = running.finish()
    assert done.code == 0, done.err
    assert [line for line in done.lines if "done" in line] == ["[0] done 0 2", "[1] done 1 2"]
    assert (
        "all ranks have met again in hvd.init(), and go on from their last commit; none was lost\n"
        in done.err
    )
    assert "replacing" not in done.err
