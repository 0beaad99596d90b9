"""Which runs are meant: one by its name, or many by a filter. Filters become SQL."""

from __future__ import annotations

import os
import re
import time

from launcher.errors import UsageError
from launcher.jobs import index
from launcher.jobs.errors import JobsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

    from launcher.jobs.store import RunFolder
    from launcher.jobs.workspace import Workspace

_TERM = re.compile(r"([A-Za-z_][\w.\-/]*)(<=|>=|!=|=|<|>|~)(.*)")
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_COLUMNS = {
    *("id", "experiment", "status", "reason", "target", "user", "host", "processes", "nodes"),
    *("parent", "type", "exit_code", "command", "git_commit"),
}
_EXAMPLE = "Type for example: list status=Failed tag.owner=ada 'lr<0.01' since=2d"


def select(workspace: Workspace, terms: list[str], limit: int | None) -> list[dict[str, Any]]:
    """Return the rows of the runs that fit all terms, newest first."""
    where: list[str] = []
    values: list[Any] = []
    for term in terms:
        clause, more = _to_sql(term)
        where.append(clause)
        values += more
    if not any(term.startswith("parent") for term in terms):
        where.append("parent IS NULL")
    condition = " AND ".join(where) or "1"
    sql = f"SELECT * FROM run WHERE {condition} ORDER BY created DESC, id DESC"
    if limit is not None:
        sql += f" LIMIT {limit}"

    def ask(connection: sqlite3.Connection) -> list[dict[str, Any]]:
        cursor = connection.execute(sql, values)
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
        # One question for all runs: thousands of small ones would take longer than the rest.
        by_id = {row["id"]: row for row in rows}
        for row in rows:
            row["tags"], row["metrics"] = {}, {}
        few = "" if limit is None or not rows else f" WHERE run IN ({', '.join('?' * len(rows))})"
        ids = list(by_id) if few else []
        for run_id, key, value in connection.execute(f"SELECT run, key, value FROM tag{few}", ids):
            if run_id in by_id:
                by_id[run_id]["tags"][key] = value
        found = connection.execute(f"SELECT run, name, last FROM metric{few}", ids)
        for run_id, name, last in found:
            if run_id in by_id:
                by_id[run_id]["metrics"][name] = last
        return rows

    return index.read(workspace._store, ask)


def _to_sql(term: str) -> tuple[str, list[Any]]:
    """Return one term of a filter as a condition with its values."""
    match = _TERM.fullmatch(term)
    if match is None:
        raise UsageError(f"{term!r} is no filter: NAME=VALUE is one.", hint=_EXAMPLE)
    name, sign, text = match.groups()
    value = index.as_number(text)
    if name in ("since", "until"):
        return f"created {'>=' if name == 'since' else '<='} ?", [_time(text)]
    if name in _COLUMNS:
        if sign == "~":
            return f"{name} LIKE ?", [f"%{text}%"]
        return f"{name} {sign} ?", [value]
    sign, text = ("LIKE", f"%{text}%") if sign == "~" else (sign, text)
    kind, _, key = name.partition(".")
    if kind == "tag" and key:
        return f"id IN (SELECT run FROM tag WHERE key = ? AND value {sign} ?)", [key, text]
    wanted = text if sign == "LIKE" else value
    argument = f"id IN (SELECT run FROM argument WHERE name = ? AND value {sign} ?)"
    metric = f"id IN (SELECT run FROM metric WHERE name = ? AND last {sign} ?)"
    if kind == "arg" and key:
        return argument, [key, wanted]
    if kind == "metric" and key:
        return metric, [key, wanted]
    return f"({argument} OR {metric})", [name, wanted, name, wanted]


def _time(text: str) -> float:
    """Return the time that `2d` (ago) or `2026-11-21` means."""
    match = _AGE.fullmatch(text)
    if match:
        return time.time() - float(match[1]) * _UNITS[match[2]]
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%d"))
    except ValueError:
        raise UsageError(
            f"{text!r} is no time: 2d, 3h, 30m or 2026-11-21 are.", hint=_EXAMPLE
        ) from None


def seconds_of(text: str) -> float:
    """Return the seconds that an age like `30d` means."""
    match = _AGE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is no age: 30d, 12h or 90m are.")
    return float(match[1]) * _UNITS[match[2]]


def find_one(workspace: Workspace, wanted: str) -> RunFolder:
    """Return the run that is meant.

    `@` is the newest, `@2` the one before it; others go by their id, its beginning, the letters
    behind its last `_`, or the name that somebody gave them.
    """
    if re.fullmatch(r"@\d*", wanted):
        return _newest(workspace, int(wanted[1:] or 1))
    folder = workspace._store.run(wanted)
    if wanted and folder.path != workspace._store.join("runs") and _exists(folder):
        return folder
    pattern = wanted.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    sql = (
        "SELECT id FROM run WHERE id LIKE ? ESCAPE '\\' OR id LIKE ? ESCAPE '\\'"
        " OR display_name = ? ORDER BY created DESC"
    )

    def ask(connection: sqlite3.Connection) -> list[str]:
        values = (pattern + "%", "%\\_" + pattern + "%", wanted)
        return [run_id for (run_id,) in connection.execute(sql, values)]

    found = index.read(workspace._store, ask) if wanted else []
    if len(found) == 1:
        return workspace._store.run(found[0])
    if not found:
        raise JobsError(
            f"There is no run {wanted} in {workspace._store.root}.",
            hint="Type: python -m launcher.jobs list",
        )
    raise UsageError(
        f"{len(found)} runs begin with {wanted}: {', '.join(found[:4])}"
        + (" and more." if len(found) > 4 else "."),
        hint="Give more of the id.",
    )


def _newest(workspace: Workspace, number: int) -> RunFolder:
    if number == 0:
        raise UsageError("@0 is no run: `@` is the newest, `@2` the one before it.")

    def ask(connection: sqlite3.Connection) -> list[str]:
        sql = "SELECT id FROM run WHERE parent IS NULL ORDER BY created DESC, id DESC LIMIT ?"
        return [run_id for (run_id,) in connection.execute(sql, (number,))]

    found = index.read(workspace._store, ask)
    if len(found) < number:
        many = f"{len(found)} run" + ("s" if len(found) > 1 else "")
        raise JobsError(
            f"There {'are' if len(found) > 1 else 'is'} {many if found else 'no run'} in"
            f" {workspace._store.root}.",
            hint="Type: python -m launcher.jobs " + ("list" if found else "run SCRIPT"),
        )
    return workspace._store.run(found[-1])


def _exists(folder: RunFolder) -> bool:
    return os.path.exists(folder.asked)
