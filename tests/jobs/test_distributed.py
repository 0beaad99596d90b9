"""Runs of several ranks: each rank's log, its variables, and whom a failure names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from launcher.jobs import (
    ActivityFailedException,
    Experiment,
    MpiConfiguration,
    PyTorchConfiguration,
    Run,
    RunConfigurationException,
    ScriptRunConfig,
)
from tests.jobs.conftest import Submit

_RANK = "import os\nrank = int(os.environ['RANK'])\n"


def log_of(run: Run, rank: int, folder: Path) -> str:
    """Return what a user finds in the log of a rank."""
    run.download_file(f"azureml-logs/70_driver_log_{rank}.txt", str(folder / "log.txt"))
    return (folder / "log.txt").read_bytes().decode()


def test_each_rank_has_a_log(
    submit: Submit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = _RANK + (
        "import sys\n"
        "print(f'rank {rank} of', os.environ['WORLD_SIZE'], sys.argv[1:])\n"
        "print('[0] no prefix')\n"
    )
    run = submit(text, "$LOCAL_RANK", distributed_job_config=PyTorchConfiguration("Gloo", 2))
    run.wait_for_completion(show_output=True)
    shown = capsys.readouterr().out
    assert "\nStreaming azureml-logs/70_driver_log_0.txt\n" in shown
    assert "rank 0 of 2 ['0']\n[0] no prefix\n" in shown and "rank 1" not in shown
    assert log_of(run, 1, tmp_path) == "rank 1 of 2 ['1']\n[0] no prefix\n"
    names = run.get_file_names()
    assert "azureml-logs/70_driver_log_1.txt" in names and "user_logs/std_log_0.txt" in names
    assert len(run.get_all_logs(str(tmp_path / "logs"))) == 4


def test_a_failure_names_the_rank_that_was_first(submit: Submit) -> None:
    text = _RANK + (
        "import signal\nif rank == 2: raise ValueError('image 17 is empty')\nsignal.pause()\n"
    )
    run = submit(text, distributed_job_config=PyTorchConfiguration(process_count=3))
    with pytest.raises(ActivityFailedException, match="rank 2: ValueError: image 17 is empty"):
        run.wait_for_completion()
    error = run.get_details()["error"]["error"]
    assert error["rank"] == 2 and "ValueError" in error["details"]["traceback"]


def test_ranks_metrics_are_kept_apart(submit: Submit) -> None:
    text = _RANK + (
        "from launcher.jobs import Run\n"
        "run = Run.get_context()\n"
        "run.log('rank', rank)\n"
        "run.log(f'of {rank}', 1)\n"
    )
    run = submit(text, distributed_job_config=PyTorchConfiguration(process_count=2))
    run.wait_for_completion()
    assert run.get_metrics() == {"rank": 0, "of 0": 1, "of 1": 1}
    assert run.get_metrics("rank", ranks="all") == {"0": {"rank": 0}, "1": {"rank": 1}}
    assert run.get_metrics(ranks=1) == {"rank": 1, "of 1": 1}


def test_nodes_are_this_machine(submit: Submit, tmp_path: Path) -> None:
    text = _RANK + "print('size', os.environ['WORLD_SIZE'])"
    run = submit(text, distributed_job_config=PyTorchConfiguration("Nccl", 2, node_count=2))
    run.wait_for_completion()
    assert log_of(run, 0, tmp_path) == (
        "launcher.jobs: 2 nodes were asked for: all of them are this machine\nsize 2\n"
    )


def test_a_command_runs_once_for_each_node(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    command = (
        "echo node $NODE_RANK of $WORLD_SIZE at $MASTER_ADDR, rank ${RANK-unset}"
        " && test -n $MASTER_PORT"
    )
    config = ScriptRunConfig(
        str(tmp_path / "source"),
        command=command,
        distributed_job_config=PyTorchConfiguration(node_count=2),
    )
    run = experiment.submit(config)
    run.wait_for_completion()
    assert log_of(run, 1, tmp_path) == "node 1 of 2 at 127.0.0.1, rank unset\n"


def test_a_command_may_be_a_launcher_of_its_own(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "train.py").write_text(
        _RANK + "print('rank', rank, 'of', os.environ['WORLD_SIZE'])"
    )
    config = ScriptRunConfig(
        str(tmp_path / "source"),
        command=["python", "-m", "launcher", "--nproc-per-node", 2, "train.py"],
    )
    run = experiment.submit(config)
    run.wait_for_completion()
    lines = Path(run._folder.driver_log).read_text().splitlines()
    assert sorted(lines) == ["[0] rank 0 of 2", "[1] rank 1 of 2"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (PyTorchConfiguration(process_count=3, node_count=2), "does not spread evenly"),
        (PyTorchConfiguration(node_count=0), "starts nothing"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(
    submit: Submit, wanted: PyTorchConfiguration, message: str
) -> None:
    with pytest.raises(RunConfigurationException, match=message):
        submit("pass", distributed_job_config=wanted)


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed")
def test_a_script_of_mpi4py_is_started_by_mpirun(submit: Submit, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    text = (
        "from mpi4py import MPI\n"
        "world = MPI.COMM_WORLD\n"
        "print('sum', world.allreduce(world.rank), 'rank', world.rank)\n"
        "from launcher.jobs import Run\n"
        "Run.get_context().log('rank', world.rank)\n"
    )
    run = submit(text, distributed_job_config=MpiConfiguration(2))
    run.wait_for_completion()
    assert log_of(run, 1, tmp_path) == "sum 1 rank 1\n"
    assert run.get_metrics(ranks=1) == {"rank": 1}


@pytest.mark.slow
def test_a_script_of_horovod_is_served_by_the_launcher(submit: Submit, tmp_path: Path) -> None:
    pytest.importorskip("horovod.torch")
    text = (
        "import torch\n"
        "import horovod.torch as hvd\n"
        "hvd.init()\n"
        "total = hvd.allreduce(torch.tensor([float(hvd.rank())]), op=hvd.Sum)\n"
        "print('sum', total.item(), 'size', hvd.size())\n"
        "from azureml.core.run import Run\n"
        "Run.get_context().log('rank', hvd.rank())\n"
    )
    run = submit(
        text, distributed_job_config=MpiConfiguration(process_count_per_node=1, node_count=2)
    )
    run.wait_for_completion()
    assert "sum 1.0 size 2\n" in log_of(run, 1, tmp_path)
    assert run.get_metrics() == {"rank": 0}


def test_the_log_of_a_rank_has_every_attempt_and_its_bars_whole(
    submit: Submit, tmp_path: Path
) -> None:
    text = _RANK + (
        "import sys\n"
        "attempt = os.environ['TORCHELASTIC_RESTART_COUNT']\n"
        "for i in range(100): sys.stderr.write(f'\\r{i}%')\n"
        "print(f'\\n[5] attempt {attempt}', file=sys.stderr)\n"
        "if attempt == '0' and rank == 1: raise ValueError('once')\n"
    )
    run = submit(
        text,
        distributed_job_config=PyTorchConfiguration(process_count=2),
        flags=["--max-restarts", "1", "--redirects", "3"],
    )
    run.wait_for_completion()
    log = log_of(run, 1, tmp_path)
    bar = "".join(f"\r{i}%" for i in range(100))
    assert log.startswith(f"{bar}\n[5] attempt 0\nTraceback")
    assert log.endswith(f"ValueError: once\n{bar}\n[5] attempt 1\n")
    end = json.loads(Path(run._folder.end).read_text())
    assert end["attempts"] == 2 and end["peak_bytes"] > 1 << 20


def test_a_launcher_that_is_told_to_stop_says_so_in_the_run(submit: Submit) -> None:
    text = "import os, signal\nos.kill(os.getppid(), signal.SIGTERM)\nsignal.pause()\n"
    run = submit(text, flags=["--start", "spawn"])
    with pytest.raises(ActivityFailedException, match="the launcher was sent SIGTERM"):
        run.wait_for_completion()
