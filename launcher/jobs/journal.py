"""What happened to a run, as every writer adds it: states, tags, properties, notes, names.

One file for each host and one for the agent, JSON lines, appended in one write each: nobody waits
for a lock, and nothing is ever changed in place. Owns the events, and what they add up to.
"""

from __future__ import annotations

import json
import os
import time
from typing import NamedTuple

from launcher.jobs.store import RunFolder, append_line, cannot_write, read_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def append(run: RunFolder, event: str, *, writer: str = "", **fields: object) -> None:
    """Add one event to a run; StoreException when it cannot be written."""
    entry = {"t": time.time(), "e": event, "by": os.getpid(), **fields}
    name = writer or os.uname().nodename.replace("/", "_")
    try:
        append_line(os.path.join(run.journal, f"{name}.jsonl"), json.dumps(entry))
    except OSError as error:
        raise cannot_write(run.journal, error) from None
    if writer:
        return
    # The index looks at runs that have ended only when something was added to them.
    changes = os.path.join(run.path, os.pardir, os.pardir, "changes", name)
    try:
        append_line(changes, run.run_id)
    except OSError:
        pass  # `reindex` finds it


def read(run: RunFolder) -> list[dict[str, Any]]:
    """Return all events of a run in the order of their time."""
    try:
        names = sorted(os.listdir(run.journal))
    except OSError:
        return []
    events: list[dict[str, Any]] = []
    for name in names:
        if name.endswith(".jsonl"):
            events += read_lines(os.path.join(run.journal, name))
    events.sort(key=lambda event: event.get("t", 0.0))
    return events


class Added(NamedTuple):
    """What the events of a run add up to."""

    states: list[tuple[float, str, str]]  # time, status, reason
    tags: dict[str, Any]
    properties: dict[str, str]
    notes: list[tuple[float, str]]
    display_name: str | None
    description: str | None
    # What the script said of its own end: {"e": "complete" | "fail", ...}.
    verdict: dict[str, Any] | None


def add_up(events: Iterable[dict[str, Any]], asked: dict[str, Any]) -> Added:
    """Add the events of a run to what was asked of it."""
    states: list[tuple[float, str, str]] = []
    tags: dict[str, Any] = dict(asked.get("tags") or {})
    properties: dict[str, str] = dict(asked.get("properties") or {})
    notes: list[tuple[float, str]] = []
    names: dict[str, Any] = {
        key: asked.get(key) for key in ("display_name", "description") if asked.get(key)
    }
    verdict: dict[str, Any] | None = None
    for event in events:
        kind = event.get("e")
        if kind == "state":
            states.append((event["t"], event["status"], event.get("reason", "")))
        elif kind == "tag":
            tags[event["k"]] = event.get("v")
        elif kind == "untag":
            tags.pop(event["k"], None)
        elif kind == "property":
            properties.setdefault(event["k"], str(event.get("v")))
        elif kind == "note":
            notes.append((event["t"], event["text"]))
        elif kind == "name":
            names[event["k"]] = event.get("v")
        elif kind in ("complete", "fail"):
            verdict = event
    return Added(
        states=states,
        tags=tags,
        properties=properties,
        notes=notes,
        display_name=names.get("display_name"),
        description=names.get("description"),
        verdict=verdict,
    )
