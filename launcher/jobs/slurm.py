"""Runs on a Slurm cluster: handed over by sbatch, looked up by squeue, stopped by scancel.

The agent of such a run is the batch script's own process, on the first node of the job; what it
writes lies in the store, which must be on a file system that the nodes share.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from typing import NamedTuple

from launcher.jobs.configuration import shape_of
from launcher.jobs.engine import PACKAGE_ROOT
from launcher.jobs.errors import ComputeTargetException
from launcher.jobs.store import RunFolder, read_json, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
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

# A warning before the time limit, which reaches the ranks as SIGUSR1.
_WARNING = "B:USR1@90"

# How old an answer of Slurm's may be: login nodes are shared, and states are asked for in loops.
_FRESH_S = 2.0

# How long the answer to one question may take.
_PATIENCE_S = 20.0

_WAITING = {"PENDING": "Queued", "CONFIGURING": "Provisioning", "REQUEUED": "Queued"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}


class Job(NamedTuple):
    """What Slurm says of a job."""

    state: str  # in Slurm's word; "" when it does not know the job
    reason: str


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
    done = _call("sbatch", "--parsable", script, environ=environ)
    if done.returncode != 0:
        raise ComputeTargetException(f"sbatch refused the run: {done.stderr.strip()}")
    number, _, cluster = done.stdout.strip().partition(";")
    write_json(job_path(run), {"job": number, "cluster": cluster})


def make_script(run: RunFolder, asked: dict[str, Any], settings: dict[str, Any]) -> str:
    """Return the batch script of a run."""
    shape = shape_of(asked["definition"])
    per_node = shape.num_processes // shape.num_nodes
    tasks = per_node if shape.num_nodes > 1 else 1
    options = [
        f"--job-name={asked['experiment']}",
        f"--nodes={shape.num_nodes}",
        f"--ntasks-per-node={tasks}",
        f"--output={run.join('agent.log')}",
        "--open-mode=append",
        "--requeue",
        f"--signal={_WARNING}",
        *(f"--{name}={settings[name]}" for name in _OPTIONS if settings.get(name)),
        *(settings.get("extra") or []),
    ]
    if tasks == 1 and per_node > 1:
        options.append(f"--cpus-per-task={per_node}")
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
        job = _ask(number)
        _answers[number] = (time.monotonic(), job)
    return job


def _ask(number: str) -> Job:
    done = _call("squeue", "--noheader", f"--jobs={number}", "--format=%T|%r", "--states=all")
    state, _, reason = done.stdout.strip().partition("|")
    if state:
        return Job(state, "" if reason == "None" else reason)
    done = _call("sacct", "-n", "-X", "-P", f"--jobs={number}", "--format=State")
    words = done.stdout.split()
    return Job(words[0] if done.returncode == 0 and words else "", "")


def is_waiting(job: Job) -> bool:
    """Tell whether a job has not begun."""
    return job.state in _WAITING


def is_running(job: Job) -> bool:
    """Tell whether a job goes on."""
    return job.state in _RUNNING


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
        _call("scancel", "--batch", "--signal=TERM", number)
    else:
        _call("scancel", number)
    _answers.pop(number, None)


def _call(*argv: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    import subprocess  # an agent loads this file, and never comes here

    try:
        return subprocess.run(
            argv, env=environ, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except FileNotFoundError:
        raise ComputeTargetException(
            f"{argv[0]} is not on the PATH: this machine has no Slurm."
        ) from None
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 1, "", f"no answer within {_PATIENCE_S:g} s")
