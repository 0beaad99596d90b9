"""`ctl logs`: what the ranks of a run have written, in the order in which it came.

It reads the run's log files, and asks the run where these are; and for those of other hosts, if
they are not here.
"""

from __future__ import annotations

import heapq
import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from launcher.errors import LauncherError, UsageError
from launcher.named import NamedTuple
from launcher.ranks import format_ranks
from launcher.runs.logs import Line, RunLogs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from launcher.ctl.mirror import Mirror

# How often files that grow are looked at.
_LOOK_S = 0.2

# So many hosts are named in one line.
_MOST_HOSTS = 8

_CTL = "python -m launcher.ctl"

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}


class Choice(NamedTuple):
    """Which lines are wanted."""

    ranks: frozenset[int] | None
    # Lines of an earlier time are not.
    since: float
    grep: bytes


def parse_since(text: str, now: float) -> float:
    """Return the time that lies `5m` back; 0 for no text. UsageError for anything else."""
    if not text:
        return 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None:
        raise UsageError(
            f"--since {text}: must be a time such as 30s, 5m, 2h or 1d.",
            hint="Type for example: ctl logs --since 5m",
        )
    return now - float(match[1]) * _SECONDS[match[2]]


def find_folder(parent: str, wanted: str) -> str:
    """Return the folder with the log files of a run that has ended.

    wanted: the folder itself, the run's id, or its beginning; "" for the newest run. LauncherError
    when there is none, UsageError when there are several.
    """
    if os.sep in wanted or not wanted:
        return _logs_in(wanted) if wanted else _logs_in(_newest(parent))
    names = _names_in(parent)
    found = [name for name in names if name == wanted]
    found = found or [name for name in names if name.startswith(wanted)]
    if len(found) > 1:
        raise UsageError(
            f"There are several runs in {parent}: {', '.join(sorted(found))}.",
            hint="Name one of them.",
        )
    if not found:
        raise LauncherError(
            f"No run {wanted} in {parent}.",
            hint="Name its folder, or the folder of the runs with --run-dir.",
        )
    return _logs_in(os.path.join(parent, found[0]))


def write_lines(lines: Iterable[Line], choice: Choice, out: BinaryIO, width: int) -> None:
    """Write the lines that are wanted, with their ranks in front."""
    for line in lines:
        if choice.grep in line.text:
            out.write(b"[%*d] %s\n" % (width, line.rank, line.text))
    out.flush()


def show(
    folder: str,
    choice: Choice,
    out: BinaryIO,
    is_going_on: Callable[[], bool] | None = None,
    mirror: Mirror | None = None,
) -> RunLogs:
    """Write all lines; with `is_going_on`, also those that come until the run has ended.

    mirror: has the files of other hosts.
    """
    logs = RunLogs(folder, choice.ranks, without=mirror.wanted if mirror else ())
    is_last, fetch_at = False, 0.0
    while not is_last:
        # Asked before the files are read: then nothing comes behind the last look.
        is_last = is_going_on is None or not is_going_on()
        if mirror is not None and time.monotonic() >= fetch_at:
            mirror.fetch()
            fetch_at = time.monotonic() + mirror.interval_s
        logs.look()
        ranks, lines = logs.ranks, logs.lines(choice.since, is_last=is_last)
        if mirror is not None:
            far = mirror.lines(choice.since, is_last=is_last)
            ranks, lines = ranks | mirror.ranks, heapq.merge(lines, far, key=lambda one: one[:2])
        write_lines(lines, choice, out, len(str(max(ranks, default=0))))
        if mirror is not None:
            mirror.let_go()
        if not is_last:
            time.sleep(_LOOK_S)
    return logs


class Layout(NamedTuple):
    """Which ranks a run had, and where."""

    attempt: int = -1
    num_ranks: int = 0
    # Host -> its ranks; {} for one host, and where that is not known.
    hosts: Mapping[str, Sequence[int]] = {}


def read_layout(folder: str) -> Layout:
    """Return what the newest plan beside the log files says of a run on several nodes."""
    newest = Layout()
    for plan in _read_plans(os.path.dirname(os.path.abspath(folder))):
        hosts: dict[str, list[int]] = {}
        try:
            layout, first = plan["layout"], 0
            for entry in layout.get("hosts", ()):
                ranks = range(first, first + entry["ranks"])
                hosts.setdefault(entry["host"], []).extend(ranks)
                first = ranks.stop
            if layout["nodes"] > 1 and layout["attempt"] > newest.attempt:
                newest = Layout(layout["attempt"], layout["world_size"], hosts)
        except (LookupError, TypeError, AttributeError):
            continue  # of another version
    return newest


def _read_plans(run_dir: str) -> Iterator[Any]:
    try:
        names = os.listdir(run_dir)
    except OSError:
        return
    for name in names:
        if re.fullmatch(r"plan(_\d+)?\.json", name):
            try:
                with open(os.path.join(run_dir, name), "rb") as file:
                    yield json.loads(file.read())
            except (OSError, ValueError):
                continue


class Far(NamedTuple):
    """Where on other hosts the output of ranks is."""

    # Host -> its ranks; {} where nobody knows.
    hosts: Mapping[str, Iterable[int]]
    # That of the log files here, which is mostly theirs, too; and the id of a run that goes on.
    folder: str
    run_id: str

    def explain(self, ranks: set[int], what: str) -> str:
        """Return in one line which hosts have these ranks' output, and how it is read there."""
        found = [(host, sorted(ranks.intersection(some))) for host, some in self.hosts.items()]
        named = [f"{host} {what} of {format_ranks(some)}" for host, some in found if some]
        if len(named) > _MOST_HOSTS:
            named = [*named[:_MOST_HOSTS], f"and {len(named) - _MOST_HOSTS} more hosts"]
        unknown = ranks - {rank for _, some in found for rank in some}
        if unknown:
            named.append(f"another host, perhaps, {what} of {format_ranks(sorted(unknown))}")
        folder = os.path.abspath(self.folder)
        inside = os.path.basename(folder) == "logs"
        run = self.run_id or (os.path.dirname(folder) if inside else folder)
        return f"{', '.join(named)}; type there: {_CTL} logs {shlex.quote(run)}"


def _names_in(parent: str) -> list[str]:
    try:
        with os.scandir(parent) as entries:
            return [entry.name for entry in entries if entry.is_dir() and not entry.is_symlink()]
    except OSError as error:
        raise LauncherError(
            f"{parent}: {error.strerror}.", hint="Name the folder of the runs with --run-dir."
        ) from None


def _newest(parent: str) -> str:
    folders = [os.path.join(parent, name) for name in _names_in(parent)]
    if not folders:
        raise LauncherError(f"There is no run in {parent}.", hint="Name its folder.")
    return max(folders, key=os.path.getmtime)


def _logs_in(folder: str) -> str:
    """Return where the log files are: in `logs`, or in the folder itself (--log-dir)."""
    inside = os.path.join(folder, "logs")
    if os.path.isdir(inside):
        return inside
    if os.path.isdir(folder):
        return folder
    raise LauncherError(f"There is no folder {folder}.", hint="Type: ls runs")
