"""Why two runs differ: arguments, code, packages, metrics. Answers `compare` and `diff`."""

from __future__ import annotations

import difflib
import os

from launcher.errors import UsageError
from launcher.jobs import index, metrics, snapshot
from launcher.jobs.cli.answer import Answer
from launcher.jobs.cli.look import look_at, short_id
from launcher.jobs.cli.table import render, show_number
from launcher.jobs.store import Store, read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from launcher.jobs.state import Record
    from launcher.jobs.workspace import Workspace


def compare(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Show what differs between runs."""
    records = [look_at(workspace, wanted) for wanted in options.runs]
    if len(records) < 2:
        raise UsageError("One run is compared with nothing.", hint="Type: compare @ @2")
    found = compare_records(records)
    return Answer(render_comparison(found, options.width), found)


def compare_records(records: list[Record]) -> dict[str, Any]:
    """Return what differs, kind by kind: {name: [value of each run]}."""
    found: dict[str, Any] = {"runs": [record.run.run_id for record in records]}
    found["run"] = _differing([_facts(record) for record in records])
    found["arguments"] = _differing([_arguments(record) for record in records])
    found["packages"] = _differing([_packages(record) for record in records])
    found["code"] = _differing([_code(record) for record in records])
    found["metrics"] = _differing([_metrics(record) for record in records])
    return found


def _facts(record: Record) -> dict[str, Any]:
    repro = read_json(record.run.join("repro.json")) or {}
    return {
        "status": record.status,
        "commit": (record.asked.get("git") or {}).get("commit"),
        "python": repro.get("python"),
        "platform": repro.get("platform"),
        "target": (record.asked.get("definition") or {}).get("target"),
    }


def _arguments(record: Record) -> dict[str, Any]:
    return index.read_arguments((record.asked.get("definition") or {}).get("arguments") or [])


def _packages(record: Record) -> dict[str, Any]:
    for name in ("environment.json", "repro.json"):  # what was built for it, or what was there
        kept = read_json(record.run.join(name))
        if kept is not None:
            return kept.get("packages") or {}
    return {}


def _code(record: Record) -> dict[str, Any]:
    if not record.asked.get("snapshot"):
        return {}
    tree = snapshot.files_of(_store_of(record), record.asked["snapshot"])
    return {path: content[:8] for path, _, _, content in tree}


def _metrics(record: Record) -> dict[str, Any]:
    summary = metrics.summarize(metrics.read(record.run.metrics))
    return {name: entry["last"] for name, entry in summary.items()}


def _store_of(record: Record) -> Store:
    return Store(os.path.dirname(os.path.dirname(record.run.path)))


def _differing(values: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for one in values for name in one)
    rows = {name: [one.get(name) for one in values] for name in names}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def render_comparison(found: dict[str, Any], width: int) -> str:
    """Return a comparison as a table with one column for each run."""
    rows = [
        [kind, name, *("" if value is None else show_number(value) for value in values)]
        for kind in ("run", "arguments", "code", "packages", "metrics")
        for name, values in found[kind].items()
    ]
    if not rows:
        return "no difference"
    return render(["KIND", "NAME", *map(short_id, found["runs"])], rows, width, flexible=1)


def diff(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Show the code of a run against that of another, or against its source folder of now."""
    new = look_at(workspace, options.run)
    store = workspace._store
    if options.other:
        old = look_at(workspace, options.other)
        before, read_before = _tree(store, old)
        after, read_after = _tree(store, new)
        names = (short_id(old.run.run_id), short_id(new.run.run_id))
    else:
        before, read_before = _tree(store, new)
        after, read_after = _tree_of_now(store, new)
        names = (short_id(new.run.run_id), "now")
    text = "\n".join(
        line
        for path, *_ in snapshot.changes(before, after)
        for line in _diff_file(path, read_before(path), read_after(path), names)
    )
    changed = [path for path, *_ in snapshot.changes(before, after)]
    return Answer(text or "no difference", {"changed": changed, "diff": text})


def _tree(store: Store, record: Record) -> tuple[list[list[Any]], Callable[[str], bytes]]:
    if not record.asked.get("snapshot"):
        raise UsageError(f"{record.run.run_id} ran in a process of its own: no code is kept.")
    tree = snapshot.files_of(store, record.asked["snapshot"])
    contents = {entry[0]: entry[3] for entry in tree}

    def read(path: str) -> bytes:
        return snapshot.read_file(store, contents[path]) if path in contents else b""

    return tree, read


def _tree_of_now(store: Store, record: Record) -> tuple[list[list[Any]], Callable[[str], bytes]]:
    folder = record.asked.get("source_directory") or ""
    taken = snapshot.take(store, folder)
    tree = snapshot.files_of(store, taken.id)
    contents = {entry[0]: entry[3] for entry in tree}

    def read(path: str) -> bytes:
        return snapshot.read_file(store, contents[path]) if path in contents else b""

    return tree, read


def _diff_file(path: str, before: bytes, after: bytes, names: tuple[str, str]) -> list[str]:
    if b"\0" in before or b"\0" in after:
        return [f"{path}: {len(before)} bytes, then {len(after)}"]
    old, new = (text.decode("utf-8", "backslashreplace").splitlines() for text in (before, after))
    before_name, after_name = (f"{name}/{path}" for name in names)
    return list(difflib.unified_diff(old, new, before_name, after_name, lineterm=""))
