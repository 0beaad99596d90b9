"""Commands that only look: list, show, logs, metrics, files, models, compute, envs, du, doctor."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time

from launcher.errors import UsageError
from launcher.jobs import files, history, index, metrics, repro, solver, state
from launcher.jobs.cli import search
from launcher.jobs.cli.answer import Answer
from launcher.jobs.cli.table import cut, plot, render, show_age, show_bytes, show_number, show_tags
from launcher.jobs.follow import follow
from launcher.jobs.logs import LogReader, as_text
from launcher.jobs.screen import show
from launcher.jobs.store import read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from typing import Any

    from launcher.jobs.store import Store
    from launcher.jobs.workspace import Workspace

# Entries that are copied whole.
_PATHS = ("run", "source", "command", "folder")

_HEAD = ("RUN", "EXPERIMENT", "STATUS", "AGE", "TIME", "N", "WHAT")


def look_at(workspace: Workspace, wanted: str) -> state.Record:
    """Return everything about the run that is meant."""
    record = state.look(search.find_one(workspace, wanted))
    if record is None:
        raise UsageError(f"The run {wanted} has gone.")
    return record


def list_runs(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """List runs, newest first."""
    limit = None if options.all else options.number
    rows = search.select(workspace, options.filter, limit)
    wanted = options.columns.split(",") if options.columns else []
    table = [_row(row, wanted) for row in rows]
    text = render(
        [*_HEAD[:6], *wanted, _HEAD[6]], table, options.width, is_colourful=options.colour
    )
    remark = ""
    if limit is not None and len(rows) == limit:
        remark = f"the newest {limit}; --all lists the others, too"
    return Answer(text if rows else "no runs", rows, remark=remark)


def _row(row: dict[str, Any], wanted: list[str]) -> list[str]:
    now = time.time()
    began = row["started"] or row["created"]
    took = (row["ended"] or now) - began
    shown = [show_number(row["metrics"].get(name, row["tags"].get(name, ""))) for name in wanted]
    what = row["reason"] or ""
    if not what:
        others = [
            f"{name}={show_number(value)}"
            for name, value in row["metrics"].items()
            if name not in wanted and value is not None
        ]
        tags = [f"{key}:{value}" if value else key for key, value in row["tags"].items()]
        what = " ".join([*tags, *others]) or row["display_name"] or row["command"]
    return [
        short_id(row["id"]),
        cut(row["experiment"] or "", 14),
        row["status"],
        show_age(now - row["created"]),
        show_age(took),
        str(row["processes"]),
        *shown,
        what,
    ]


def short_id(run_id: str) -> str:
    """Return what is enough to name a run: the random letters of an id that we made."""
    tail = run_id.rpartition("_")[2]
    return tail if len(tail) == 8 and run_id.count("_") >= 2 else run_id


def show_run(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Show one run: state, cause, command, environment, metrics, files."""
    record = look_at(workspace, options.run)
    details = history.details_of(record)
    summary = (record.end or {}).get("metrics") or metrics.summarize(
        metrics.read(record.run.metrics)
    )
    names = files.names_of(record.run, record.asked)
    data = {**details, "metrics": summary, "files": names, "tags": record.added.tags}
    data["notes"] = [text for _, text in record.added.notes]
    git = record.asked.get("git") or {}
    definition = record.asked.get("definition") or {}
    lines = [
        ("run", record.run.run_id),
        ("name", record.added.display_name or ""),
        ("status", record.status + (f": {record.reason}" if record.reason else "")),
        ("created", f"{_local(record.created)} by {record.asked.get('user', '')}"),
        ("took", show_age((record.ended or time.time()) - (record.started or record.created))),
        ("command", index.command_of(definition)),
        ("source", record.asked.get("source_directory") or ""),
        ("commit", _commit_of(git)),
        ("python", _environment_of(record, details["properties"])),
        ("target", f"{details['target']} on {(record.asked.get('submitter') or {}).get('host')}"),
        ("tags", show_tags(record.added.tags)),
        (
            "metrics",
            "  ".join(f"{name}={show_number(one['last'])}" for name, one in summary.items()),
        ),
        ("files", f"{len(names)}: {', '.join(names[:6])}" + (" ..." if len(names) > 6 else "")),
        ("folder", record.run.path),
        *(("note", text) for _, text in record.added.notes),
        *(("warning", text) for text in record.asked.get("warnings") or ()),
    ]
    text = "\n".join(_labelled(name, value, options.width) for name, value in lines if value)
    report = ((record.error or {}).get("error") or {}).get("details") or {}
    if report.get("traceback"):
        text += f"\n\n{report['traceback'].rstrip()}"
    return Answer(text, data)


