"""What has happened in a run -> a timeline in Chrome's trace format, and the times of each rank.

Pure. Perfetto and chrome://tracing open the timeline: a node is a process, a rank is a thread, and
the launcher is the first one. Times there are in microseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from launcher.record.happening import Happening

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The thread of the launcher itself; rank 0 is the next one.
_LAUNCHER = 0

# What has no duration.
_MOMENTS = ("hang", "failure", "restart", "nodes")


def rank_times(happenings: Iterable[Happening], attempt: int) -> dict[int, dict[str, Any]]:
    """Return what is known of each rank of an attempt; of a replaced one, of its last process."""
    ranks: dict[int, dict[str, Any]] = {}
    for at, name, fields in happenings:
        if fields.get("attempt") != attempt or "rank" not in fields:
            continue
        if name == "rank_started":
            ranks[fields["rank"]] = _new_entry(fields["rank"], fields["pid"], at)
        elif name == "first_output" and fields["rank"] in ranks:
            ranks[fields["rank"]]["first_output"] = round(at, 6)
        elif name == "rank_ended":
            # One that could not be started has ended without a beginning.
            entry = ranks.setdefault(fields["rank"], _new_entry(fields["rank"], 0, None))
            entry["ended"] = round(at, 6)
            for key in ("joined", "exit_code", "how"):
                entry[key] = fields.get(key)
    return ranks


def _new_entry(rank: int, pid: int, started: float | None) -> dict[str, Any]:
    return {
        "rank": rank,
        "pid": pid,
        "started": started if started is None else round(started, 6),
        "first_output": None,
        "joined": None,
        "ended": None,
        "exit_code": None,
        "how": None,
    }


def make_timeline(happenings: Sequence[Happening]) -> dict[str, Any]:
    """Return the object that timeline.json holds."""
    if not happenings:
        return {"traceEvents": []}
    about = next((fields for _, name, fields in happenings if name == "run"), {})
    attempts = [(at, fields) for at, name, fields in happenings if name == "attempt"]
    node = attempts[-1][1]["node"] if attempts else 0
    last = happenings[-1].at
    events: list[dict[str, Any]] = []
    for index, (at, fields) in enumerate(attempts):
        until = attempts[index + 1][0] if index + 1 < len(attempts) else last
        attempt = fields["attempt"]
        times = rank_times(happenings, attempt)
        ended = max((entry["ended"] or until for entry in times.values()), default=until)
        about_it = {"world_size": fields["world_size"], "nodes": fields["nodes"]}
        events.append(_slice(node, _LAUNCHER, f"attempt {attempt}", at, ended, about_it))
        for rank in sorted(times):
            events += _slices_of_rank(node, times[rank], attempt, until)
    events += [
        _moment(node, name, at, fields) for at, name, fields in happenings if name in _MOMENTS
    ]
    threads = {_LAUNCHER: "launcher"}
    threads.update({event["tid"]: f"rank {event['tid'] - 1}" for event in events if event["tid"]})
    names = [_name(node, 0, "process_name", f"node {node} ({about.get('hostname', '')})")]
    names += [_name(node, tid, "thread_name", text) for tid, text in threads.items()]
    return {"traceEvents": names + events, "displayTimeUnit": "ms", "otherData": dict(about)}


def _slices_of_rank(
    node: int, entry: dict[str, Any], attempt: int, until: float
) -> list[dict[str, Any]]:
    began, thread = entry["started"], entry["rank"] + 1
    if began is None:
        return []
    ended = entry["ended"] or until
    about = {"pid": entry["pid"], "exit_code": entry["exit_code"], "how": entry["how"]}
    slices = [_slice(node, thread, f"attempt {attempt}", began, ended, about)]
    parts = [
        (entry[key] - began, name)
        for key, name in (("first_output", "until its first output"), ("joined", "until it joined"))
        if entry[key] is not None and began <= entry[key] <= ended
    ]
    # Slices that begin together lie in each other: the longer one first.
    for seconds, name in sorted(parts, reverse=True):
        slices.append(_slice(node, thread, name, began, began + seconds, {}))
    return slices


def _slice(
    node: int, thread: int, name: str, began: float, ended: float, about: dict[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": node,
        "tid": thread,
        "name": name,
        "ts": round(began * 1e6),
        "dur": max(0, round(ended * 1e6) - round(began * 1e6)),
        "args": about,
    }


def _moment(node: int, name: str, at: float, fields: Any) -> dict[str, Any]:
    return {
        "ph": "i",
        "s": "p",
        "pid": node,
        "tid": _LAUNCHER,
        "name": name,
        "ts": round(at * 1e6),
        "args": dict(fields),
    }


def _name(node: int, thread: int, kind: str, text: str) -> dict[str, Any]:
    return {"ph": "M", "pid": node, "tid": thread, "name": kind, "args": {"name": text}}
