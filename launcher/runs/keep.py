"""Removing old runs: only those that the launcher has made, and that have ended for certain.

A run's folder has a plan.json that says whose it is. It has ended when each plan of its nodes has
an end beside it, or was written by a process of this machine that has gone (killed with SIGKILL,
say). Whatever cannot be known, a run of another machine for example, stays; so does a job of
Slurm's that was stopped or killed, which may be requeued into its folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress

from launcher.system.identity import has_certainly_gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Files of a run in a folder of --log-dir: nothing else there is removed.
_LOG_NAMES = ("rank_", "filtered_std", "times")


def remove_old(parent: str, keep: int) -> list[str]:
    """Remove the oldest ended runs in a folder until `keep` ended ones are left; return them."""
    ended = sorted(_ended_runs(parent), key=lambda run: (run[0], run[1]))
    removed = []
    for _, path, logs in ended[: max(0, len(ended) - keep)]:
        if _remove(path):
            removed.append(path)
            for folder in logs:
                _remove_logs(folder, path)
    return removed


def _ended_runs(parent: str) -> Iterator[tuple[float, str, list[str]]]:
    """Yield when each ended run began, its folder, and the folders of its logs."""
    try:
        with os.scandir(parent) as entries:
            folders = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for path in folders:
        plans = list(_read_plans(path))
        if plans and all(plan is not None and _has_ended(path, node, plan) for node, plan in plans):
            ours = [plan for _, plan in plans if plan is not None]
            yield (
                min(float(plan["started"]) for plan in ours),
                path,
                sorted({plan["log_dir"] for plan in ours}),
            )


def _read_plans(path: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield what names each node's files (`""`, `_1`), and its plan; None for one that is none."""
    try:
        names = os.listdir(path)
    except OSError:
        return
    for name in names:
        node = name.removeprefix("plan").removesuffix(".json")
        if f"plan{node}.json" == name and (not node or node[1:].isdigit()):
            yield node, _read_plan(path, name)


def _read_plan(path: str, name: str) -> dict[str, Any] | None:
    plan = _read(path, name)
    is_ours = (
        plan is not None
        and isinstance(plan.get("launcher"), str)
        and isinstance(plan.get("started"), (int, float))
        and isinstance(plan.get("log_dir"), str)
        and isinstance(plan.get("process"), dict)
        and plan.get("name") == os.path.basename(path)
    )
    return plan if is_ours else None


def _read(path: str, name: str) -> dict[str, Any] | None:
    try:
        with open(os.path.join(path, name), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _has_ended(path: str, node: str, plan: dict[str, Any]) -> bool:
    end = _read(path, f"end{node}.json")
    if end is None:
        # A job that Slurm has killed may come back, as one that it has stopped.
        return not _is_of_slurm(path) and has_certainly_gone(plan["process"])
    return end.get("status") != "stopped" or not _is_of_slurm(path)


def _is_of_slurm(path: str) -> bool:
    return os.path.lexists(os.path.join(path, "slurm_job"))


def _remove(folder: str) -> bool:
    """Remove a folder with all that is in it; False where something stays."""
    import shutil  # takes ten milliseconds, and nearly no launch needs it

    # What says whose it is goes last: should this be cut short, the next one finds it again.
    try:
        with os.scandir(folder) as found:
            entries = list(found)
        for entry in entries:
            if entry.name.startswith(("plan", "end")) and entry.name.endswith(".json"):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        shutil.rmtree(folder)
    except OSError:
        return False
    return True


def _remove_logs(folder: str, run_dir: str) -> None:
    """Remove the logs of a removed run from a folder of --log-dir."""
    if os.path.dirname(folder) == run_dir:
        return  # they were in the run's own folder
    for base, _, names in os.walk(folder, topdown=False):
        for name in names:
            if name.startswith(_LOG_NAMES):
                with suppress(OSError):
                    os.unlink(os.path.join(base, name))
        with suppress(OSError):  # one with files of the user's own stays
            os.rmdir(base)