def _labelled(name: str, value: str, width: int) -> str:
    """Return one entry; what has many words goes on below them."""
    label = f"{name + ':':<9}"
    if name in _PATHS:
        return label + value
    lines = textwrap.wrap(value, max(40, width - len(label)), break_long_words=False)
    return label + f"\n{' ' * len(label)}".join(lines)


def _environment_of(record: state.Record, properties: dict[str, str]) -> str:
    """Return in which Python a run is, where that is not the one that submitted it."""
    built = read_json(record.run.join("environment.json")) or {}
    named = properties.get("environment", "")
    return "; ".join(filter(None, [named, built.get("interpreter"), *built.get("notes", ())]))


def _commit_of(git: dict[str, Any]) -> str:
    changed = "with the changes in git.diff" if git.get("dirty") else ""
    words = (git.get("commit", "")[:12], git.get("branch", ""), changed)
    return " ".join(word for word in words if word)


def _local(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def logs(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Print the log of a run; with -f as it comes, until the run has ended."""
    record = look_at(workspace, options.run)
    rank = None if options.rank == "all" else _rank(options.rank)
    tagged = files.driver_log_name(record.asked).endswith("_0.txt") if _is_script(record) else False
    if rank is not None and not tagged:
        if rank > 0:
            raise UsageError(f"{record.run.run_id} has one rank only.")
        rank = None
    if options.follow and not options.json:
        for text in follow(record.run, rank):
            show(text, end="")
        return Answer("")
    if options.follow:
        state.wait(record.run)
    if not os.path.exists(record.run.driver_log):
        return Answer("", "", remark=f"{record.status}: there is no output yet")
    text = as_text(LogReader(record.run, rank).read(is_over=True))
    return Answer(text.removesuffix("\n"), text)


def _is_script(record: state.Record) -> bool:
    return "definition" in record.asked


def _rank(text: str) -> int:
    if not text.isdigit():
        raise UsageError(f"--rank {text}: a number, or `all`, is one.")
    return int(text)


def show_metrics(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Show the metrics of a run: a summary, one series, a plot, or CSV."""
    record = look_at(workspace, options.run)
    found = metrics.read(record.run.metrics)
    if options.name:
        if options.name not in found:
            raise UsageError(
                f"{record.run.run_id} has no metric {options.name}.",
                hint=f"It has: {', '.join(found)}." if found else "It has none.",
            )
        found = {options.name: found[options.name]}
    data = {name: series.plain() for name, series in found.items()}
    if options.csv:
        return Answer("\n".join(_csv_lines(found)), data)
    if options.plot:
        plots = [
            plot(name, [float(value) for value in series.values], options.width)
            for name, series in found.items()
            if not series.kind and all(isinstance(value, (int, float)) for value in series.values)
        ]
        return Answer("\n\n".join(plots) or "no numbers", data)
    if options.name:
        return Answer("\n".join(map(str, found[options.name].values)), data)
    rows = [
        [name, str(one["count"]), *(show_number(one[key]) for key in ("last", "min", "max"))]
        for name, one in metrics.summarize(found).items()
    ]
    text = render(["METRIC", "COUNT", "LAST", "MIN", "MAX"], rows, options.width, flexible=0)
    return Answer(text if rows else "no metrics", data)


def _csv_lines(found: dict[str, metrics.Series]) -> Iterable[str]:
    yield "name,number,step,time,value"
    for name, series in found.items():
        rows = zip(series.values, series.steps, series.times, strict=True)
        for number, (value, step, at) in enumerate(rows):
            cells = (json.dumps(name), number, "" if step is None else step, at, json.dumps(value))
            yield ",".join(map(str, cells))


def list_files(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """List the files of a run."""
    record = look_at(workspace, options.run)
    names = files.names_of(record.run, record.asked)
    return Answer("\n".join(names) or "no files", names)


def list_models(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """List registered models, the newest version of each first."""
    from launcher.jobs.model import Model

    models = Model.list(workspace, options.name)
    rows = [
        [
            model.name,
            str(model.version),
            show_age(time.time() - model.created_time.timestamp()),
            show_bytes(model._found.get("bytes", 0)),
            short_id(model.run_id or ""),
            show_tags(model.tags),
        ]
        for model in models
    ]
    text = render(["MODEL", "VERSION", "AGE", "SIZE", "RUN", "TAGS"], rows, options.width)
    return Answer(text if rows else "no models", [model.serialize() for model in models])


def list_compute(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """List compute targets and how many of their slots are taken."""
    from launcher.jobs.compute import AmlCompute, ComputeTarget

    if options.add:
        ComputeTarget.create(
            workspace,
            options.add,
            AmlCompute.provisioning_configuration(
                max_nodes=options.slots, devices=options.gpus.split(",") if options.gpus else ()
            ),
        )
    targets = ComputeTarget.list(workspace)
    states = [target.get_status() for target in targets]
    rows = [
        [target.name, target.kind, "any" if one._limit is None else str(one._limit), str(one._busy)]
        for target, one in zip(targets, states, strict=True)
    ]
    text = render(["TARGET", "TYPE", "SLOTS", "BUSY"], rows, options.width)
    return Answer(text, [target.serialize() for target in targets])


def list_environments(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """List registered environments and those that were built; remove what nobody uses."""
    from launcher.jobs import packages
    from launcher.jobs.environment import Environment

    if options.prune:
        gone = packages.prune(time.time() - search.seconds_of(options.prune))
        return Answer(f"{len(gone)} environments removed", gone)
    found = Environment.list(workspace)
    rows = [
        [name, str(one.version), " ".join(one.python.conda_dependencies.wanted_pip_packages())]
        for name, one in found.items()
    ]
    built = packages.list_built()
    rows += [
        [f"built {os.path.basename(one.folder)[:8]}", "", ", ".join(one.packages)] for one in built
    ]
    text = render(["ENVIRONMENT", "VERSION", "PACKAGES"], rows, options.width)
    data = {
        "registered": {name: one.definition() for name, one in found.items()},
        "built": [{"folder": one.folder, "packages": one.packages} for one in built],
    }
    return Answer(text if rows else "no environments", data)


def disk_usage(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Say where the disk went: runs, code, models, trash."""
    store = workspace._store
    sizes = {name: _size_of(store.join(name)) for name in ("objects", "models", "data", "trash")}
    runs = {run_id: _size_of(store.run(run_id).path) for run_id in store.run_ids()}
    sizes["runs"] = sum(runs.values())
    biggest = sorted(runs.items(), key=lambda item: -item[1])[:10]
    rows = [[name, show_bytes(size)] for name, size in sorted(sizes.items(), key=lambda i: -i[1])]
    text = render(["WHAT", "SIZE"], rows, options.width)
    if biggest:
        text += "\n\n" + render(
            ["RUN", "SIZE"], [[name, show_bytes(size)] for name, size in biggest], options.width
        )
    return Answer(text, {"sizes": sizes, "runs": runs})


def _size_of(folder: str) -> int:
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(top, name)).st_blocks * 512
            except OSError:
                continue
    return total


def doctor(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Check the store and what the run layer uses."""
    store = workspace._store
    checks = [_check_store(store), _check_index(workspace), _check_disk(store)]
    installed = repro.packages_on(sys.path)
    for package, use in (("pyyaml", "conda specifications"), ("pathspec", "ignore files")):
        version = installed.get(package)
        checks.append(
            (
                package,
                version is not None,
                version or f"missing; {use} need it: pip install 'launcher[jobs]'",
            )
        )
    conda = solver.find()
    name = os.path.basename(conda) if conda else "conda"
    checks.append((name, True, conda or "not there; packages of conda's come from PyPI"))
    for program, use in (
        ("git", "what a run has beside its commit"),
        ("mpirun", "scripts of mpi4py"),
        ("uv", "faster environments"),
    ):
        path = shutil.which(program)
        checks.append((program, True, path or f"not on the PATH; it is for {use}"))
    width = max(len(name) for name, _, _ in checks)
    text = "\n".join(
        f"{'ok ' if is_fine else 'BAD'}  {name.ljust(width)}  {words}"
        for name, is_fine, words in checks
    )
    is_fine = all(good for _, good, _ in checks)
    data = [{"what": name, "ok": good, "says": words} for name, good, words in checks]
    return Answer(text, data, 0 if is_fine else 1)


def _check_store(store: Store) -> tuple[str, bool, str]:
    from launcher.jobs.errors import StoreException

    try:
        store.open_for_writing()
        probe = store.join("changes", ".doctor")
        open(probe, "w").close()
        os.unlink(probe)
    except (OSError, StoreException) as error:
        return "store", False, f"{store.root}: {error}"
    return "store", True, f"{store.root}, layout {store.info.get('version')}"


def _check_index(workspace: Workspace) -> tuple[str, bool, str]:
    rows = search.select(workspace, [], None)
    broken = [
        run_id
        for run_id in workspace._store.run_ids()
        if read_json(workspace._store.run(run_id).asked) is None
    ]
    if broken:
        return "runs", False, f"{len(broken)} folders without a run.json: {', '.join(broken[:3])}"
    return "runs", True, f"{len(rows)}, index at {index.place(workspace._store)}"


def _check_disk(store: Store) -> tuple[str, bool, str]:
    try:
        free = shutil.disk_usage(store.root).free
    except OSError as error:
        return "disk", False, str(error)
    return "disk", free > 1 << 30, f"{show_bytes(free)} free"
