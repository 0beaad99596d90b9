"""A status cannot lie: whatever is killed, the next look finds it, and nothing goes on running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.jobs import (
    AmlCompute,
    ComputeTarget,
    Experiment,
    PyTorchConfiguration,
    Run,
    RunConfigurationException,
    Workspace,
)
from tests.conftest import is_alive, wait_until
from tests.jobs.conftest import Submit, agent_pid, launcher_pid, wait_for_text

_WAIT = "import os, signal\nprint('rank', os.getpid(), flush=True)\nsignal.pause()\n"


@pytest.fixture
def running(submit: Submit) -> Run:
    """A run whose only rank waits to be stopped."""
    run = submit(_WAIT)
    wait_for_text(run, "rank")
    return run


def rank_pid(run: Run) -> int:
    return int(Path(run._folder.driver_log).read_text().split()[1])


def test_a_killed_agent_is_found_and_its_ranks_end(running: Run) -> None:
    rank, launcher = rank_pid(running), launcher_pid(running)
    os.kill(agent_pid(running), signal.SIGKILL)
    wait_until(lambda: running.get_status() == "Failed", "Failed")
    wait_until(lambda: not is_alive(rank) and not is_alive(launcher), "nothing runs any more")
    assert "was killed; last sign of life" in running.get_details()["statusReason"]


def test_a_killed_launcher_fails_the_run(running: Run) -> None:
    rank = rank_pid(running)
    os.kill(launcher_pid(running), signal.SIGKILL)
    details = running.wait_for_completion(raise_on_error=False)
    assert details["status"] == "Failed"
    assert details["statusReason"] == "the launcher was killed by SIGKILL; so were its ranks"
    wait_until(lambda: not is_alive(rank), "the rank is gone")


def test_agent_and_launcher_killed_together_leave_nothing(running: Run) -> None:
    rank, launcher = rank_pid(running), launcher_pid(running)
    os.kill(agent_pid(running), signal.SIGKILL)
    os.kill(launcher, signal.SIGKILL)
    wait_until(lambda: running.get_status() == "Failed", "Failed")
    wait_until(lambda: not is_alive(rank), "the rank is gone")


def test_a_killed_rank_is_the_cause(running: Run) -> None:
    os.kill(rank_pid(running), signal.SIGKILL)
    details = running.wait_for_completion(raise_on_error=False)
    assert details["statusReason"].startswith("rank 0: killed by SIGKILL")


def test_cancel_stops_the_ranks(running: Run) -> None:
    rank = rank_pid(running)
    running.cancel()
    assert running.wait_for_completion()["status"] == "Canceled"
    assert not is_alive(rank)
    running.cancel()  # changes nothing
    assert running.get_details()["statusReason"].startswith("canceled by ")


def test_a_run_that_is_canceled_at_once_does_not_start(submit: Submit, tmp_path: Path) -> None:
    for _ in range(3):
        run = submit("print('started')")
        run.cancel()
        status = run.wait_for_completion()["status"]
        assert status == "Canceled"


def test_a_run_that_lasts_too_long_is_stopped(submit: Submit) -> None:
    run = submit(_WAIT, max_run_duration_seconds=1)
    details = run.wait_for_completion(raise_on_error=False)
    assert details["error"]["error"]["code"] == "MaxRunDurationReached"


def test_a_run_of_before_a_reboot_has_failed(running: Run) -> None:
    record = json.loads(Path(running._folder.agent).read_text())
    os.kill(record["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(record["pid"]), "the agent is gone")
    Path(running._folder.agent).write_text(json.dumps({**record, "boot": "another"}))
    assert "was started anew while it ran" in running.get_details()["statusReason"]


def test_another_host_without_a_sign_of_life_does_not_respond(running: Run) -> None:
    path = Path(running._folder.agent)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "boot": "another", "host": "node9"}))
    assert running.get_status() == "Running"
    for name in (path, Path(running._folder.asked), Path(running._folder.journal, "agent.jsonl")):
        os.utime(name, (1, 1))
    assert running.get_status() == "NotResponding"
    path.write_text(json.dumps(record))
    running.cancel()
    running.wait_for_completion()


def test_a_number_that_another_process_has_by_now_is_left_alone(running: Run) -> None:
    path = Path(running._folder.agent)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "pid": os.getpid()}))
    running.cancel()  # would end these tests
    path.write_text(json.dumps(record))
    os.kill(record["pid"], signal.SIGTERM)
    assert running.wait_for_completion()["status"] == "Canceled"


def test_the_queue_serves_runs_in_their_order(
    workspace: Workspace, submit: Submit, experiment: Experiment
) -> None:
    config = AmlCompute.provisioning_configuration(max_nodes=1)
    target = ComputeTarget.create(workspace, "one", config)
    first = submit(_WAIT, compute_target=target)
    wait_for_text(first, "rank")
    second = submit("print('second')", compute_target=target)
    wait_until(lambda: second.get_status() == "Queued", "the second is queued")
    third = submit("print('third')", compute_target=target)
    wait_until(lambda: third.get_status() == "Queued", "the third is queued")
    assert first.id in second.get_details()["statusReason"]
    wait_until(lambda: "1 before this one" in third.get_details()["statusReason"], "its turn")
    assert target.get_status().serialize()["nodeStateCounts"]["runningNodeCount"] == 1
    third.cancel()
    assert third.wait_for_completion()["status"] == "Canceled"
    os.kill(agent_pid(first), signal.SIGKILL)  # the slot is free however its holder ends
    assert second.wait_for_completion()["status"] == "Completed"


def test_each_rank_gets_a_gpu_that_no_other_run_has(workspace: Workspace, submit: Submit) -> None:
    config = AmlCompute.provisioning_configuration(devices=["3", "5", "7"])
    target = ComputeTarget.create(workspace, "gpus", config)
    say = "import os\nprint('rank', os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
    first = submit(say + "import signal; signal.pause()\n", compute_target=target)
    wait_for_text(first, "rank 3\n")
    two = PyTorchConfiguration(process_count=2)
    second = submit(say, compute_target=target, distributed_job_config=two)
    second.wait_for_completion()
    wait_for_text(second, "[1] rank 5,7\n")
    with pytest.raises(RunConfigurationException, match="takes 4 slots, but gpus has 3"):
        four = PyTorchConfiguration(process_count=4)
        submit(say, compute_target=target, distributed_job_config=four)
    first.cancel()
    first.wait_for_completion()


def test_the_agent_is_small(running: Run) -> None:
    status = Path(f"/proc/{agent_pid(running)}/status").read_text()
    kib = int(status.partition("VmRSS:")[2].split()[0])
    running.cancel()
    running.wait_for_completion()
    assert kib < 15 * 1024


def test_the_end_of_who_submits_is_not_the_end_of_the_run(
    workspace: Workspace, experiment: Experiment, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "train.py").write_text("import time; print('done')")
    code = (
        "from launcher.jobs import *; import os, signal\n"
        "ws = Workspace.from_config()\n"
        "Experiment(ws, 'birds').submit(ScriptRunConfig('source', 'train.py'))\n"
        "os.killpg(os.getpgrp(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], start_new_session=True, check=False)
    (run,) = experiment.get_runs()
    assert run.wait_for_completion()["status"] == "Completed"
