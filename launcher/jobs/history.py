"""Runs of the past and of now: how they are found, described, stopped.

Answers what Run and Experiment are asked; owns no data.
"""

from __future__ import annotations

import json
import os
import signal
import time

from launcher.jobs import alive, files, index, journal, slurm
from launcher.jobs.errors import ActivityFailedException, JobsError
from launcher.jobs.run import Run, ScriptRun
from launcher.jobs.store import read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from typing import Any

    from launcher.jobs.state import Record
    from launcher.jobs.workspace import Workspace


def run_at(path: str, kind: str | None = "azureml.scriptrun") -> Run:
    """Return the run in a folder."""
    return (ScriptRun if kind == "azureml.scriptrun" else Run)._at(path)


def find_run(workspace: Workspace, run_id: str) -> Run:
    """Return a run by its id."""
    folder = workspace._store.run(run_id)
    if not run_id or not os.path.exists(folder.asked):
        raise JobsError(
            f"There is no run {run_id} in {workspace._store.root}.",
            hint="Type: python -m launcher.jobs list",
        )
    return run_at(folder.path)


def find_runs(
    workspace: Workspace,
    experiment: str | None,
    *,
    parent: str | None = None,
    kind: str | None = None,
    tags: object = None,
    properties: dict[str, str] | None = None,
    status: str | None = None,
    include_children: bool = False,
) -> Iterator[Run]:
    """Yield the runs that fit, newest first; tags: a name, or names with their values."""
    where: list[str] = []
    values: list[str] = []
    for column, value in (("experiment", experiment), ("parent", parent), ("type", kind)):
        if value is not None:
            where.append(f"{column} = ?")
            values.append(value)
    if status is not None:
        where.append("status = ?")
        values.append(status)
    if not include_children:
        where.append("parent IS NULL")
    wanted = {tags: None} if isinstance(tags, str) else dict(tags or {})  # type: ignore[call-overload]
    for table, pairs in (("tag", wanted), ("property", dict(properties or {}))):
        for key, value in pairs.items():
            where.append(
                f"id IN (SELECT run FROM {table} WHERE key = ?"
                + (" AND value = ?)" if value is not None else ")")
            )
            values += [key] if value is None else [key, _as_text(value)]
    condition = " AND ".join(where) or "1"
    sql = f"SELECT id, type FROM run WHERE {condition} ORDER BY created DESC, id DESC"

    def ask(connection: sqlite3.Connection) -> list[Any]:
        return connection.execute(sql, values).fetchall()

    for run_id, found_kind in index.read(workspace._store, ask):
        yield run_at(workspace._store.run(run_id).path, found_kind)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def number_of(run: Run) -> int:
    """Return which run of its experiment this is, counted from 1."""
    asked = run._asked

    def ask(connection: sqlite3.Connection) -> int:
        sql = "SELECT count(*) FROM run WHERE experiment = ? AND (created, id) <= (?, ?)"
        found = connection.execute(sql, (asked["experiment"], asked["created"], run.id))
        return int(found.fetchone()[0])

    return index.read(run.experiment.workspace._store, ask)


def properties_of(record: Record) -> dict[str, str]:
    """Return the properties of a run, with those that it has from its snapshot and from git."""
    asked = record.asked
    git = asked.get("git") or {}
    made = {
        "ContentSnapshotId": asked.get("snapshot"),
        "_azureml.ComputeTargetType": "local" if "definition" in asked else None,
        "azureml.git.repository_uri": git.get("remote"),
        "azureml.git.branch": git.get("branch"),
        "azureml.git.commit": git.get("commit"),
        "azureml.git.dirty": "True" if git.get("dirty") else None,
    }
    return {**{key: value for key, value in made.items() if value}, **record.added.properties}


def details_of(record: Record) -> dict[str, Any]:
    """Return everything about a run in one dict."""
    asked = record.asked
    definition = asked.get("definition")
    details: dict[str, Any] = {
        "runId": record.run.run_id,
        "target": (definition or {}).get("target", "sdk"),
        "status": record.status,
    }
    if record.started is not None:
        details["startTimeUtc"] = as_utc(record.started)
    if record.ended is not None:
        details["endTimeUtc"] = as_utc(record.ended)
    if record.reason:
        details["statusReason"] = record.reason
    details["properties"] = properties_of(record)
    details["inputDatasets"] = []
    details["outputDatasets"] = []
    if definition is not None:
        details["runDefinition"] = definition
    details["logFiles"] = {
        name: "file://" + (record.run.build_log if "build" in name else record.run.driver_log)
        for name in files.log_names(record.run, asked)
    }
    details["submittedBy"] = asked.get("user", "")
    if record.error is not None:
        details["error"] = record.error
    if asked.get("warnings"):
        details["warnings"] = [{"source": "submit", "message": text} for text in asked["warnings"]]
    return details


def as_utc(seconds: float) -> str:
    """Return a time as details have it."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1e6):06d}Z"


def raise_if_failed(record: Record) -> None:
    """Raise ActivityFailedException for a run that failed, with rank, cause and traceback."""
    if record.status != "Failed":
        return
    inner = (record.error or {}).get("error") or {}
    report = inner.get("details") or {}
    trace = report.get("traceback", "").strip()
    message = f"{record.run.run_id} failed: {record.reason}"
    if trace:
        message += f"\n{trace}"
    raise ActivityFailedException(
        message,
        error=record.error,
        hint=f"\nAll its output: python -m launcher.jobs logs {record.run.run_id}",
    )


def cancel(record: Record) -> bool:
    """Ask a run and its children to end; return whether there was anything to stop."""
    if record.is_over:
        return False
    from launcher.jobs.submit import user_name

    try:
        with open(record.run.cancel, "x", encoding="utf-8") as file:
            json.dump({"user": user_name(), "t": time.time(), "host": os.uname().nodename}, file)
    except FileExistsError:
        pass  # somebody was first; the signal forces then
    journal.append(record.run, "cancel", user=user_name())
    if record.asked.get("is_slurm"):
        slurm.cancel(record.run)
    elif record.asked.get("type") == "azureml.scriptrun":
        # Not before there is an agent: it looks for cancel.json after it has said who it is.
        alive.send_signal_to(read_json(record.run.agent) or {}, signal.SIGTERM)
    run: Run = run_at(record.run.path)
    for child in run.get_children():
        cancel(child._look())
    return True
