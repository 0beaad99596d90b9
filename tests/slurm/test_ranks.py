"""Under a real Slurm: who is a rank, who is a launcher, and what cannot be."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.engines import needs_mpirun

pytestmark = pytest.mark.slow

LAUNCHER = (sys.executable, "-m", "launcher")
ONE_NODE = ("srun", "-N1", "-w", "127.0.0.1")
TWO_NODES = ("srun", "-N2", "-w", "127.0.0.[1-2]")

NAMES = (
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "GROUP_WORLD_SIZE",
    "WORLD_SIZE",
    "MASTER_ADDR",
)
SAY_PLACE = f"""
import json, os
parent = open(f'/proc/{{os.getppid()}}/comm').read().strip()
with open('said_' + os.environ['RANK'], 'w') as file:
    json.dump([parent, *(os.environ[name] for name in {NAMES})], file)
"""


@pytest.fixture
def said(said: Callable[[], list[str]]) -> Callable[[], list[Any]]:
    """As elsewhere, read as JSON."""
    return lambda: [json.loads(text) for text in said()]


def test_each_task_of_srun_is_a_rank_and_no_child_is_started(
    slurm: Any, script: Any, said: Any
) -> None:
    done = slurm(*ONE_NODE, "-n", "4", *LAUNCHER, script(SAY_PLACE))
    assert (done.code, done.err) == (0, "")
    assert said() == [
        ["slurmstepd", str(rank), "4", "0", "1", "4", "127.0.0.1"] for rank in range(4)
    ]


def test_two_nodes_with_different_numbers_of_tasks_make_one_world(
    slurm: Any, script: Any, said: Any
) -> None:
    done = slurm(*TWO_NODES, "-n", "4", *LAUNCHER, script(SAY_PLACE))
    assert (done.code, done.err) == (0, "")
    layout = [("0", "3", "0"), ("1", "3", "0"), ("2", "3", "0"), ("0", "1", "1")]
    assert said() == [["slurmstepd", *place, "2", "4", "127.0.0.1"] for place in layout]


PLAIN_TORCH = """
import json, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor(float(dist.get_rank() + 1))
dist.all_reduce(total)
with open(f"said_{dist.get_rank()}", "w") as file:
    json.dump(total.item(), file)
dist.destroy_process_group()
"""
HELPERS = """
import json, launcher
ctx = launcher.init(backend="gloo")
with open(f"said_{ctx.rank}", "w") as file:
    json.dump(ctx.all_reduce(ctx.rank + 1.0, "sum"), file)
"""


@pytest.mark.parametrize(
    ("nodes", "text"),
    [(ONE_NODE, PLAIN_TORCH), (TWO_NODES, HELPERS)],
    ids=["plain torch, one node", "launcher.init, two nodes"],
)
def test_ranks_of_srun_reduce_together(
    slurm: Any, script: Any, said: Any, nodes: tuple[str, ...], text: str
) -> None:
    done = slurm(*nodes, "-n", "2", *LAUNCHER, script(text), CUDA_VISIBLE_DEVICES="")
    assert done.code == 0, done.err
    assert said() == [3.0, 3.0]


def test_nodes_that_do_not_know_each_others_names_are_told_at_once_to_set_an_address(
    slurm: Any, script: Any, said: Any
) -> None:
    command = (
        "srun",
        "-N2",
        "-w",
        "nowhere1.invalid,nowhere2.invalid",
        "-n",
        "2",
        *LAUNCHER,
        script(SAY_PLACE),
    )
    done = slurm(*command)
    assert done.code == 3
    assert "meet at nowhere1.invalid" in done.err
    assert "MASTER_ADDR=ADDRESS srun" in done.err
    assert "Traceback" not in done.err
    done = slurm(*command, MASTER_ADDR="127.0.0.1")
    assert done.code == 0, done.err
    assert [place[-1] for place in said()] == ["127.0.0.1"] * 2


def test_a_dry_run_shows_each_rank_and_runs_nothing(slurm: Any, script: Any) -> None:
    done = slurm(*TWO_NODES, "-n", "2", *LAUNCHER, "--dry-run", script("print('never')\n"))
    assert (done.code, done.err) == (0, "")
    for rank in range(2):
        assert f"rank {rank} of 2, in the process that slurm has started:" in done.out
        assert f"  NODE_RANK={rank}   (SLURM_STEP_NODELIST)" in done.out
    assert done.out.count("  MASTER_ADDR=127.0.0.1\n") == 2
    assert "never" not in done.out


def test_the_code_of_a_rank_that_fails_is_the_code_of_srun(slurm: Any, script: Any) -> None:
    done = slurm(
        *ONE_NODE,
        "-n",
        "2",
        *LAUNCHER,
        script("import os, sys\nsys.exit(3 * int(os.environ['RANK']))\n"),
    )
    assert done.code == 3


def test_an_exception_shows_the_frames_of_the_script_only(slurm: Any, script: Any) -> None:
    text = "import os\nif os.environ['RANK'] == '1':\n    raise ValueError('only here')\n"
    done = slurm(*ONE_NODE, "-n", "2", *LAUNCHER, script(text))
    assert done.code == 1
    assert done.err.count("ValueError: only here") == 1
    assert "launcher/" not in done.err.partition("srun: error")[0]


SAY_SUPERVISED = "import os\nprint(os.environ['RANK'], os.environ['WORLD_SIZE'])\n"


def test_a_batch_script_that_is_no_rank_supervises(slurm: Any, script: Any, tmp_path: Path) -> None:
    name = script(SAY_SUPERVISED)
    (tmp_path / "job.sh").write_text(
        f"#!/bin/sh\necho procid $SLURM_PROCID\n{' '.join(LAUNCHER)} --nproc-per-node 2"
        f" {name}\necho code $?\nmv out done\n"
    )
    done = slurm("sbatch", "-n4", "-N1", "-w", "127.0.0.1", "--output=out", "job.sh")
    assert done.code == 0, done.err
    wait_until((tmp_path / "done").exists, "the end of the job")
    assert sorted((tmp_path / "done").read_text().splitlines()) == [
        "[0] 0 2",
        "[1] 1 2",
        "code 0",
        "procid 0",
    ]


def test_one_task_on_the_node_supervises(slurm: Any, script: Any) -> None:
    done = slurm(
        *ONE_NODE, "--ntasks-per-node=1", *LAUNCHER, "--nproc-per-node", "2", script(SAY_SUPERVISED)
    )
    assert (done.code, done.lines) == (0, ["[0] 0 2", "[1] 1 2"]), done.err


def test_several_tasks_that_shall_each_start_workers_are_refused_in_one_voice(
    slurm: Any, script: Any
) -> None:
    done = slurm(*ONE_NODE, "-n", "3", *LAUNCHER, "--nproc-per-node", "2", script(SAY_SUPERVISED))
    assert done.code == 2
    assert done.err.count("launcher: error:") == 1
    assert "srun has started 3 processes on this node (SLURM_STEP_TASKS_PER_NODE=3)" in done.err
    assert "srun --ntasks-per-node=1 python -m launcher --nproc-per-node 2" in done.err
    assert done.out == ""


def test_horovod_without_mpi_is_refused_in_one_voice_with_what_works(
    slurm: Any, script: Any
) -> None:
    done = slurm(
        *ONE_NODE, "-n", "2", *LAUNCHER, script("import horovod.torch as hvd\nhvd.init()\n")
    )
    assert done.code == 2
    assert done.err.count("launcher: error:") == 1
    assert "srun --mpi=pmix -n 2 python -m launcher script.py" in done.err


SAY_MPI = """
import json, launcher
ctx = launcher.init(backend="gloo")
with open(f"said_{ctx.rank}", "w") as file:
    json.dump(ctx.mpi.allgather(ctx.rank), file)
