"""What a run is now: asked, added, ended, and the status that follows. A status cannot lie.

A run that has not ended is one whose process lives; each look asks the kernel. Where it has gone
without a word, whoever looks first writes down that it has.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from launcher.jobs import alive, journal, slurm
from launcher.jobs.store import RunFolder, read_json, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TERMINAL = ("Completed", "Failed", "Canceled")

# How often a waiter looks where the kernel cannot wake it: another host, or a time limit.
_POLL_S = 0.05

# How long a job that Slurm does not name may still be one that it is just taking in, or ending.
_UNKNOWN_S = 60.0


class Record(NamedTuple):
    """Everything about one run that is no output of it."""

    run: RunFolder
    asked: dict[str, Any]
    added: journal.Added
    end: dict[str, Any] | None
    status: str
    reason: str

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL

    @property
    def created(self) -> float:
        created: float = self.asked.get("created", 0.0)
        return created

    @property
    def started(self) -> float | None:
        """When the user's code began."""
        return next((at for at, status, _ in self.added.states if status == "Running"), None)

    @property
    def ended(self) -> float | None:
        ended: float | None = self.end.get("ended") if self.end else None
        return ended

    @property
    def error(self) -> dict[str, Any] | None:
        """What went wrong, as `get_details()["error"]` has it."""
        error: dict[str, Any] | None = self.end.get("error") if self.end else None
        return error


def look(run: RunFolder) -> Record | None:
    """Look at a run, and write down its end if its process has gone; None where there is no run."""
    asked = read_json(run.asked)
    if asked is None:
        return None
    end = read_json(run.end)
    if end is None:
        end = _find_end(run, asked)
    added = journal.add_up(journal.read(run), asked)
    status, reason = _tell_status(run, asked, added, end)
    return Record(run, asked, added, end, status, reason)


def wait(run: RunFolder, timeout_s: float | None = None) -> Record | None:
    """Wait until a run has ended or the time is up; return what it is then."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        record = look(run)
        if record is None or record.is_over:
            return record
        if deadline is None:
            if alive.wait_free(run, alive.holder(run, record.asked)):
                continue
        elif time.monotonic() > deadline:
            return record
        time.sleep(_POLL_S)


def _tell_status(
    run: RunFolder, asked: dict[str, Any], added: journal.Added, end: dict[str, Any] | None
) -> tuple[str, str]:
    if end is not None:
        return end.get("status", "Failed"), end.get("reason", "")
    if os.path.exists(run.cancel):
        by = (read_json(run.cancel) or {}).get("user", "")
        return "CancelRequested", f"asked for by {by}" if by else ""
    if asked.get("is_slurm") and not os.path.exists(run.agent):
        return slurm.waiting_status(slurm.look(run))
    if alive.life_of(run, alive.holder(run, asked)) == "silent":
        ago = time.time() - alive.last_sign(run)
        return "NotResponding", f"no sign of life for {ago:.0f} s"
    if added.states:
        return added.states[-1][1:]
    return "Starting", ""


def _find_end(run: RunFolder, asked: dict[str, Any]) -> dict[str, Any] | None:
    """Return the end of a run that has no record of it; None when it goes on."""
    who = alive.holder(run, asked)
    life = _life_of(run, asked, who)
    if life in ("alive", "silent"):
        return None
    with alive.Burial(run) as is_ours:
        written: dict[str, Any] | None = read_json(run.end)
        if written is not None or not is_ours:
            return written
        added = journal.add_up(journal.read(run), asked)
        end = make_end(run, asked, added, who, life)
        try:
            write_json(run.end, end)
        except OSError:
            pass  # a store that can only be read: the next look finds the same
        return end


def _life_of(run: RunFolder, asked: dict[str, Any], who: dict[str, Any]) -> alive.Life:
    """Tell whether who looks after a run lives; Slurm is asked where the kernel cannot be."""
    if not asked.get("is_slurm"):
        return alive.life_of(run, who)
    if not os.path.exists(slurm.job_path(run)):  # sbatch has not answered yet
        return alive.life_of(run, who)
    if os.path.exists(run.agent):
        life = alive.life_of(run, who)
        if life == "alive":
            return life
    job = slurm.look(run)
    if slurm.goes_on(job):
        return "alive"
    is_recent = time.time() - alive.last_sign(run) < _UNKNOWN_S
    return "alive" if not job.state and is_recent else "gone"


def make_end(
    run: RunFolder,
    asked: dict[str, Any],
    added: journal.Added,
    who: dict[str, Any],
    life: alive.Life,
) -> dict[str, Any]:
    """Return what is written for a run whose process has gone without a word."""
    sign = alive.last_sign(run)
    at = time.strftime("%H:%M:%S", time.localtime(sign))
    what = "agent" if asked.get("type") == "azureml.scriptrun" else "process"
    name = f"the {what} on {who.get('host', '?')} (pid {who.get('pid', '?')})"
    if asked.get("is_slurm"):
        job = slurm.look(run)
        left: dict[str, Any] | None = read_json(run.left)
        if left is not None and not job.state:
            return left  # all that anybody knows
        status, reason = slurm.describe_end(run, job)
        slurm_end: dict[str, Any] = {
            **(left or {"ended": sign}),
            "status": status,
            "reason": reason,
        }
        if status == "Failed":
            slurm_end["error"] = make_error("Slurm", reason, report=find_report(run))
        return slurm_end
    if os.path.exists(run.cancel):
        return {"status": "Canceled", "reason": f"{name} was killed", "ended": sign}
    if life == "rebooted":
        reason = f"{who.get('host', '?')} was started anew while it ran; last sign of life {at}"
    elif not os.path.exists(run.agent):
        reason = f"the submitting process (pid {who.get('pid', '?')}) ended before {name} began"
    else:
        stopped = "; its ranks were stopped" if what == "agent" else ""
        reason = f"{name} was killed; last sign of life {at}{stopped}"
    report = find_report(run)
    error = make_error("AgentKilled", reason, report=report)
    return {"status": "Failed", "reason": reason, "ended": sign, "error": error}


def find_report(run: RunFolder) -> dict[str, Any] | None:
    """Return the launcher's failure report of this run, if there is one."""
    return _find_left(run, "report.json")


def find_launcher_end(run: RunFolder) -> dict[str, Any] | None:
    """Return what the launcher has written about its own end, if it has come to that."""
    return _find_left(run, "end.json")


def _find_left(run: RunFolder, file_name: str) -> dict[str, Any] | None:
    """Return what the launcher's newest folder with such a file has in it."""
    try:
        folders = sorted(os.listdir(run.launcher))
    except OSError:
        return None
    for name in reversed(folders):
        found: dict[str, Any] | None = read_json(os.path.join(run.launcher, name, file_name))
        if found is not None:
            return found
    return None


def make_error(code: str, message: str, *, report: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return an error as `get_details()["error"]` shows it."""
    inner: dict[str, Any] = {"code": code, "message": message}
    if report is not None:
        inner["rank"] = report.get("rank", -1)
        inner["details"] = report
    return {"error": inner}


def describe_report(report: dict[str, Any]) -> str:
    """Return one line for a failure report: which rank, and why."""
    rank = report.get("rank", -1)
    kind, message = report.get("error_type", ""), report.get("error_message", "")
    what = f"{kind}: {message}".strip(": ") if kind or message else report.get("what", "")
    first = what.splitlines()[0] if what else "failed"
    return f"rank {rank}: {first}" if rank >= 0 else first
