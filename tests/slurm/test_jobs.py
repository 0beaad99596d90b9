"""Runs of the run layer on a real Slurm: handed over, waited for, stopped, and lost."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.jobs import (
    ComputeTarget,
    ComputeTargetException,
    PyTorchConfiguration,
    Run,
    SlurmCompute,
    Workspace,
)
from launcher.jobs import slurm as slurm_of_jobs
from tests.conftest import wait_until
from tests.jobs import conftest as jobs
from tests.jobs.conftest import Submit, agent_pid, wait_for_text
from tests.slurm.conftest import restart

# Fixtures of the run layer's own tests.
workspace, experiment, submit = jobs.workspace, jobs.experiment, jobs.submit

pytestmark = pytest.mark.slow

_WAIT = "import os, signal\nprint('rank', os.getpid(), flush=True)\nsignal.pause()\n"


@pytest.fixture
def cluster(
    slurm_conf: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ComputeTarget]:
    """The cluster of these tests as a target; no job is left in it."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_conf))
    monkeypatch.setenv("PATH", os.environ["PATH"] + ":/usr/sbin")
    monkeypatch.setattr(slurm_of_jobs, "_FRESH_S", 0.1)
    config = SlurmCompute.attach_configuration(
        partition="test", extra=["--nodelist=127.0.0.[1-2]", "--time=5"]
    )
    yield ComputeTarget.attach(workspace, "cluster", config)
    subprocess.run(["scancel", "--user", "root"], check=False)


def test_a_run_goes_through_slurm(submit: Submit, cluster: ComputeTarget) -> None:
    two_nodes = PyTorchConfiguration("Gloo", process_count=2, node_count=2)
    text = (
        "import os\n"
        "from launcher.jobs import Run\n"
        "run = Run.get_context()\n"
        "run.log('rank', int(os.environ['RANK']))\n"
        "names = ('RANK', 'WORLD_SIZE', 'NODE_RANK')\n"
        "print(*(os.environ[name] for name in names))\n"
    )
    run = submit(text, compute_target=cluster, distributed_job_config=two_nodes)
    details = run.wait_for_completion()
    assert details["status"] == "Completed" and details["target"] == "cluster"
    run.download_file("azureml-logs/70_driver_log_1.txt", "log.txt")
    assert Path("log.txt").read_text() == "1 2 1\n"
    assert run.get_metrics(ranks="all") == {"0": {"rank": 0}, "1": {"rank": 1}}


def test_a_failure_on_the_cluster_names_rank_and_cause(
    submit: Submit, cluster: ComputeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster._settings["extra"] = ["--nodelist=127.0.0.1", "--time=5"]
    cluster.update()
    two_ranks = PyTorchConfiguration(process_count=2)
    text = "import os\nif os.environ['RANK'] == '1': raise ValueError('image 17 is empty')\n"
    run = submit(text, compute_target=cluster, distributed_job_config=two_ranks)
    details = run.wait_for_completion(raise_on_error=False)
    assert details["statusReason"] == "rank 1: ValueError: image 17 is empty"


def waiting(submit: Submit, cluster: ComputeTarget) -> Run:
    run = submit(_WAIT, compute_target=cluster)
    wait_for_text(run, "rank")
    return run


def one_node(cluster: ComputeTarget) -> ComputeTarget:
    """Let each job take the first node, as a whole."""
    cluster._settings["extra"] = ["--nodelist=127.0.0.1", "--time=5", "--exclusive"]
    cluster.update()
    return cluster


def test_a_run_is_queued_canceled_and_lost(submit: Submit, cluster: ComputeTarget) -> None:
    first = waiting(submit, one_node(cluster))
    second = submit(_WAIT, compute_target=cluster)
    wait_until(lambda: second.get_status() == "Queued", "the second waits")
    assert second.get_details()["statusReason"].startswith("Slurm: ")
    second.cancel()
    assert second.wait_for_completion()["status"] == "Canceled"
    first.cancel()
    details = first.wait_for_completion()
    assert details["status"] == "Canceled" and details["statusReason"].startswith("canceled by ")
    third = waiting(submit, cluster)
    job = slurm_of_jobs.read_json(slurm_of_jobs.job_path(third._folder))["job"]
    os.kill(agent_pid(third), signal.SIGKILL)
    wait_until(lambda: third.get_status() in ("Failed", "Canceled"), "it is found")
    assert third.get_details()["statusReason"] == f"Slurm's job {job} ended in FAILED"


def test_what_sbatch_refuses_leaves_no_run(submit: Submit, cluster: ComputeTarget) -> None:
    cluster._settings["partition"] = "nowhere"
    cluster.update()
    with pytest.raises(ComputeTargetException, match="sbatch refused the run"):
        submit("pass", compute_target=cluster)
    assert cluster.workspace._store.run_ids() == []


def test_a_requeued_run_is_the_same_run(submit: Submit, cluster: ComputeTarget, slurm: Any) -> None:
    text = (
        "import os, signal\n"
        "time = len(os.listdir('outputs'))\n"
        "open(f'outputs/{time}', 'x').close()\n"
        "print('time', time, flush=True)\n"
        "if not time: signal.pause()\n"
    )
    run = submit(text, compute_target=one_node(cluster))
    wait_for_text(run, "time 0")
    job = slurm_of_jobs.read_json(slurm_of_jobs.job_path(run._folder))["job"]
    assert slurm("scontrol", "requeue", job).code == 0
    seen = set()
    wait_until(lambda: seen.add(run.get_status()) or "Queued" in seen, "queued again")
    restart(job, slurm)
    details = run.wait_for_completion()
    assert details["status"] == "Completed" and not seen & {"Canceled", "Failed"}, seen
    wait_for_text(run, "time 1")


def test_a_run_whose_job_somebody_canceled(
    submit: Submit, cluster: ComputeTarget, slurm: Any
) -> None:
    run = waiting(submit, one_node(cluster))
    job = slurm_of_jobs.read_json(slurm_of_jobs.job_path(run._folder))["job"]
    assert slurm("scancel", job).code == 0
    details = run.wait_for_completion()
    assert details["statusReason"] == f"Slurm's job {job} was canceled"
    assert details["status"] == "Canceled"
