"""Runs on a Slurm cluster: handed over by sbatch, looked up by squeue, stopped by scancel.

The agent of such a run is the batch script's own process, on the first node of the job; what it
writes lies in the store, which must be on a file system that the nodes share.
"""

from __future__ import annotations

import os
import shlex
import sys
import time

from launcher.engines import slurm_client
from launcher.engines.slurm_client import Job
from launcher.errors import LauncherError
from launcher.jobs.configuration import shape_of
from launcher.jobs.engine import PACKAGE_ROOT
from launcher.jobs.errors import ComputeTargetException
from launcher.jobs.store import RunFolder, read_json, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KIND = "Slurm"

_BOOT = (
    "import sys\n"
    "sys.path.append(sys.argv[1])\n"
    "from launcher.jobs.agent import main\n"
    "main(sys.argv[2], is_lock_inherited=False)\n"
)

# Settings of a target that are options of sbatch by the same name.
_OPTIONS = ("partition", "account", "qos", "time", "gres", "constraint", "mem")

# How old an answer of Slurm's may be: login nodes are shared, and states are asked for in loops.
_FRESH_S = 2.0

# How a job that has not begun is called here.
_WAITING = {"PENDING": "Queued", "CONFIGURING": "Provisioning", "REQUEUED": "Queued"}

_answers: dict[str, tuple[float, Job]] = {}


def job_path(run: RunFolder) -> str:
    """Return the file with the number of a run's job; there is none for other runs."""
    return run.join("job.json")


def hand_over(
    run: RunFolder, asked: dict[str, Any], settings: dict[str, Any], environ: dict[str, str]
) -> None:
    """Submit a run to Slurm; the script stays in its folder, and can be submitted by hand.

    environ: what the job inherits.
    """
    script = run.join("job.sh")
    with open(script, "w", encoding="utf-8") as file:
        file.write(make_script(run, asked, settings))
    try:
        number, refusal = slurm_client.submit(script, environ)
    except LauncherError as error:
        raise ComputeTargetException(error.message, hint=error.hint) from None
    if not number:
        raise ComputeTargetException(f"sbatch refused the run: {refusal}")
    write_json(job_path(run), {"job": number})


def make_script(run: RunFolder, asked: dict[str, Any], settings: dict[str, Any]) -> str:
    """Return the batch script of a run."""
    shape = shape_of(asked["definition"])
    per_node = shape.num_processes // shape.num_nodes
    options = [
        f"--job-name={asked['experiment']}",
        f"--nodes={shape.num_nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={per_node}",
        f"--output={run.join('agent.log')}",
        "--open-mode=append",
        "--requeue",
        *([f"--signal=B:USR1@{settings['warn_s']}"] if settings.get("warn_s") else []),
        *(f"--{name}={settings[name]}" for name in _OPTIONS if settings.get(name)),
        *(settings.get("extra") or []),
    ]
    python = [sys.executable, "-I", "-S", "-c", _BOOT, PACKAGE_ROOT, run.path]
    lines = [
        "#!/bin/sh",
        *(f"#SBATCH {option}" for option in options),
        f"exec {shlex.join(python)}",
    ]
    return "\n".join(lines) + "\n"


def look(run: RunFolder) -> Job:
    """Ask Slurm for the job of a run; an answer of a moment ago will do."""
    number = str((read_json(job_path(run)) or {}).get("job", ""))
    at, job = _answers.get(number, (0.0, Job("", "")))
    if time.monotonic() - at > _FRESH_S:
        job = slurm_client.ask(number)
        _answers[number] = (time.monotonic(), job)
    return job


def goes_on(job: Job) -> bool:
    """Tell whether a job waits or runs; one that Slurm does not know does neither."""
    return job.is_waiting or job.is_running


def waiting_status(job: Job) -> tuple[str, str]:
    """Return status and reason of a run whose job has not begun."""
    return _WAITING.get(job.state, "Queued"), f"Slurm: {job.reason or job.state}"


def describe_end(run: RunFolder, job: Job) -> tuple[str, str]:
    """Return status and reason of a run whose job is over, but whose agent said nothing."""
    number = (read_json(job_path(run)) or {}).get("job", "?")
    if job.state.startswith("CANCELLED"):
        return "Canceled", f"Slurm's job {number} was canceled"
    if not job.state:
        return "Failed", f"Slurm no longer knows job {number}"
    return "Failed", f"Slurm's job {number} ended in {job.state}"


def cancel(run: RunFolder) -> None:
    """Stop the job of a run: politely where its agent has begun."""
    number = str((read_json(job_path(run)) or {}).get("job", ""))
    if os.path.exists(run.agent):
        slurm_client.call("scancel", "--batch", "--signal=TERM", number)
    else:
        slurm_client.cancel(number)
    _answers.pop(number, None)
