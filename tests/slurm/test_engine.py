"""`--engine slurm`: the launcher asks Slurm for nodes, by srun or with a batch script."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Completed, Start, Terminal, marked_processes, run_dirs, wait_until
from tests.slurm.conftest import LAUNCHER, NODES, restart

pytestmark = pytest.mark.slow

WHERE = f"--nodelist={','.join(NODES[:2])}"
ENGINE = (*LAUNCHER, "--engine", "slurm")
TWO = (*ENGINE, "--nnodes", "2", "--nproc-per-node", "2", f"--engine-args={WHERE}")

SAY_PLACE = """
import json, os
names = ("NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "EXTRA", "LAUNCHER_SECRET", "PET_ENGINE")
with open('said_' + os.environ['RANK'], 'w') as file:
    json.dump([os.environ.get(name) for name in names], file)
"""
ALL_PLACES = [[str(rank // 2), str(rank % 2), "4", "a b", None, None] for rank in range(4)]


@pytest.fixture
def said(said: Callable[[], list[str]]) -> Callable[[], list[Any]]:
    """As elsewhere, read as JSON."""
    return lambda: [json.loads(text) for text in said()]


def count(tmp_path: Path, pattern: str) -> int:
    return len(list(tmp_path.glob(pattern)))


def test_outside_of_a_job_srun_gets_the_nodes(slurm: Any, script: Any, said: Any) -> None:
    done = slurm(*TWO, "--export=EXTRA=a b", script(SAY_PLACE), PET_ENGINE="slurm")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert said() == ALL_PLACES


def test_inside_of_a_job_its_nodes_are_used(slurm: Any, script: Any, said: Any) -> None:
    # Made for a rank in each task: its launchers want more than the share of one.
    job = ("salloc", WHERE, "--ntasks-per-node=2", "--cpus-per-task=2")
    done = slurm(*job, *ENGINE, "--nproc-per-node=2", script(SAY_PLACE), EXTRA="a b")
    assert done.code == 0, done.err
    assert said() == ALL_PLACES


def test_inside_of_a_shell_that_srun_has_started_too(slurm: Any, script: Any, said: Any) -> None:
    inner = f"{' '.join(ENGINE)} --nproc-per-node=2 {script(SAY_PLACE)}"
    done = slurm("salloc", WHERE, "srun", "-n1", "-N1", "sh", "-c", inner, EXTRA="a b")
    assert done.code == 0, done.err
    assert said() == ALL_PLACES


FAIL = "import os, signal, sys\nif os.environ['RANK'] == '3': sys.exit(7)\nsignal.pause()\n"


def test_a_failing_rank_gives_its_code_and_the_report_comes_last(slurm: Any, script: Any) -> None:
    done = slurm(*TWO, script(FAIL))
    assert done.code == 7
    assert done.err.startswith("FAILED: rank 3 (pid ")
    assert done.err.splitlines()[-1].startswith("  log: ")
    assert "srun: error" not in done.err


# Saves at the first signal, and waits for a second one where it is told to.
SAVE = """
import os, signal, sys, time
rank, patience = os.environ["RANK"], float(sys.argv[1])
def save(signum, frame):
    with open(f"got_{rank}", "a") as file: print(signal.Signals(signum).name, file=file)
    time.sleep(patience)
    open(f"saved_{rank}", "w").close()
    sys.exit(0)
for signum in (signal.SIGINT, signal.SIGTERM): signal.signal(signum, save)
open(f"ready_{rank}_{os.environ['TORCHELASTIC_RESTART_COUNT']}", "w").close()
while True: signal.pause()
"""


@pytest.fixture
def terminal(start_command: Start, slurm_conf: Path) -> Callable[..., Terminal]:
    """The launcher with these arguments on a terminal."""

    def begin(*args: str) -> Terminal:
        return Terminal(start_command, *args, SLURM_CONF=str(slurm_conf))

    return begin


def test_ctrl_c_once_gives_all_ranks_time_to_save(
    terminal: Any, script: Any, tmp_path: Path
) -> None:
    shown = terminal(*TWO[len(LAUNCHER) :], script(SAVE), "0.5")
    wait_until(lambda: count(tmp_path, "ready_*") == 4, "four ranks")
    shown.type(b"\x03")
    assert shown.finish() == 0, shown.seen
    assert [path.read_text() for path in tmp_path.glob("got_*")] == ["SIGINT\n"] * 4
    assert count(tmp_path, "saved_*") == 4


def test_ctrl_c_twice_forces(terminal: Any, script: Any, tmp_path: Path) -> None:
    shown = terminal(*TWO[len(LAUNCHER) :], script(SAVE), "60")
    wait_until(lambda: count(tmp_path, "ready_*") == 4, "four ranks")
    shown.type(b"\x03")
    wait_until(lambda: count(tmp_path, "got_*") == 4, "the first one")
    shown.type(b"\x03")
    assert shown.finish() == 130, shown.seen
    assert count(tmp_path, "saved_*") == 0


def test_ctrl_c_gives_up_waiting_for_nodes(
    start_slurm: Any, start_now: Any, terminal: Any, script: Any
) -> None:
    busy = start_slurm("srun", "-N4", "--exclusive", "sleep", "30")
    wait_until(lambda: state_of(start_now) == "RUNNING", "all nodes are taken")
    shown = terminal(*TWO[len(LAUNCHER) :], script(SAVE), "0")
    shown.wait_for(b"queued and waiting for resources")
    shown.type(b"\x03")
    assert shown.finish() == 130
    busy.send(signal.SIGTERM)
    busy.finish()


def state_of(start_now: Any) -> str:
    return str(start_now("squeue", "--noheader", "--format=%T").finish().out.strip())


def test_nothing_is_left_of_a_launcher_that_is_killed(
    start_slurm: Any, script: Any, tmp_path: Path, suite_mark: str
) -> None:
    running = start_slurm(*TWO, script(SAVE), "60")
    wait_until(lambda: count(tmp_path, "ready_*") == 4, "four ranks")
    # Nobody sees the secret in the list of processes.
    lines = " ".join(marked_processes(suite_mark).values())
    assert "LAUNCHER_SECRET" not in lines and "--secret" not in lines
    running.send(signal.SIGKILL)
    wait_until(lambda: not marked_processes(suite_mark), "the end of all")


SUBMIT = (*TWO, "--submit")


def job_of(done: Completed) -> str:
    assert done.code == 0, done.err
    return done.out.strip()


def test_a_submitted_job_is_a_script_that_can_be_submitted_again(
    slurm: Any, start_now: Any, script: Any, said: Any, tmp_path: Path
) -> None:
    number = job_of(slurm(*SUBMIT, "--export=EXTRA=a b", script(SAY_PLACE), PET_ENGINE="slurm"))
    wait_until(lambda: not state_of(start_now), "the end of the job")
    (path,) = (tmp_path / "runs").glob("*.sh")
    assert number.isdecimal()
    assert (tmp_path / "runs" / f"{path.stem}-{number}.out").exists()
    assert said() == ALL_PLACES
    for file in tmp_path.glob("said_*"):
        file.unlink()
    assert slurm("sbatch", str(path), PET_ENGINE="slurm").code == 0
    wait_until(lambda: not state_of(start_now), "its end")
    assert said() == ALL_PLACES
    folders = [each.name for each in run_dirs(tmp_path) if each.is_dir()]
    assert folders == [path.stem, f"{path.stem}.2"]


@pytest.mark.parametrize(("text", "code"), [(SAY_PLACE, 0), (FAIL, 7)], ids=["ok", "failure"])
def test_who_waits_for_a_job_sees_its_output_and_gets_its_code(
    slurm: Any, script: Any, text: str, code: int
) -> None:
    done = slurm(*SUBMIT, "--wait", script(text + "\nprint('the end')\n"))
    assert done.code == code, done.err
    assert done.out.count("the end") == (4 if code == 0 else 0)
    assert done.out.count("FAILED: rank 3 (pid ") == (1 if code else 0)
    assert ("has ended: FAILED" in done.err) == bool(code)


def test_ctrl_c_while_waiting_for_a_job_cancels_it_and_shows_how_it_ends(
    terminal: Any, script: Any, tmp_path: Path
) -> None:
    shown = terminal(*SUBMIT[len(LAUNCHER) :], "--wait", script(SAVE), "0.5")
    wait_until(lambda: count(tmp_path, "ready_*") == 4, "four ranks")
    shown.type(b"\x03")
    assert shown.finish() == 130
    assert b"cancelling job" in shown.seen
    assert count(tmp_path, "saved_*") == 4, shown.seen


def test_a_requeued_job_goes_on_in_its_folder(
    slurm: Any, start_now: Any, script: Any, tmp_path: Path
) -> None:
    number = job_of(
        slurm(*SUBMIT[:-2], f"--engine-args={WHERE} --requeue", "--submit", script(SAVE), "0")
    )
    wait_until(lambda: count(tmp_path, "ready_*_0") == 4, "four ranks")
    assert start_now("scontrol", "requeue", number).finish().code == 0
    restart(number, lambda *argv: start_now(*argv).finish())
    wait_until(lambda: count(tmp_path, "ready_*_1") == 4, "four ranks again", 40.0)
    start_now("scancel", number).finish()
    (folder,) = filter(Path.is_dir, run_dirs(tmp_path))
    assert count(folder, "logs/rank_0*.out") == 4
    assert count(folder, "before_requeue_1/logs/rank_0*.out") == 4
    (output,) = (tmp_path / "runs").glob("*.out")
    assert output.read_text().count("received SIGTERM") >= 1, "the old output was overwritten"


@pytest.mark.parametrize(
    ("args", "words", "hint"),
    [
        (("--partition=none",), "Invalid partition name specified", "sinfo --summarize"),
        (("--submit", "--partition=none"), "Invalid partition name", "sinfo --summarize"),
        (("--submit", "--time=never"), "Invalid --time specification", "--dry-run"),
    ],
    ids=["partition", "partition, sbatch", "time, sbatch"],
)
def test_what_slurm_refuses_is_told_in_its_words_with_what_to_type(
    slurm: Any, script: Any, args: tuple[str, ...], words: str, hint: str, tmp_path: Path
) -> None:
    done = slurm(*ENGINE, *args, script(SAY_PLACE))
    assert done.code == 2
    error = done.err.partition("launcher: error: ")[2]
    assert words in error and hint in error
    assert count(tmp_path, "runs/*") == 0


def test_more_nodes_than_an_allocation_has_are_refused(slurm: Any, script: Any) -> None:
    done = slurm("salloc", "-N1", *ENGINE, "--nnodes", "3", script(SAY_PLACE))
    assert done.code == 2
    assert "--nnodes 3: the allocation " in done.err
    assert "has 1 node (SLURM_JOB_NUM_NODES=1)" in done.err


def test_tasks_of_srun_do_not_start_launchers_by_srun(slurm: Any, script: Any) -> None:
    done = slurm("srun", "-N1", "-n2", *ENGINE, script(SAY_PLACE))
    assert done.code == 2
    assert done.err.count("2 of them have been started already (SLURM_STEP_NUM_TASKS=2)") == 1


def test_a_machine_without_slurm_is_told_so(run_command: Any, script: Any) -> None:
    for more in ((), ("--submit",)):
        done = run_command(
            [*ENGINE, *more, script(SAY_PLACE)], env={"PATH": os.path.dirname(sys.executable)}
        )
        assert done.code == 1
        program = "sbatch" if more else "srun"
        assert f"{program} is not on the PATH: this machine has no Slurm." in done.err
