"""Runs of the run layer on a list of hosts, which share the store."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines import needs_mpirun
from tests.lab.lab import Lab

pytestmark = [needs_mpirun, pytest.mark.slow]

# What somebody types at the first host: submits the script beside it, and says how it went.
SUBMIT = """
import json, sys
from launcher.jobs import (
    ComputeTarget, Experiment, MpiConfiguration, MpiHosts, PyTorchConfiguration, ScriptRunConfig,
    Workspace,
)
workspace = Workspace.create("test")
given = json.loads(sys.argv[1])
config = MpiHosts.attach_configuration(["h1", "h2"], extra=given["extra"])
target = ComputeTarget.attach(workspace, "hosts", config)
kinds = {"pytorch": PyTorchConfiguration, "mpi": MpiConfiguration}
wanted = kinds[given["kind"]](**given["shape"])
config = ScriptRunConfig(
    given["source"], "train.py", compute_target=target,
    distributed_job_config=wanted,
)
run = Experiment(workspace, "birds").submit(config)
details = run.wait_for_completion(raise_on_error=False)
logs = []
for rank in range(given["ranks"]):
    run.download_file(f"azureml-logs/70_driver_log_{rank}.txt", "log.txt")
    logs.append(open("log.txt").read())
metrics = run.get_metrics(ranks="all")
print(json.dumps([details["status"], details.get("statusReason"), logs, metrics]))
"""

# The status, the reason, what each rank has printed, and the metrics of each.
Ended = tuple[str, str, list[str], dict[str, Any]]
Submit = Callable[..., Ended]


@pytest.fixture
def submit(lab: Lab, tmp_path: Path) -> Submit:
    """Submit a script's text from h1, for h1 and h2, and wait for its end."""
    config = lab.start_sshd()
    source = tmp_path / "source"
    source.mkdir()

    def begin(text: str, kind: str, ranks: int, **shape: int) -> Ended:
        (source / "train.py").write_text(text)
        extra = ["--mca", "plm_rsh_args", f"-F {config}"]
        given: dict[str, Any] = {"extra": extra, "kind": kind, "shape": shape, "ranks": ranks}
        given["source"] = str(source)
        places = {"LAUNCHER_STORE": str(tmp_path / "s"), "LAUNCHER_CACHE": str(tmp_path / "c")}
        argv = [sys.executable, "-c", SUBMIT, json.dumps(given)]
        done = lab["h1"].run(*argv, env=places, cwd=tmp_path, timeout_s=60.0)
        assert done.code == 0, done.err
        status, reason, logs, metrics = json.loads(done.lines[-1])
        return status, reason, logs, metrics

    return begin


def test_a_run_spreads_over_its_hosts(submit: Submit) -> None:
    text = (
        "import os\n"
        "from launcher.jobs import Run\n"
        "names = ('RANK', 'WORLD_SIZE', 'NODE_RANK')\n"
        "print(os.uname().nodename, *(os.environ[name] for name in names))\n"
        "Run.get_context().log('rank', int(os.environ['RANK']))\n"
    )
    ended = submit(text, "pytorch", 4, process_count=4, node_count=2)
    status, _, logs, metrics = ended
    assert status == "Completed", ended
    for rank, host in enumerate(("h1", "h1", "h2", "h2")):
        # Before rank 0's lines stands what the launchers say.
        assert logs[rank].endswith(f"{host} {rank} 4 {rank // 2}\n"), logs
    assert metrics["3"] == {"rank": 3}


def test_a_failure_on_a_host_names_rank_and_cause(submit: Submit) -> None:
    text = "import os\nif os.environ['RANK'] == '1': raise ValueError('image 17 is empty')\n"
    status, reason, _, _ = submit(text, "pytorch", 2, process_count=2, node_count=2)
    assert (status, reason) == ("Failed", "rank 1: ValueError: image 17 is empty")


def test_ranks_that_need_mpi_have_it_on_all_hosts(submit: Submit) -> None:
    pytest.importorskip("mpi4py")
    text = (
        "import os\n"
        "from mpi4py import MPI\n"
        "world = MPI.COMM_WORLD\n"
        "print(os.uname().nodename, world.allreduce(world.rank), os.environ['NODE_RANK'])\n"
    )
    ended = submit(text, "mpi", 4, process_count_per_node=2, node_count=2)
    assert ended[0] == "Completed", ended
    assert [log.splitlines()[-1] for log in ended[2]] == ["h1 6 0", "h1 6 0", "h2 6 1", "h2 6 1"]
