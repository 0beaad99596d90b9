"""`ctl logs`: what the ranks of a run have written, in the order in which it came.

It reads the run's log files, and asks the run for nothing but where these are.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable

from launcher.errors import LauncherError, UsageError
from launcher.named import NamedTuple
from launcher.runs.logs import Line, RunLogs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

# How often files that grow are looked at.
_LOOK_S = 0.2

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
    folder: str, choice: Choice, out: BinaryIO, is_going_on: Callable[[], bool] | None = None
) -> RunLogs:
    """Write all lines; with `is_going_on`, also those that come until the run has ended."""
    logs = RunLogs(folder, choice.ranks)
    is_last = False
    while not is_last:
        # Asked before the files are read: then nothing comes behind the last look.
        is_last = is_going_on is None or not is_going_on()
        logs.look()
        width = len(str(max(logs.ranks, default=0)))
        write_lines(logs.lines(choice.since, is_last=is_last), choice, out, width)
        if not is_last:
            time.sleep(_LOOK_S)
    return logs


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
