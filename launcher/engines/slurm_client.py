"""Slurm's commands as they are called: what it says of a job, and what is asked of it.

Whoever has jobs there uses this: a launch that was submitted, and the runs of launcher.jobs. Raises
LauncherError where a command is missing; what Slurm refuses comes back in its own words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from launcher.errors import LauncherError
from launcher.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess

# How long the answer to one question may take.
PATIENCE_S = 20.0

WAITING = frozenset(("PENDING", "CONFIGURING", "REQUEUED"))
RUNNING = frozenset(
    (*("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"), "RESIZING")
)

# How Slurm says that it knows no such job, or no longer.
_UNKNOWN = "Invalid job id"


class Job(NamedTuple):
    """What Slurm says of a job."""

    state: str  # in Slurm's word; "" when it does not know the job
    reason: str = ""

    @property
    def is_waiting(self) -> bool:
        """Whether it has not begun."""
        return self.state in WAITING

    @property
    def is_running(self) -> bool:
        """Whether it goes on."""
        return self.state in RUNNING


def call(*argv: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands to its end; LauncherError where there is none.

    One that does not answer in time has failed.
    """
    import subprocess  # many load this file and never come here

    try:
        return subprocess.run(
            argv,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=PATIENCE_S,
            check=False,
            start_new_session=True,  # Ctrl-C is for whoever asks
        )
    except FileNotFoundError:
        raise missing(argv[0]) from None
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 1, "", f"no answer within {PATIENCE_S:g} s")


def missing(program: str) -> LauncherError:
    """Return the error for a command of Slurm's that this machine does not have."""
    return LauncherError(
        f"{program} is not on the PATH: this machine has no Slurm.",
        hint="Log in to a node of the cluster, or type there: module load slurm",
    )


def submit(script: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Submit a batch script; return the job's number, or "" and what Slurm has against it."""
    done = call("sbatch", "--parsable", script, environ=environ)
    if done.returncode != 0:
        return "", done.stderr.strip()
    return done.stdout.strip().partition(";")[0], ""


def ask(number: str) -> Job:
    """Ask for the state of a job; where Slurm does not answer, the reason says why."""
    done = call("squeue", "--noheader", f"--jobs={number}", "--format=%T|%r", "--states=all")
    state, _, reason = done.stdout.strip().partition("|")
    if state:
        return Job(state, "" if reason == "None" else reason)
    if done.returncode != 0 and _UNKNOWN not in done.stderr:
        return Job("", done.stderr.strip())
    return Job(_ask_accounting(number, "State").partition(" ")[0])


def ask_exit_code(number: str) -> int | None:
    """Ask how a job that is over has ended, as a shell would show it; None where nobody knows."""
    done = call("scontrol", "show", "job", "--oneliner", number)
    found = re.search(r"\bExitCode=(\d+):(\d+)", done.stdout)
    if found is None:
        found = re.match(r"(\d+):(\d+)", _ask_accounting(number, "ExitCode"))
    if found is None:
        return None
    code, signum = int(found[1]), int(found[2])
    return 128 + signum if signum else code


def _ask_accounting(number: str, field: str) -> str:
    done = call("sacct", "-n", "-X", "-P", f"--jobs={number}", f"--format={field}")
    return done.stdout.strip() if done.returncode == 0 else ""


def find_steps(name: str) -> list[str]:
    """Return our steps of this name that have begun, as `JOB.STEP`."""
    return _select(name, call("squeue", "--noheader", "--me", "--steps", "--format=%i %j").stdout)


def find_waiting_jobs(name: str) -> list[str]:
    """Return our jobs of this name that have no nodes yet."""
    states = "--states=PENDING,CONFIGURING"
    return _select(name, call("squeue", "--noheader", "--me", states, "--format=%i %j").stdout)


def _select(name: str, listed: str) -> list[str]:
    """Return the ids of what has a name: squeue's own --name lets steps of other names through."""
    pairs = (line.partition(" ") for line in listed.splitlines())
    return [number for number, _, its in pairs if its.strip() == name]


def signal_step(step: str, signum: int) -> str:
    """Send a signal to every task of a step; return what Slurm has against it, or ""."""
    done = call("scancel", f"--signal={signum}", step)
    return done.stderr.strip() if done.returncode != 0 else ""


def cancel(number: str) -> str:
    """Cancel a job or a step: its tasks have Slurm's KillWait to end; return as above."""
    done = call("scancel", number)
    return done.stderr.strip() if done.returncode != 0 else ""
