"""Slurm with a slurmd on each of several hosts, which have names and GPUs of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_dirs, wait_until
from tests.lab.lab import Lab
from tests.slurm.conftest import LAUNCHER, restart

pytestmark = pytest.mark.slow

PER_NODE = ("srun", "-N3", "--ntasks-per-node=1")


@pytest.fixture
def cluster(lab: Lab) -> dict[str, str]:
    """The variables for commands on hosts of a running Slurm."""
    return {"SLURM_CONF": str(lab.start_slurm())}


SAY_GPUS = """
import json, os, socket
rank, gpus = os.environ["LOCAL_RANK"], os.environ["CUDA_VISIBLE_DEVICES"]
with open('said_' + os.environ['RANK'], 'w') as file:
    json.dump([socket.gethostname(), rank, gpus], file)
"""


def test_each_node_has_a_worker_for_each_gpu_that_it_may_use(
    lab: Lab, cluster: dict[str, str], script: Any, said: Callable[[], list[str]]
) -> None:
    launch = f"exec {' '.join(LAUNCHER)} --nproc-per-node gpu {script(SAY_GPUS)}"
    fewer = "test $SLURM_PROCID = 1 && export CUDA_VISIBLE_DEVICES=1; "
    done = lab["h1"].run(*PER_NODE, "--gres=gpu:2", "sh", "-c", fewer + launch, env=cluster)
    assert done.code == 0, done.err
    assert [json.loads(text) for text in said()] == [
        ["h1", "0", "0,1"],
        ["h1", "1", "0,1"],
        ["h2", "0", "1"],
        ["h3", "0", "0,1"],
        ["h3", "1", "0,1"],
    ]


WAIT = """
import os, signal, sys
count = os.environ["TORCHELASTIC_RESTART_COUNT"]
open(f"ready_{os.environ['RANK']}_{count}", "w").close()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while not os.path.exists(f"end_{count}"): signal.sigtimedwait([], 0.05)
"""


def test_an_elastic_run_goes_on_without_a_node_that_has_failed(
    lab: Lab, cluster: dict[str, str], script: Any, tmp_path: Path
) -> None:
    elastic = ("--nnodes", "2:3", "--nproc-per-node", "2", "--max-restarts", "1")
    running = lab["h1"].start(*LAUNCHER, "--engine", "slurm", *elastic, script(WAIT), env=cluster)
    wait_until(lambda: len(list(tmp_path.glob("ready_*_0"))) == 6, "six ranks")
    lab["h3"].kill()
    wait_until(lambda: len(list(tmp_path.glob("ready_*_1"))) == 4, "four ranks again")
    # Slurm would take its time to notice.
    lost = ("scontrol", "update", "NodeName=h3", "State=DOWN", "Reason=test")
    assert lab["h1"].run(*lost, env=cluster).code == 0
    (tmp_path / "end_1").touch()
    done = running.finish(60.0)
    assert done.code == 0, done.err
    assert "node 2 (h3) was lost" in done.err


def test_a_job_that_is_preempted_goes_on_afterwards_in_its_folder(
    lab: Lab, cluster: dict[str, str], script: Any, tmp_path: Path
) -> None:
    def slurm(*argv: str) -> str:
        done = lab["h1"].run(*argv, env=cluster)
        assert done.code == 0, done.err
        return str(done.out.strip())

    options = ("--nnodes", "3", "--nproc-per-node", "2", "--engine-args=--requeue")
    number = slurm(*LAUNCHER, "--engine", "slurm", "--submit", *options, script(WAIT))
    wait_until(lambda: len(list(tmp_path.glob("ready_*_0"))) == 6, "six ranks")
    slurm("srun", "--partition=high", "-N3", "--exclusive", "true")
    restart(number, lambda *argv: lab["h1"].run(*argv, env=cluster))
    wait_until(lambda: len(list(tmp_path.glob("ready_*_1"))) == 6, "six ranks again")
    (tmp_path / "end_1").touch()
    wait_until(lambda: not slurm("squeue", "--noheader"), "the end of the job")
    (folder,) = filter(Path.is_dir, run_dirs(tmp_path))
    assert (folder / "before_requeue_1" / "logs" / "rank_05.out").exists()
