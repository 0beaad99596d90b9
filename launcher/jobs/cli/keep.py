"""Commands about what is kept: download, delete, undelete, purge, export, reindex."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import time

from launcher.errors import UsageError
from launcher.jobs import files, index, snapshot
from launcher.jobs.cli import search
from launcher.jobs.cli.answer import Answer
from launcher.jobs.cli.look import look_at
from launcher.jobs.cli.table import show_bytes
from launcher.jobs.errors import JobsError
from launcher.jobs.store import cannot_write

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from launcher.jobs.store import Store
    from launcher.jobs.workspace import Workspace


def download(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Copy files of a run into a folder."""
    record = look_at(workspace, options.run)
    start = files.clean_name(options.path)
    every = files.names_of(record.run, record.asked)
    chosen = [name for name in every if name == start or name.startswith(start + "/")]
    if not chosen:
        raise JobsError(
            f"{record.run.run_id} has no file {options.path}.",
            hint=f"Type: python -m launcher.jobs files {options.run}",
        )
    written = []
    for name in chosen:
        below = os.path.basename(name) if name == start else name
        written.append(os.path.join(options.to, below))
        files.save(record.run, record.asked, name, written[-1])
    return Answer("\n".join(written), written)


def restore_code(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Write the code of a run into a folder that does not exist yet."""
    record = look_at(workspace, options.run)
    if not record.asked.get("snapshot"):
        raise JobsError(f"{record.run.run_id} ran in a process of its own: no code is kept.")
    if os.path.exists(options.folder):
        raise UsageError(f"{options.folder} exists already.", hint="Name a new folder.")
    snapshot.restore(workspace._store, record.asked["snapshot"], options.folder)
    return Answer(options.folder, {"folder": options.folder})


def delete(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Move runs to the trash."""
    store = workspace._store
    moved = []
    for wanted in options.runs:
        record = look_at(workspace, wanted)
        if not record.is_over:
            raise JobsError(
                f"{record.run.run_id} is {record.status}.",
                hint=f"Type: python -m launcher.jobs cancel {record.run.run_id}",
            )
        _move(record.run.path, store.join("trash", record.run.run_id))
        os.utime(store.join("trash", record.run.run_id))
        moved.append(record.run.run_id)
    return Answer("\n".join(moved), moved, remark="`undelete` brings them back, `purge` does not")


def undelete(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Bring runs back from the trash."""
    store = workspace._store
    there = sorted(_trash(store), key=lambda name: -os.stat(store.join("trash", name)).st_mtime_ns)
    moved = []
    for wanted in options.runs:
        fitting = [name for name in there if name.startswith(wanted) or f"_{wanted}" in name]
        if wanted == "@":
            fitting = there[:1]  # the last one that was deleted
        if len(fitting) != 1:
            raise UsageError(
                f"{len(fitting)} runs in the trash are meant by {wanted}.",
                hint=f"There are: {', '.join(there) or 'none'}.",
            )
        _move(store.join("trash", fitting[0]), store.run(fitting[0]).path)
        moved.append(fitting[0])
    return Answer("\n".join(moved), moved)


def _trash(store: Store) -> list[str]:
    try:
        return sorted(os.listdir(store.join("trash")))
    except FileNotFoundError:
        return []


def _move(source: str, target: str) -> None:
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.rename(source, target)
    except OSError as error:
        raise cannot_write(target, error) from None


def purge(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Remove for good what is in the trash, and code that no run has any more."""
    store = workspace._store
    before = time.time() - search.seconds_of(options.older_than)
    gone = []
    for run_id in _trash(store):
        path = store.join("trash", run_id)
        if os.stat(path).st_mtime <= before:
            shutil.rmtree(path)
            gone.append(run_id)
    _remove_unfinished(store)
    freed = _remove_unused_code(store)
    text = f"{len(gone)} runs removed, {show_bytes(freed)} of code that no run has any more"
    return Answer(text, {"runs": gone, "bytes": freed})


def _remove_unfinished(store: Store) -> None:
    """Remove folders of runs whose submission was killed."""
    for name in _folders_in(store.join("runs")):
        path = store.join("runs", name)
        if name.startswith(".") and os.stat(path).st_mtime < time.time() - 3600:
            shutil.rmtree(path)


def _remove_unused_code(store: Store) -> int:
    """Remove snapshots of no run, and objects of no snapshot; return how many bytes that were.

    What is younger than an hour stays: somebody may be submitting it just now.
    """
    used = set()
    for folder in ("runs", "trash"):
        for run_id in os.listdir(store.join(folder)) if os.path.isdir(store.join(folder)) else ():
            try:
                with open(store.join(folder, run_id, "run.json")) as file:
                    used.add(json.load(file).get("snapshot"))
            except (OSError, ValueError):
                continue
    contents: set[str] = set()
    hour_ago = time.time() - 3600
    for name in _files_in(store.join("snapshots")):
        path = store.join("snapshots", name)
        if name[:-5] in used or os.stat(path).st_mtime > hour_ago:
            contents.update(entry[3] for entry in snapshot.files_of(store, name[:-5]))
        else:
            os.unlink(path)
    freed = 0
    for top in _folders_in(store.join("objects")):
        for name in _files_in(store.join("objects", top)):
            path = store.join("objects", top, name)
            status = os.stat(path)
            if top + name not in contents and status.st_mtime < hour_ago:
                freed += status.st_size
                os.unlink(path)
    return freed


def _files_in(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return [entry.name for entry in os.scandir(folder) if entry.is_file()]


def _folders_in(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return [entry.name for entry in os.scandir(folder) if entry.is_dir()]


def export(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Write a run as a zip archive or into MLflow, or many as a table in CSV."""
    if options.to == "mlflow":
        from launcher.jobs.cli import to_mlflow

        record = look_at(workspace, options.run or "@")
        run_id = to_mlflow.export(record)
        return Answer(f"{record.run.run_id} is {run_id} there", {"mlflow_run_id": run_id})
    if options.to == "zip":
        record = look_at(workspace, options.run or "@")
        target = options.output or f"{record.run.run_id}.zip"
        stem = target.removesuffix(".zip")
        path = shutil.make_archive(stem, "zip", os.path.dirname(record.run.path), record.run.run_id)
        return Answer(path, {"path": path})
    terms = [options.run] if options.run else []
    text = _as_csv(search.select(workspace, terms, None))
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(text)
        return Answer(options.output, {"path": options.output})
    return Answer(text.rstrip("\n"), text)


def _as_csv(rows: list[dict[str, Any]]) -> str:
    columns = [
        *("id", "experiment", "status", "reason", "created", "started", "ended", "command"),
        *("user", "host", "git_commit"),
    ]
    wanted = sorted({name for row in rows for name in row["metrics"]})
    tags = sorted({name for row in rows for name in row["tags"]})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*columns, *(f"metric.{name}" for name in wanted), *(f"tag.{t}" for t in tags)])
    for row in rows:
        cells = [row[name] for name in columns]
        cells += [row["metrics"].get(name) for name in wanted]
        writer.writerow([*cells, *(row["tags"].get(name) for name in tags)])
    return out.getvalue()


def reindex(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Make the index anew from the folders."""
    index.delete(workspace._store)
    rows = search.select(workspace, ["parent!=-"], None)
    rows += search.select(workspace, [], None)
    place = index.place(workspace._store)
    return Answer(f"{len(rows)} runs in {place}", {"runs": len(rows), "path": place})
