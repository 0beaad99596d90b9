"""Under a real Slurm: who is a rank, who is a launcher, and what cannot be."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.engines import needs_horovod, needs_mpirun
from tests.slurm.conftest import LAUNCHER, ONE_NODE, TWO_NODES

pytestmark = pytest.mark.slow

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
with open('said_' + os.environ['RANK'], 'w') as file:
    json.dump([os.getppid(), *(os.environ[name] for name in {NAMES})], file)
"""


@pytest.fixture
def said(said: Callable[[], list[str]]) -> Callable[[], list[Any]]:
    """As elsewhere, read as JSON."""
    return lambda: [json.loads(text) for text in said()]


def test_the_tasks_of_srun_are_ranks_of_one_supervisor(slurm: Any, script: Any, said: Any) -> None:
    done = slurm("srun", *ONE_NODE, "-n", "4", *LAUNCHER, script(SAY_PLACE))
    assert (done.code, done.err) == (0, "")
    places = said()
    assert len({place[0] for place in places}) == 1  # all are children of one fork server
    assert [place[1:] for place in places] == [
        [str(rank), "4", "0", "1", "4", "127.0.0.1"] for rank in range(4)
    ]


def test_two_nodes_with_different_numbers_of_tasks_make_one_world(
    slurm: Any, script: Any, said: Any
) -> None:
    done = slurm("srun", *TWO_NODES, "-n", "4", *LAUNCHER, script(SAY_PLACE))
    assert (done.code, done.err) == (0, "")
    places = said()
    layout = [("0", "3", "0"), ("1", "3", "0"), ("2", "3", "0"), ("0", "1", "1")]
    assert [place[1:] for place in places] == [[*place, "2", "4", "127.0.0.1"] for place in layout]
    # Both nodes are this machine, but each has a supervisor.
    assert places[0][0] == places[1][0] == places[2][0] != places[3][0]


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
    done = slurm("srun", *nodes, "-n", "2", *LAUNCHER, script(text), CUDA_VISIBLE_DEVICES="")
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


def test_a_dry_run_prints_the_plan_of_the_host_once_and_runs_nothing(
    slurm: Any, script: Any
) -> None:
    done = slurm("srun", *ONE_NODE, "-n", "3", *LAUNCHER, "--dry-run", script("print('never')\n"))
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("3 workers on 1 node, started by ")
    assert lines[0].endswith(", for the processes that slurm has started")
    assert [line for line in lines if line.startswith("rank ")] == ["rank 0:", "rank 1:", "rank 2:"]
    assert "never" not in done.out


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
        "srun",
        *ONE_NODE,
        "--ntasks-per-node=1",
        *LAUNCHER,
        "--nproc-per-node",
        "2",
        script(SAY_SUPERVISED),
    )
    assert (done.code, done.lines) == (0, ["[0] 0 2", "[1] 1 2"]), done.err


def test_several_tasks_that_shall_each_start_workers_are_refused_in_one_voice(
    slurm: Any, script: Any
) -> None:
    done = slurm(
        "srun", *ONE_NODE, "-n", "3", *LAUNCHER, "--nproc-per-node", "2", script(SAY_SUPERVISED)
    )
    assert done.code == 2
    assert done.err.count("launcher: error:") == 1
    assert "srun has started 3 processes on this node (SLURM_STEP_TASKS_PER_NODE=3)" in done.err
    assert "srun --ntasks-per-node=1 python -m launcher --nproc-per-node 2" in done.err
    assert done.out == ""


HOROVOD = """
import json, torch, horovod.torch as hvd
hvd.init()
with open(f"said_{hvd.rank()}", "w") as file:
    json.dump(hvd.allreduce(torch.ones(1), op=hvd.Sum).item(), file)
"""


@needs_horovod
def test_ranks_of_horovod_on_one_host_meet_without_mpi(slurm: Any, script: Any, said: Any) -> None:
    command = ("srun", *ONE_NODE, "-n", "2", *LAUNCHER, script(HOROVOD))
    done = slurm(*command, CUDA_VISIBLE_DEVICES="")
    assert done.code == 0, done.err
    assert said() == [2.0, 2.0]


