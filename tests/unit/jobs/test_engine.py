"""The command line by which a run calls the launcher, and the environment of that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from launcher.jobs import MpiConfiguration, PyTorchConfiguration, ScriptRunConfig, engine, slurm
from launcher.jobs.configuration import make_definition
from launcher.jobs.secret import mask_definition, missing_in
from launcher.jobs.store import RunFolder

RUN = RunFolder("/store/runs/birds_1_2")
OPTIONS = ["--run-dir", "/store/runs/birds_1_2/launcher", "--rdzv-id", "birds_1_2"]


def asked(wanted: Any = None, **more: Any) -> dict[str, Any]:
    config = ScriptRunConfig(".", "train.py", ["--lr", 0.1], distributed_job_config=wanted)
    definition = make_definition(config.run_config)
    return {"definition": definition, "interpreter": "python", "experiment": "birds", **more}


def call(what: dict[str, Any], **options: Any) -> engine.Call:
    environ = options.pop("environ", {"PATH": "/bin"})
    return engine.make_call(RUN, what, "python", environ, **options)


def test_one_process_is_a_run_of_the_launcher_too() -> None:
    assert call(asked()).argv == [
        *("python", "-m", "launcher", *OPTIONS, "--nproc-per-node", "1"),
        *("--log-line-prefix-template", "", "train.py", "--lr", "0.1"),
    ]


def test_several_have_their_rank_in_front_of_each_line() -> None:
    argv = call(asked(PyTorchConfiguration(process_count=4, node_count=2))).argv
    assert argv[argv.index("--nproc-per-node") + 1] == "4"
    assert argv[argv.index("--log-line-prefix-template") + 1] == "[${rank}] "


@pytest.mark.parametrize(
    ("source", "starter"),
    [
        (b"from mpi4py import MPI\n", "mpirun"),
        (b"import horovod.torch as hvd\nfrom mpi4py import MPI\n", "python"),
        (b"# mpi4py is not used\n", "python"),
    ],
)
def test_mpirun_starts_only_what_needs_it(source: bytes, starter: str) -> None:
    assert call(asked(MpiConfiguration(2)), source=source).argv[0] == starter


def test_nodes_are_those_of_the_target() -> None:
    what = asked(PyTorchConfiguration(process_count=4, node_count=2))
    slurm_argv = call({**what, "is_slurm": True}).argv
    assert "--engine slurm --nnodes 2 --nproc-per-node 2 " in " ".join(slurm_argv)
    target = {"hosts": ["a", "b", "c"], "extra": ["--mca", "x", "-F y"]}
    environ = {"PATH": "/bin", "HOME": "/home/ada"}
    argv = call(what, target=target, names=["a", "c"], environ=environ).argv
    assert "--engine mpi --hosts a:2,c:2 --export LAUNCHER_JOBS_RUN" in " ".join(argv)
    assert argv[argv.index("--engine-args") + 1] == "--mca x '-F y'"
    assert "HOME" not in argv and "--devices" not in argv


def test_ranks_that_need_mpi_are_spread_over_the_nodes() -> None:
    what = asked(MpiConfiguration(2, node_count=2))
    source = b"from mpi4py import MPI\n"
    argv = call(what, source=source, target={"hosts": ["a", "b"]}, names=["a", "b"]).argv
    assert " ".join(argv).startswith(
        "mpirun --oversubscribe -np 4 --map-by ppr:2:node --host a:2,b:2 -x LAUNCHER_JOBS_RUN "
    )
    argv = call({**what, "is_slurm": True}, source=source).argv
    assert " ".join(argv).startswith("mpirun --oversubscribe -np 4 --map-by ppr:2:node /bin/sh")


def test_gpus_of_the_run_are_named() -> None:
    argv = call(asked(), target={"devices": ["0", "3"]}, names=["3"]).argv
    assert argv[argv.index("--devices") + 1] == "3"


def test_a_run_that_a_rank_submits_is_no_rank_of_its() -> None:
    inherited = {
        **dict.fromkeys(
            ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"), "1"
        ),
        **dict.fromkeys(("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "LAUNCHER_RUN_ID"), "1"),
        "HOME": "/home/ada",
        "LAUNCHER_STORE": "/store",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    made = call(asked(), environ=inherited).environ
    assert set(made) & set(inherited) == {"HOME", "LAUNCHER_STORE", "CUDA_VISIBLE_DEVICES"}
    assert made["LAUNCHER_JOBS_RUN"] == RUN.path and made["AZUREML_RUN_ID"] == RUN.run_id


def test_the_stand_in_for_the_sdk_can_be_switched_off() -> None:
    shim = os.path.join(engine.PACKAGE_ROOT, "launcher", "jobs", "shim")
    assert shim in call(asked()).environ["PYTHONPATH"].split(os.pathsep)
    off = call(asked(), environ={"LAUNCHER_JOBS_SHIM": "0"})
    assert shim not in off.environ["PYTHONPATH"].split(os.pathsep)


def test_a_batch_script_can_be_read() -> None:
    what = asked(PyTorchConfiguration(process_count=4, node_count=2))
    script = slurm.make_script(RUN, what, {"partition": "gpu", "extra": ["--exclusive"]})
    lines = script.splitlines()
    assert lines[0] == "#!/bin/sh"
    for option in ("--nodes=2", "--cpus-per-task=2", "--partition=gpu", "--exclusive"):
        assert f"#SBATCH {option}" in lines
    assert "\nexec " in script and lines[-1].endswith(RUN.path)
    alone = slurm.make_script(RUN, asked(PyTorchConfiguration(process_count=4)), {})
    assert "#SBATCH --ntasks-per-node=1" in alone and "#SBATCH --cpus-per-task=4" in alone
    # A signal that most scripts do not handle, and that would end them, is sent on demand only.
    assert "--signal" not in alone
    warned = slurm.make_script(RUN, what, {"warn_s": 90})
    assert "#SBATCH --signal=B:USR1@90\n" in warned


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("TIMEOUT", "Failed"),
        ("NODE_FAIL", "Failed"),
        ("CANCELLED by 0", "Canceled"),
        ("", "Failed"),
    ],
)
def test_how_slurm_ends_a_job_is_how_the_run_ends(state: str, status: str, tmp_path: Path) -> None:
    found, reason = slurm.describe_end(RunFolder(str(tmp_path)), slurm.Job(state, ""))
    assert found == status and "job ?" in reason


def test_secrets_are_taken_out_of_what_is_kept() -> None:
    variables = {"API_KEY": "x", "COLOUR": "red"}
    masked, secrets = mask_definition({"environmentVariables": variables})
    assert masked == {"environmentVariables": {"API_KEY": "***", "COLOUR": "red"}}
    assert secrets == {"API_KEY": "x"} and variables["API_KEY"] == "x"
    assert mask_definition(masked) == (masked, {})
    assert missing_in(masked, {}) == ["API_KEY"] and missing_in(masked, {"API_KEY": "y"}) == []


@pytest.mark.parametrize(
    ("interpreter", "path"),
    [
        ("/home/ada/venv/bin/python", "/home/ada/venv/bin:/bin"),
        ("/usr/bin/python3", "/bin"),
        ("python", "/bin"),
    ],
)
def test_python_in_a_command_is_the_runs_own(interpreter: str, path: str) -> None:
    made = engine.make_call(RUN, asked(), interpreter, {"PATH": "/bin"})
    assert made.environ["PATH"] == path
