"""Runs that this process looks after itself: `start_logging`, and children of a run.

They need no agent: their lock is held here, so they end with this process at the latest.
"""

from __future__ import annotations

import atexit
import os
import sys
import time

from launcher.jobs import alive, journal, metrics, state
from launcher.jobs.run import Run
from launcher.jobs.store import read_json, write_json
from launcher.jobs.submit import make_run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from launcher.jobs.experiment import Experiment
    from launcher.jobs.store import Store

_KIND = "azureml.interactiverun"

# Runs of this process that have not ended; at its end they do.
_open: dict[str, Run] = {}


def begin(
    store: Store, experiment: str, *, of: Experiment | None = None, run_id: str = "", **more: Any
) -> Run:
    """Begin a run that this process looks after."""
    folder, lock = make_run(store, experiment, _KIND, run_id=run_id, **more)
    alive.write_agent(folder)
    run = Run._at(folder.path)
    run._known_experiment = of
    run._lock = lock
    journal.append(folder, "state", status="Running", reason="")
    if not _open:
        atexit.register(_end_all, os.getpid())
    _open[folder.path] = run
    return run


def begin_child(parent: Run, name: str | None, run_id: str | None) -> Run:
    """Begin a run below another one."""
    experiment = parent.experiment
    return begin(
        experiment.workspace._store,
        experiment.name,
        of=experiment,
        run_id=run_id or "",
        parent=parent.id,
        display_name=name,
    )


def end(run: Run, status: str, reason: str = "", code: str = "") -> None:
    """Write down how a run of this process ended, and let go of its lock."""
    folder = run._folder
    record: dict[str, Any] = {
        "status": status,
        "reason": reason,
        "ended": time.time(),
        "metrics": metrics.summarize(metrics.read(folder.metrics)),
    }
    if status == "Failed":
        record["error"] = state.make_error(code or "UserError", reason or "run.fail() was called")
    if read_json(folder.end) is None:
        write_json(folder.end, record, is_lasting=True)
    os.close(run._lock)
    run._lock = -1
    _open.pop(folder.path, None)


def _end_all(pid: int) -> None:
    """End what is open when the interpreter does, as failed where an exception ended it."""
    if os.getpid() != pid:
        return  # a forked child: the runs are its parent's
    error = getattr(sys, "last_value", None)
    for run in list(_open.values()):
        if error is not None:
            end(run, "Failed", f"{type(error).__name__}: {error}")
        else:
            end(run, "Completed", "the process ended without run.complete()")
