"""Under a real Slurm: one launcher on each node of a step, which find each other by themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.engines import needs_torch
from tests.slurm.conftest import LAUNCHER, NODES, TWO_NODES

pytestmark = pytest.mark.slow

PER_NODE = ("srun", *TWO_NODES, "--ntasks-per-node=1")

NAMES = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_WORLD_SIZE", "WORLD_SIZE")
SAY_PLACE = f"""
import json, os
with open('said_' + os.environ['RANK'], 'w') as file:
    json.dump([os.getppid(), *(os.environ[name] for name in {NAMES})], file)
"""


@pytest.fixture
def said(said: Callable[[], list[str]]) -> Callable[[], list[Any]]:
    """As elsewhere, read as JSON."""
    return lambda: [json.loads(text) for text in said()]


def places(*nodes: int) -> list[list[str]]:
    """Return what ranks say, given how many are on each node."""
    world = [str(len(nodes)), str(sum(nodes))]
    return [
        [str(local_rank), str(count), str(node), *world]
        for node, count in enumerate(nodes)
        for local_rank in range(count)
    ]


def test_a_task_on_each_node_is_its_launcher_without_any_other_flag(
    slurm: Any, script: Any, said: Any, only_run_dir: Any
) -> None:
    done = slurm(*PER_NODE, *LAUNCHER, "--nproc-per-node", "2", script(SAY_PLACE))
    assert done.code == 0, done.err
    assert [place[1:] for place in said()] == places(2, 2)
    assert said()[0][0] == said()[1][0] != said()[2][0]  # a fork server for each
    # Nobody is told so by each of many nodes.
    assert done.err.count("have no secret") == 1
    folder = only_run_dir()
    assert f"{folder.name} 0\n" == (folder / "slurm_job").read_text()
    assert len(list((folder / "logs").glob("rank_*.out"))) == 4


def test_nodes_may_have_different_numbers_of_workers(slurm: Any, script: Any, said: Any) -> None:
    command = f"{' '.join(LAUNCHER)} --nproc-per-node $((3 - SLURM_PROCID)) {script(SAY_PLACE)}"
    done = slurm(*PER_NODE, "sh", "-c", command)
    assert done.code == 0, done.err
    assert [place[1:] for place in said()] == places(3, 2)


def test_steps_of_one_job_at_the_same_time_are_runs_of_their_own(
    slurm: Any, script: Any, tmp_path: Path
) -> None:
    text = """
import os, sys, time
folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
open(f"{folder}/{os.environ['RANK']}", "w").close()
while len(os.listdir("a")) + len(os.listdir("b")) < 8: time.sleep(0.01)
print(os.environ["TORCHELASTIC_RUN_ID"], os.environ["WORLD_SIZE"])
"""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    step = f"{' '.join(PER_NODE)} --overlap {' '.join(LAUNCHER)} --nproc-per-node 2 {script(text)}"
    both = f"{step} a & first=$!; {step} b && wait $first"
    done = slurm("salloc", "-w", ",".join(NODES[:2]), "bash", "-c", both)
    assert done.code == 0, done.err
    words = [line.split()[1:] for line in done.lines]
    assert {size for _, size in words} == {"4"}
    assert sorted(run.partition(".")[2] for run, _ in words) == ["0"] * 4 + ["1"] * 4


def test_a_step_on_some_nodes_of_a_job_counts_these(slurm: Any, script: Any, said: Any) -> None:
    step = ("srun", "-N2", "-w", ",".join((NODES[1], NODES[2])), "--ntasks-per-node=1")
    command = (*step, *LAUNCHER, "--nproc-per-node", "2", script(SAY_PLACE))
    done = slurm("salloc", "-w", ",".join(NODES[:3]), *command)
    assert done.code == 0, done.err
    assert [place[1:] for place in said()] == places(2, 2)


FAIL = "import os, signal, sys\nif os.environ['RANK'] == '3': sys.exit(7)\nsignal.pause()\n"


def test_a_failing_rank_ends_all_nodes_with_its_code_and_one_report(
    slurm: Any, script: Any
) -> None:
    done = slurm(*PER_NODE, *LAUNCHER, "--nproc-per-node", "2", script(FAIL))
    assert done.code == 7, done.err
    assert done.err.count("FAILED: rank 3 (pid ") == 1
    assert "the report is shown on" not in done.err  # all write to one terminal
    assert done.err.count("Exited with exit code 7") == 2


REDUCE = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor(float(dist.get_rank() + 1))
dist.all_reduce(total)
open(f"said_{dist.get_rank()}", "w").write(str(total.item()))
dist.destroy_process_group()
"""


