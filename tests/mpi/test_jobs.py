"""Runs of the run layer on a list of hosts, through mpirun."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from launcher.jobs import ComputeTarget, MpiHosts, PyTorchConfiguration, Workspace
from tests.engines import MPI_SETTINGS, needs_mpirun
from tests.jobs import conftest as jobs
from tests.jobs.conftest import Submit
from tests.mpi.test_hosts import AGENT

pytestmark = [needs_mpirun, pytest.mark.slow]

# Fixtures of the run layer's own tests.
workspace, experiment, submit = jobs.workspace, jobs.experiment, jobs.submit


@pytest.fixture
def hosts(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ComputeTarget:
    """Two hosts that exist in name only; mpirun starts their ranks here."""
    pytest.importorskip("mpi4py")
    if subprocess.run(["unshare", "--uts", "true"], check=False).returncode:
        pytest.skip("a process of its own host name needs root")
    for name, value in MPI_SETTINGS.items():
        monkeypatch.setenv(name, value)
    agent = tmp_path / "agent"
    agent.write_text(AGENT)
    agent.chmod(0o755)
    loopback = ("--mca", "oob_tcp_if_include", "lo", "--mca", "btl_tcp_if_include", "lo")
    config = MpiHosts.attach_configuration(
        ["h1", "h2"], extra=["--mca", "plm_rsh_agent", str(agent), *loopback]
    )
    return ComputeTarget.attach(workspace, "hosts", config)


def test_a_run_spreads_over_its_hosts(submit: Submit, hosts: ComputeTarget, tmp_path: Path) -> None:
    text = (
        "import os\n"
        "from launcher.jobs import Run\n"
        "names = ('RANK', 'WORLD_SIZE', 'NODE_RANK')\n"
        "print(os.uname().nodename, *(os.environ[name] for name in names))\n"
        "Run.get_context().log('rank', int(os.environ['RANK']))\n"
    )
    four = PyTorchConfiguration("Gloo", process_count=4, node_count=2)
    run = submit(text, compute_target=hosts, distributed_job_config=four)
    run.wait_for_completion()
    for rank, host in enumerate(("h1", "h1", "h2", "h2")):
        run.download_file(f"azureml-logs/70_driver_log_{rank}.txt", str(tmp_path / "log"))
        # Before rank 0's lines may stand a warning of mpirun's own.
        assert (tmp_path / "log").read_text().endswith(f"{host} {rank} 4 {rank // 2}\n")
    assert run.get_metrics(ranks=3) == {"rank": 3}


def test_a_failure_on_a_host_names_rank_and_cause(submit: Submit, hosts: ComputeTarget) -> None:
    text = "import os\nif os.environ['RANK'] == '1': raise ValueError('image 17 is empty')\n"
    two = PyTorchConfiguration("Gloo", process_count=2, node_count=2)
    run = submit(text, compute_target=hosts, distributed_job_config=two)
    details = run.wait_for_completion(raise_on_error=False)
    assert details["statusReason"] == "rank 1: ValueError: image 17 is empty", json.dumps(details)