def test_horovod_without_mpi_on_two_hosts_is_refused_by_each_with_what_works(
    slurm: Any, script: Any
) -> None:
    done = slurm("srun", *TWO_NODES, "-n", "4", *LAUNCHER, script(HOROVOD))
    assert done.code == 2
    assert done.err.count("launcher: error:") == 2
    assert "srun --mpi=pmix -n 4 python -m launcher script.py" in done.err


def test_each_rank_has_the_gpu_of_its_task(slurm: Any, script: Any, said: Any) -> None:
    text = """
import json, os
with open('said_' + os.environ['RANK'], 'w') as file:
    json.dump([os.getppid(), os.environ['CUDA_VISIBLE_DEVICES']], file)
"""
    gpus = ("--gpus-per-task=1", "--cpus-per-task=1")
    done = slurm("srun", *ONE_NODE, "-n", "4", *gpus, *LAUNCHER, script(text))
    assert (done.code, done.err) == (0, "")
    assert len({parent for parent, _ in said()}) == 1
    assert [gpu for _, gpu in said()] == ["0", "1", "2", "3"]


def test_tasks_with_limits_of_their_own_are_their_ranks_themselves(
    slurm: Any, script: Any, said: Any, tmp_path: Path, memory_groups: list[Path]
) -> None:
    groups = " ".join(map(str, memory_groups))
    (tmp_path / "enter").write_text(
        f'groups=({groups})\necho $$ >"${{groups[$SLURM_LOCALID]}}/cgroup.procs"\nexec "$@"\n'
    )
    done = slurm("srun", *ONE_NODE, "-n", "2", "bash", "enter", *LAUNCHER, script(SAY_PLACE))
    assert done.code == 0, done.err
    reason = "has a cgroup of its own with a limit (memory."
    assert done.err.count("launcher: ") == 1
    assert "each rank runs in the process that its engine has started: " in done.err
    assert reason in done.err
    assert [place[1] for place in said()] == ["0", "1"]


@pytest.fixture
def memory_groups() -> Iterator[list[Path]]:
    """Two cgroups with a limit of memory."""
    old = Path("/sys/fs/cgroup/memory")
    root, file = (old, "memory.limit_in_bytes") if old.is_dir() else (old.parent, "memory.max")
    groups = [root / f"test-{os.getpid()}-{number}" for number in range(2)]
    try:
        for group in groups:
            group.mkdir()
            (group / file).write_text(str(1 << 30))
    except OSError as error:
        pytest.skip(f"memory cannot be limited here: {error}")
    else:
        yield groups
    finally:
        for group in groups:
            if group.is_dir():
                group.rmdir()


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
        "srun",
        *ONE_NODE,
        "-n",
        "2",
        "--mpi=pmix",
        *LAUNCHER,
        script(SAY_MPI),
        CUDA_VISIBLE_DEVICES="",
    )
    assert done.code == 0, done.err
    assert said() == [[0, 1]] * 2


def test_under_plain_srun_the_communicator_is_an_error_and_not_the_end_of_the_process(
    slurm: Any, script: Any
) -> None:
    done = slurm(
        "srun", *ONE_NODE, "-n", "1", sys.executable, script(SAY_MPI), CUDA_VISIBLE_DEVICES=""
    )
    assert done.code == 1
    assert "srun has started this rank without it" in done.err


def test_srun_with_pmi2_needs_no_mpi_to_bring_the_ranks_together(
    slurm: Any, script: Any, said: Any
) -> None:
    done = slurm("srun", *ONE_NODE, "-n", "2", "--mpi=pmi2", *LAUNCHER, script(SAY_PLACE))
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
    assert [place[1:] for place in said()] == [
        [str(rank), "2", "0", "1", "2", "127.0.0.1"] for rank in range(2)
    ]
