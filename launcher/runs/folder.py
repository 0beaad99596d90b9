"""The folder of one run: the run's id, making the folder, and tidying it up.

A folder that cannot be made never stops a run: another place is tried, then none. The names inside
are those of contract/files.py.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from launcher.contract.files import RunPaths

# In bytes: most file systems take 255, and a number may come behind it.
_LONGEST_NAME = 200


def new_run_id(wanted: str) -> str:
    """Return the id of a new run: what the user chose, or the time and a random word."""
    if wanted not in ("", "none"):
        return wanted
    return time.strftime("%Y%m%d-%H%M%S-") + os.urandom(3).hex()


class RunFolder:
    """The folder of one run, made by the first that needs it; `paths` is None where none can be.

    Where the nodes of a run share a file system they share the folder, too: one of them claims the
    name, and the others take it over.
    """

    def __init__(self, parent: str, log_dir: str | None, run_id: str) -> None:
        self._parent, self._log_dir, self._run_id = parent, log_dir, run_id
        self._name = ""
        self.paths: RunPaths | None = None
        # What the user is to know about it, or "".
        self.warning = ""

    def claim(self) -> str:
        """Make a folder that did not exist, and return its name."""
        self.paths, self.warning = make_run_folder(self._parent, self._log_dir, self._run_id, 1)
        self._name = os.path.basename(self.paths.run_dir) if self.paths else self._run_id
        return self._name

    def adopt(self, name: str) -> None:
        """Use the folder that another node has named, unless it is ours."""
        if name == self._name:
            return
        self._name = name
        self.paths, self.warning = make_run_folder(
            self._parent, self._log_dir, name, 1, may_exist=True
        )


def make_run_folder(
    parent: str, log_dir: str | None, run_id: str, world_size: int, *, may_exist: bool = False
) -> tuple[RunPaths | None, str]:
    """Make the run's folder; return its paths and a warning or "".

    There are no paths, None, when there is nowhere to make it. may_exist: another node of the run
    may have made it already.
    """
    name = run_id.replace(os.sep, "_")
    while len(os.fsencode(name)) > _LONGEST_NAME:
        name = name[:-1]
    try:
        return _make(parent, log_dir, name, world_size, may_exist), ""
    except OSError as error:
        problem = f"cannot write {error.filename or parent}: {error.strerror}"
    fallback = os.path.join(os.environ.get("TMPDIR") or "/tmp", f"launcher-runs-{os.getuid()}")
    try:
        paths = _make(fallback, None, name, world_size, may_exist)
    except OSError:
        return None, f"{problem}; this run keeps no log files (choose a folder with --run-dir)"
    where = f"the log files of this run are in {paths.run_dir}"
    return paths, f"{problem}; {where} (choose a folder with --run-dir)"


def _make(
    parent: str, log_dir: str | None, name: str, world_size: int, may_exist: bool
) -> RunPaths:
    make = _make_shared if may_exist else _make_new
    run_dir = make(parent, name)
    logs = make(log_dir, name) if log_dir else os.path.join(run_dir, "logs")
    os.makedirs(logs, exist_ok=True)
    return RunPaths(run_dir=run_dir, logs=logs, world_size=world_size)


def _make_new(parent: str, name: str) -> str:
    """Make a folder that did not exist: an id that the user reuses gets a number behind it."""
    parent = os.path.abspath(parent)
    os.makedirs(parent, exist_ok=True)
    for number in range(1, 10_000):
        path = os.path.join(parent, name if number == 1 else f"{name}.{number}")
        try:
            os.mkdir(path)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(17, "too many runs of this id", parent)


def _make_shared(parent: str, name: str) -> str:
    path = os.path.join(os.path.abspath(parent), name)
    os.makedirs(path, exist_ok=True)
    return path


def prepare_attempt(paths: RunPaths, attempt: int) -> None:
    """Make the folders of one attempt."""
    os.makedirs(paths.log_dir(attempt), exist_ok=True)
    os.makedirs(paths.error_dir(attempt), exist_ok=True)


def tidy(paths: RunPaths, attempts: int) -> None:
    """Remove what stayed empty: stack files that nobody asked for, heartbeats, their folders."""
    for attempt in range(attempts):
        folder = paths.error_dir(attempt)
        try:
            with os.scandir(folder) as entries:
                empty = [
                    entry.path
                    for entry in entries
                    if entry.stat().st_size == 0 or entry.name.endswith((".beat", ".pace"))
                ]
        except OSError:
            continue
        for path in empty:
            with suppress(FileNotFoundError):  # another node of the run was quicker
                os.unlink(path)
        _remove_if_empty(folder)
    _remove_if_empty(os.path.dirname(paths.error_dir(0)))


def _remove_if_empty(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:
        pass
