"""What Slurm is asked for: srun's command line, and the batch script."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import pytest

from launcher.engines import slurm
from launcher.engines.slurm_request import (
    check_request,
    drop_shares,
    find_task,
    make_script,
    make_srun,
)
from launcher.errors import EnvironmentMismatch, UsageError
from launcher.options.arguments import read_arguments
from launcher.options.spec import LaunchSpec

# Inside of an allocation of three nodes, for a task per rank.
JOB = {"SLURM_JOB_ID": "12", "SLURM_JOB_NUM_NODES": "3", "SLURM_NTASKS": "12"}

STEP = [
    *("--kill-on-bad-exit=0", "--wait=0", "--cpu-bind=none", "--mpi=none", "--export=ALL"),
    "--input=none",
]


def spec_of(text: str, script: str = "train.py --lr 1", **environ: str) -> LaunchSpec:
    argv = shlex.split(f"--engine slurm {text} {script}")
    given, command = read_arguments(LaunchSpec, argv)
    return LaunchSpec.from_sources(
        given, environ, script=command[0], script_args=tuple(command[1:])
    )


def srun(text: str, environ: dict[str, str] | None = None, **more: Any) -> tuple[list[str], str]:
    """Return srun's own options without those of every step, and what each task runs."""
    argv = make_srun(spec_of(text, **more), environ or {}, "name")
    at = argv.index(sys.executable)
    assert argv[:2] == ["srun", "--job-name=name"]
    options = argv[2:at]
    start = options.index(STEP[0])
    assert options[start : start + len(STEP)] == STEP
    inner = argv[argv.index("-m", at) :]
    assert inner[:2] == ["-m", "launcher"]
    return options[:start] + options[start + len(STEP) :], " ".join(inner[2:])


@pytest.mark.parametrize(
    ("text", "is_typed", "task"),
    [
        ("--nnodes 2 --nproc-per-node 2", False, -1),
        ("--nnodes 2 --nproc-per-node 2", True, 0),
        ("--nnodes 2 --nproc-per-node 2 --stdin-rank 2", False, 1),
        ("--nnodes 2 --nproc-per-node 2 --stdin-rank 3", True, 1),
        ("--nproc-per-node auto", True, 0),
    ],
)
def test_the_task_of_the_rank_that_reads_gets_what_is_typed(
    text: str, is_typed: bool, task: int
) -> None:
    spec = spec_of(text)
    assert find_task(spec, {}, is_typed=is_typed) == task
    argv = make_srun(spec, {}, "name", task)
    assert (f"--input={task}" in argv) == (task >= 0)
    assert ("--input=none" in argv) == (task < 0)


def test_a_rank_of_a_task_that_may_not_come_cannot_read() -> None:
    with pytest.raises(UsageError, match="must be below 4"):
        find_task(spec_of("--nnodes 2:4 --nproc-per-node 2 --stdin-rank 4"), {}, is_typed=True)


TWO = ["--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", ["--nodes=1", "--ntasks=1", "--ntasks-per-node=1"]),
        ("--nnodes 2", TWO),
        ("--nnodes 2 --nproc-per-node 8", [*TWO, "--cpus-per-task=8"]),
        (
            "--nnodes 2 --nproc-per-node gpu --gpus-per-node a100:4",
            [*TWO, "--cpus-per-task=4", "--gpus-per-node=a100:4"],
        ),
        ("--nnodes 2 --nproc-per-node auto", TWO),
        ("--nnodes 2 --nproc-per-node 8 --engine-args='-c 3'", [*TWO, "-c", "3"]),
        (
            "--nnodes 2 --time 1:00:00 --partition gpu --account us",
            [*TWO, "--time=1:00:00", "--partition=gpu", "--account=us"],
        ),
        ("--nnodes 2 --engine-args=\"-C 'a&b' -w n1\"", [*TWO, "-C", "a&b", "-w", "n1"]),
        # Beside a number of tasks per node, Slurm would give the least.
        ("--nnodes 2:4", ["--nodes=2-4", "--no-kill"]),
    ],
)  # fmt: skip
def test_outside_of_a_job_srun_asks_for_one(text: str, options: list[str]) -> None:
    assert srun(text)[0] == options


@pytest.mark.parametrize(
    ("text", "options", "nnodes"),
    [
        ("", ["--nodes=3", "--ntasks=3", "--ntasks-per-node=1"], "3"),
        ("--nnodes 2 --nproc-per-node 8", TWO, "2"),
        ("--nnodes 2:9", ["--nodes=3", "--ntasks=3", "--ntasks-per-node=1", "--no-kill"], "2:9"),
    ],
)
def test_inside_of_a_job_it_takes_nodes_of_that(text: str, options: list[str], nnodes: str) -> None:
    found, inner = srun(text, JOB)
    assert found == options
    assert f"--nnodes={nnodes} " in inner