"""


@needs_mpirun
def test_under_srun_with_pmix_the_context_has_the_communicator(
    slurm: Any, script: Any, said: Any
) -> None:
    done = slurm(
        *ONE_NODE, "-n", "2", "--mpi=pmix", *LAUNCHER, script(SAY_MPI), CUDA_VISIBLE_DEVICES=""
    )
    assert done.code == 0, done.err
    assert said() == [[0, 1]] * 2


def test_under_plain_srun_the_communicator_is_an_error_and_not_the_end_of_the_process(
    slurm: Any, script: Any
) -> None:
    done = slurm(*ONE_NODE, "-n", "1", sys.executable, script(SAY_MPI), CUDA_VISIBLE_DEVICES="")
    assert done.code == 1
    assert "srun has started this rank without it" in done.err


def test_srun_with_pmi2_needs_no_mpi_to_bring_the_ranks_together(
    slurm: Any, script: Any, said: Any
) -> None:
    done = slurm(*ONE_NODE, "-n", "2", "--mpi=pmi2", *LAUNCHER, script(SAY_PLACE))
    assert done.code == 0, done.err
    assert [place[1] for place in said()] == ["0", "1"]


@needs_mpirun
def test_mpirun_in_an_allocation_starts_the_ranks(slurm: Any, script: Any, said: Any) -> None:
    done = slurm(
        "salloc",
        "-N1",
        "-w",
        "127.0.0.1",
        "-n2",
        "mpirun",
        "-np",
        "2",
        *LAUNCHER,
        script(SAY_PLACE),
    )
    assert done.code == 0, done.err
    assert said() == [["orted", str(rank), "2", "0", "1", "2", "127.0.0.1"] for rank in range(2)]


SAVES = """
import os, signal, sys, time
def save(signum, frame):
    time.sleep(0.5)  # longer than Slurm needs to kill what is left of a job that has ended
    open(f"said_{os.environ['RANK']}", "w").write("saved")
    os._exit(0)
signal.signal(signal.SIGTERM, save)
open(f"ready_{os.environ['RANK']}", "w")
while True: signal.pause()
"""


@pytest.mark.parametrize("start", ["srun", "exec"])
def test_ranks_have_time_to_save_when_their_job_is_cancelled(
    slurm: Any, script: Any, tmp_path: Path, start: str
) -> None:
    name = script(SAVES)
    options = "--start warm --nproc-per-node 2" if start == "exec" else ""
    (tmp_path / "job.sh").write_text(f"#!/bin/sh\n{start} {' '.join(LAUNCHER)} {options} {name}\n")
    done = slurm("sbatch", "--parsable", "-n2", "-N1", "-w", "127.0.0.1", "--output=out", "job.sh")
    assert done.code == 0, done.err
    wait_until(lambda: len(list(tmp_path.glob("ready_*"))) == 2, "two ranks")
    slurm("scancel", done.out.strip())
    wait_until(lambda: slurm("squeue", "--noheader").out == "", "the end of the job")
    assert len(list(tmp_path.glob("said_*"))) == 2, (tmp_path / "out").read_text()