@needs_torch
def test_ranks_of_several_launchers_reduce_together(slurm: Any, script: Any, said: Any) -> None:
    command = (*LAUNCHER, "--nproc-per-node", "2", script(REDUCE))
    done = slurm(*PER_NODE, *command, CUDA_VISIBLE_DEVICES="")
    assert done.code == 0, done.err
    assert said() == [10.0] * 4


SAVE = """
import os, signal, sys, time
rank = os.environ["RANK"]
def save(signum, frame):
    with open(f"got_{rank}", "a") as file: print(signal.Signals(signum).name, file=file)
    time.sleep(0.5)
    open(f"saved_{rank}", "w").close()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGUSR1, lambda *_: open(f"warned_{rank}", "a").write("once"))
open(f"ready_{rank}", "w").close()
while True: signal.pause()
"""


def test_what_slurm_sends_to_all_launchers_comes_to_each_rank_once_and_leaves_time_to_save(
    slurm: Any, start_slurm: Any, script: Any, tmp_path: Path
) -> None:
    running = start_slurm(*PER_NODE, "-J", "save", *LAUNCHER, "--nproc-per-node=2", script(SAVE))
    wait_until(lambda: len(list(tmp_path.glob("ready_*"))) == 4, "four ranks")
    slurm("scancel", "--signal=USR1", "--name=save")
    wait_until(lambda: len(list(tmp_path.glob("warned_*"))) == 4, "the warning")
    # Twice within milliseconds: so Slurm does at a time limit.
    slurm("sh", "-c", "scancel --signal=TERM --name=save & scancel --signal=TERM --name=save; wait")
    done = running.finish()
    assert done.code == 0, done.err
    assert [path.read_text() for path in tmp_path.glob("warned_*")] == ["once"] * 4
    assert [path.read_text() for path in tmp_path.glob("got_*")] == ["SIGTERM\n"] * 4
    assert len(list(tmp_path.glob("saved_*"))) == 4, running.err


def test_nodes_whose_names_lead_nowhere_say_so_at_once(slurm: Any, script: Any, said: Any) -> None:
    step = ("srun", "-N2", "-w", ",".join(NODES[2:]), "--ntasks-per-node=1")
    command = (*step, *LAUNCHER, "--nproc-per-node", "2", script(SAY_PLACE))
    done = slurm(*command)
    assert done.code == 3
    assert "All are to meet at nowhere1.invalid, the first node of this job step" in done.err
    assert "MASTER_ADDR=ADDRESS srun" in done.err
    done = slurm(*command, MASTER_ADDR="127.0.0.1")
    assert done.code == 0, done.err
    assert [place[1:] for place in said()] == places(2, 2)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--nnodes=3",),
            "--nnodes 3 does not go with the 2 nodes that srun gives (SLURM_STEP_NODELIST)",
        ),
        (("--node-rank=1", "--nnodes=2"), "--node-rank 1 does not go with SLURM_STEP_NODELIST=0"),
    ],
)
def test_flags_that_contradict_slurm_are_refused_with_both_values(
    slurm: Any, script: Any, flags: tuple[str, ...], words: str
) -> None:
    command = (*LAUNCHER, "--nproc-per-node=2", *flags, "--rdzv-conf=join_timeout=2")
    done = slurm(*PER_NODE, *command, script(SAY_PLACE))
    assert done.code in (2, 3)
    assert words in done.err
    assert "Traceback" not in done.err


def test_a_launcher_below_a_rank_is_a_run_of_its_own(slurm: Any, script: Any, said: Any) -> None:
    inner = script(SAY_PLACE, "inner.py")
    text = f"""
import os, subprocess, sys
if os.environ["RANK"] == "1":
    subprocess.run([*{LAUNCHER!r}, "--nproc-per-node", "2", {inner!r}], check=True)
"""
    done = slurm(*PER_NODE, *LAUNCHER, "--nproc-per-node", "2", script(text))
    assert done.code == 0, done.err
    assert [place[1:] for place in said()] == places(2)


def test_a_dry_run_on_each_node_shows_its_ranks(slurm: Any, script: Any, tmp_path: Path) -> None:
    done = slurm(*PER_NODE, *LAUNCHER, "--nproc-per-node", "2", "--dry-run", script("print(1)"))
    assert (done.code, done.err) == (0, "")
    ranks = sorted(line for line in done.out.splitlines() if line.startswith("rank "))
    assert ranks == [f"rank {rank}:" for rank in range(4)]
    assert not (tmp_path / "runs").exists()
