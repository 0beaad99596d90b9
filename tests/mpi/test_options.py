"""The launcher's own options under mpirun: what they do on the command line, they do there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines import needs_mpi4py, needs_mpirun

pytestmark = needs_mpirun


def test_a_dry_run_is_printed_once_and_runs_nothing(mpirun: Any, tmp_path: Path) -> None:
    done = mpirun(3, "print('never')\n", "--dry-run", args=["--rank", "$RANK"])
    assert (done.code, done.err) == (0, "")
    assert done.out.count("3 workers on 1 node") == 1
    for rank in range(3):
        assert done.out.count(f"\nrank {rank}:\n  command: python script.py --rank {rank}\n") == 1
    assert "never" not in done.out
    assert not (tmp_path / "runs").exists()


def test_help_is_printed_once(start_ranks: Any) -> None:
    done = start_ranks(4, "print('never')\n", "--help").finish()
    assert (done.code, done.err) == (0, "")
    assert done.out.count("usage: python -m launcher") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--nosuch"], "launcher: error: --nosuch: there is no such option."),
        (["--max-restarts", "many"], "launcher: error: --max-restarts many: "),
    ],
)
def test_a_mistake_is_said_once(start_ranks: Any, options: list[str], words: str) -> None:
    done = start_ranks(4, "print('never')\n", *options).finish()
    assert done.code == 2
    assert done.err.count("launcher: ") == 1, done.err
    assert done.err.startswith(words), done.err
    assert "never" not in done.out


def test_a_script_that_is_not_there_is_said_once(mpirun: Any) -> None:
    done = mpirun(4, "", args=["missing.py"])
    assert done.code == 2
    assert done.err.count("launcher: ") == 1, done.err
    assert "missing.py" in done.err.partition("---")[0]


def test_nproc_per_node_as_well_is_refused_once_with_both_commands_to_type(mpirun: Any) -> None:
    done = mpirun(2, "print('never')\n", "--nproc-per-node", "2")
    assert done.code == 2
    words = "mpirun has started 2 processes on this node (OMPI_COMM_WORLD_LOCAL_SIZE=2)"
    assert done.err.count(words) == 1
    assert "mpirun -n 2 python -m launcher script.py" in done.err
    assert "mpirun --map-by ppr:1:node python -m launcher --nproc-per-node 2 script.py" in done.err
    assert "never" not in done.out


SAY_HOW = """
import os, sys
parent = open(f"/proc/{os.getppid()}/cmdline").read()
with open("said_" + os.environ["RANK"], "w") as file:
    file.write(f"{__name__} {'forkserver' in parent} {sys.argv[1:]}")
"""


def test_spawn_starts_an_interpreter_for_each_rank(mpirun: Any, said: Any) -> None:
    done = mpirun(3, SAY_HOW, "--start", "spawn", args=["$RANK"])
    assert (done.code, done.err) == (0, "")
    assert said() == [f"__main__ False ['{rank}']" for rank in range(3)]


def test_a_failure_of_ranks_with_an_interpreter_each_is_all_that_is_said(mpirun: Any) -> None:
    done = mpirun(2, "import os\nassert os.environ['RANK'] == '0'\n", "--start", "spawn")
    assert done.code == 1
    # Behind the report come mpirun's words, and nothing of the launcher's own.
    assert done.err.count("FAILED: rank 1 (pid ") == 1, done.err
    assert done.err.count("Traceback") == 2, done.err


def test_a_module_and_a_command_of_no_python(mpirun: Any, said: Any, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "part.py").write_text(SAY_HOW)
    module = mpirun(2, "", "-m", "package.part", args=["a"])
    assert (module.code, module.err) == (0, "")
    assert said() == ["__main__ True ['a']"] * 2
    text = "echo $0 of $WORLD_SIZE; touch here_$0; until [ -e here_0 ]; do :; done; exit $0"
    words = ["sh", "-c", text, "$RANK"]
    command = mpirun(2, "", "--no-python", args=words, flags=["--tag-output"])
    assert command.code == 1
    lines = sorted(command.out.splitlines())
    assert lines == [f"[1,{rank}]<stdout>:{rank} of 2" for rank in range(2)]
    assert ": exit code 1" in command.err.partition("FAILED: rank 1 (pid ")[2]


def test_ranks_without_mpi_are_started_again(mpirun: Any, said: Any, tmp_path: Path) -> None:
    text = (
        "import os, sys\n"
        "attempt = os.environ['TORCHELASTIC_RESTART_COUNT']\n"
        "if (attempt, os.environ['RANK']) == ('0', '1'): sys.exit(3)\n"
        "print('attempt', attempt, flush=True)\n"
        "with open('said_' + os.environ['RANK'], 'w') as file: file.write(attempt)\n"
    )
    done = mpirun(2, text, "--max-restarts", "1", "--restart-backoff", "0")
    assert done.code == 0, done.err
    assert said() == ["1", "1"]
    assert "starting all ranks again" in done.err
    assert "FAILED" not in done.err
    # The second attempt leaves by the same processes.
    assert done.out.count("attempt 1\n") == 2


@needs_mpi4py
@pytest.mark.parametrize("who", ["MPI.COMM_WORLD.rank == 1", "all at once"])
def test_ranks_that_use_mpi_are_not_started_again_and_the_report_says_why(
    start_ranks: Any, who: str
) -> None:
    text = (
        "from mpi4py import MPI\n"
        "MPI.COMM_WORLD.Barrier()\n"
        f"if {who.replace('all at once', 'True')}: raise SystemExit(3)\n"
        "MPI.COMM_WORLD.Barrier()\n"
    )
    done = start_ranks(2, text, "--max-restarts", "2").finish()
    assert done.code == 3
    assert done.err.count("FAILED: rank") == 1, done.err
    assert "not restarted: the ranks use MPI, which their engine lets them initialise" in done.err


def test_a_hang_is_noticed_and_the_odd_rank_named(mpirun: Any) -> None:
    text = (
        "import os, threading\n"
        "def odd(): threading.Event().wait()\n"
        "def waits(): threading.Event().wait()\n"
        "odd() if os.environ['RANK'] == '1' else waits()\n"
    )
    done = mpirun(3, text, "--hang-timeout", "1")
    assert done.code == 124
    assert done.err.count("FAILED:") == 1, done.err
    assert "nothing has moved for 1 s" in done.err.partition("FAILED: rank 1 (pid ")[2]
    assert " in odd\n" in done.err


def test_ctl_finds_the_run_shows_its_ranks_and_stops_it(
    start_mpirun: Any, run_command: Any, find_families: Any, suite_mark: str
) -> None:
    def ctl(*args: str) -> Any:
        return run_command([sys.executable, "-m", "launcher.ctl", *args])

    name = f"one-{suite_mark}"
    job = start_mpirun(2, "import signal\nwhile True: signal.pause()\n", "--rdzv-id", name)
    (family,) = find_families(2)
    (line,) = [line for line in ctl("ps").out.splitlines() if line.startswith(name)]
    assert f"pid {family.supervisor}  2/2 ranks running  " in line
    assert "ranks 0-1: each is at script.py:2" in ctl("stacks", name).out
    assert ctl("stop", name).code == 0
    done = job.finish()
    assert done.code == 143
    assert "FAILED" not in done.err