def test_a_shell_that_srun_has_started_shares_its_node() -> None:
    step = {**JOB, "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    assert "--overlap" in srun("", step)[0]
    assert "--overlap" not in srun("", JOB)[0]


def test_each_node_gets_what_was_typed_but_for_what_is_slurms() -> None:
    _, inner = srun(
        "--nnodes 2 --time 5 --partition gpu --export A=1 --max-restarts 3 --die-with-parent",
        script="-- -odd.py --nnodes=2 --time 9",
    )
    assert inner == (
        "--nproc-per-node=1 --max-restarts=3 --nnodes=2 -- -odd.py --nnodes=2 --time 9"
    )


def test_variables_that_stand_for_options_are_flags_on_each_node() -> None:
    spec = spec_of("--nnodes 2", PET_MAX_RESTARTS="3", TORCH_ELASTIC_SHUTDOWN_TIMEOUT="5")
    inner = " ".join(make_srun(spec, {}, "name"))
    assert "--max-restarts=3" in inner and "--shutdown-timeout=5" in inner


def test_an_allocation_for_single_ranks_leaves_no_share_of_one() -> None:
    shares = {"SLURM_CPUS_PER_TASK": "1", "SLURM_GPUS_PER_TASK": "1", "HOME": "/root"}
    assert drop_shares({**JOB, **shares}) == {**JOB, "HOME": "/root"}
    per_node = {**JOB, "SLURM_NTASKS": "3", **shares}
    assert drop_shares(per_node) == per_node


SCRIPT = """\
#!/bin/bash
# python -m launcher {typed}
#SBATCH --job-name=train.py
#SBATCH --nodes=2
#SBATCH --ntasks=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=60
#SBATCH '--chdir=/my work'
#SBATCH '--output=/my work/runs/fox-%j.out'
#SBATCH --open-mode=append
#SBATCH --signal=USR1@60 --qos high

# All options stand below.
unset "${{!PET_@}}"
export DEBUG='a b'
# All that is said comes to one file: there, one node speaks for all.
export LAUNCHER_QUIET=0
# By which the launchers know each other.
LAUNCHER_SECRET="${{LAUNCHER_SECRET:-$(head -c 24 /dev/urandom | base64)}}"
export LAUNCHER_SECRET

srun --ntasks-per-node=1 {step} \\
  {python} -m launcher --nproc-per-node=8 --nnodes=2 --rdzv-id=fox train.py --lr 1
"""


def test_a_batch_script_can_be_read_and_submitted_again() -> None:
    text = (
        "--nnodes 2 --nproc-per-node 8 --submit --time 60 --export 'HF_HOME,DEBUG=a b'"
        " --engine-args='--signal=USR1@60 --qos high'"
    )
    spec = spec_of(text)
    script = make_script(spec, "fox", "/my work/runs/fox-%j.out", "/my work")
    typed, step = shlex.join(spec.to_argv()), " ".join(STEP)
    assert script == SCRIPT.format(typed=typed, step=step, python=sys.executable)


def test_an_argument_with_a_line_break_does_not_leave_its_comment() -> None:
    script = make_script(spec_of("--submit", script="train.py 'a\nrm -r b'"), "fox", "out", "/")
    assert "\nrm" not in script.partition("srun")[0]


def test_a_secret_file_is_named_in_the_script_and_no_other_secret_made() -> None:
    script = make_script(spec_of("--submit --secret-file /s"), "fox", "out", "/")
    assert "--secret-file=/s" in script
    assert "LAUNCHER_SECRET" not in script


@pytest.mark.parametrize(
    ("text", "environ", "words"),
    [
        ("--nnodes 4", JOB, "--nnodes 4: the allocation 12 has 3 nodes (SLURM_JOB_NUM_NODES=3)"),
        (
            "",
            {**JOB, "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"},
            "2 of them have been started already (SLURM_STEP_NUM_TASKS=2)",
        ),
        (
            "",
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"},
            "4 of them have been started already (OMPI_COMM_WORLD_SIZE=4)",
        ),
    ],
)
def test_what_an_engine_has_settled_already_is_not_asked_for(
    text: str, environ: dict[str, str], words: str
) -> None:
    with pytest.raises(EnvironmentMismatch) as caught:
        check_request(spec_of(text), environ)
    assert words in caught.value.message
    assert "python -m launcher --engine slurm" in caught.value.hint


def test_a_job_may_submit_a_larger_one() -> None:
    check_request(spec_of("--submit --nnodes 4"), JOB)


def test_a_quote_that_is_not_closed_and_a_variable_without_a_name_are_refused() -> None:
    with pytest.raises(UsageError, match="No closing quotation"):
        make_srun(spec_of('--engine-args="\'"'), {}, "name")
    with pytest.raises(UsageError, match="'1A' is no name of a variable"):
        check_request(spec_of("--export 1A=2"), {})


def test_a_dry_run_shows_the_command_or_the_script() -> None:
    assert slurm.dry_run(spec_of("--nnodes 2"), {}).startswith("srun --job-name=train.py --nodes=2")
    script = slurm.dry_run(spec_of("--submit --nnodes 2 --rdzv-id fox --run-dir /a%b"), {})
    assert script.startswith("#!/bin/bash\n")
    assert "#SBATCH --output=/a%%b/fox-%j.out\n" in script
