"""The folder of one run: the run's id, making the folder, and tidying it up.

A folder that cannot be made never stops a run: another place is tried, then none. The names inside
are those of contract/files.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

from launcher.contract.files import RunPaths, before_requeue, is_own
from launcher.named import NamedTuple

# In bytes: most file systems take 255, and a number may come behind it.
_LONGEST_NAME = 200

# How many runs of one id have folders beside each other.
_MOST_NUMBERS = 10_000


def new_run_id(wanted: str) -> str:
    """Return the id of a new run: what the user chose, or the time and a random word."""
    if wanted not in ("", "none"):
        return wanted
    return time.strftime("%Y%m%d-%H%M%S-") + os.urandom(3).hex()


class SlurmJob(NamedTuple):
    """A job of Slurm's with the step to which a run belongs; the name is empty without one."""

    name: str = ""
    # How often Slurm has started it again.
    requeues: int = 0


NO_JOB = SlurmJob()


class RunFolder:
    """The folder of one run, made by the first that needs it; `paths` is None where none can be.

    Where the nodes of a run share a file system they share the folder, too: one of them claims the
    name, and the others take it over. A job that Slurm has requeued goes on in the folder that it
    had.
    """

    def __init__(
        self, parent: str, log_dir: str | None, run_id: str, job: SlurmJob = NO_JOB
    ) -> None:
        self._parent, self._log_dir, self._run_id, self._job = parent, log_dir, run_id, job
        self._name = ""
        self.paths: RunPaths | None = None
        # What the user is to know about it, or "".
        self.warning = ""

    def claim(self) -> str:
        """Make a folder that did not exist, or find that of a requeued job; return its name."""
        self._make_somewhere(_shorten(self._run_id), may_exist=False)
        self._name = os.path.basename(self.paths.run_dir) if self.paths else self._run_id
        return self._name

    def adopt(self, name: str) -> None:
        """Use the folder that another node has named, unless it is ours."""
        if name != self._name:
            self._name = name
            self._make_somewhere(_shorten(name), may_exist=True)

    def open_attempt(self, attempt: int) -> None:
        """Make the folders of one attempt; where they cannot be any more, elsewhere, or none.

        The disk may be full by now; and where the nodes share the folder, one of them may read it
        and not write.
        """
        if self.paths is None:
            return
        try:
            _make_attempt(self.paths, attempt)
        except OSError as error:
            self._go_elsewhere(error, _shorten(self._name), may_exist=True, attempt=attempt)

    def _make_somewhere(self, name: str, *, may_exist: bool) -> None:
        """Make the folder; where that cannot be, another one, or none. may_exist: another node of
        the run may have made it already.
        """
        self.warning = ""
        try:
            self.paths = self._make(self._parent, self._log_dir, name, may_exist=may_exist)
        except OSError as error:
            self._go_elsewhere(error, name, may_exist=may_exist)

    def _go_elsewhere(
        self, error: OSError, name: str, *, may_exist: bool, attempt: int | None = None
    ) -> None:
        """Make another folder, with those of an attempt that has begun; or none."""
        problem = f"cannot write {error.filename or self._parent}: {error.strerror}"
        fallback = os.path.join(os.environ.get("TMPDIR") or "/tmp", f"launcher-runs-{os.getuid()}")
        try:
            self.paths = self._make(fallback, None, name, may_exist=may_exist)
            if attempt is not None:
                _make_attempt(self.paths, attempt)
        except OSError:
            self.paths = None
            self.warning = (
                f"{problem}; this run keeps no log files (choose a folder with --run-dir)"
            )
            return
        where = f"the log files of this run are in {self.paths.run_dir}"
        self.warning = f"{problem}; {where} (choose a folder with --run-dir)"

    def _make(self, parent: str, log_dir: str | None, name: str, *, may_exist: bool) -> RunPaths:
        again = "" if may_exist else _find_requeued(parent, name, self._job)
        name = again or name
        make = _make_shared if may_exist or again else _make_new
        run_dir = make(parent, name)
        logs = make(log_dir, name) if log_dir else os.path.join(run_dir, "logs")
        paths = RunPaths(run_dir, logs, world_size=1)
        if self._job.name:
            _take_over(paths, self._job)
        os.makedirs(logs, exist_ok=True)
        return paths


def _shorten(run_id: str) -> str:
    """Return the name of a run's folder."""
    name = run_id.replace(os.sep, "_")
    while len(os.fsencode(name)) > _LONGEST_NAME:
        name = name[:-1]
    return name


def _find_requeued(parent: str, name: str, job: SlurmJob) -> str:
    """Return the name of the folder that a requeued job had; "" where there is none."""
    found = ""
    if not job.requeues:
        return found
    for number in range(1, _MOST_NUMBERS):
        numbered = _add_number(name, number)
        path = os.path.join(parent, numbered)
        if not os.path.isdir(path):
            break
        if _read_job(RunPaths(path, "", 1)).name == job.name:
            found = numbered
    return found


def _read_job(paths: RunPaths) -> SlurmJob:
    """Return the job to which a folder belongs."""
    try:
        with open(paths.slurm_job, encoding="utf-8") as file:
            name, requeues = file.read().split()
        return SlurmJob(name, int(requeues))
    except (OSError, ValueError):
        return NO_JOB


def _take_over(paths: RunPaths, job: SlurmJob) -> None:
    """Note whose folder it is; set aside what the job has left there before it was requeued.

    Where nodes share the folder, the first one does it.
    """
    before = _read_job(paths)
    if before == job:
        return
    if before.name == job.name:
        _set_aside(paths.run_dir, job.requeues, is_own)
        if not paths.logs.startswith(paths.run_dir + os.sep):
            _set_aside(paths.logs, job.requeues, lambda name: not name.startswith("before_"))
    with open(paths.slurm_job, "w", encoding="utf-8") as file:
        file.write(f"{job.name} {job.requeues}\n")


def _set_aside(folder: str, requeues: int, is_meant: Callable[[str], bool]) -> None:
    target = before_requeue(folder, requeues)
    for name in filter(is_meant, os.listdir(folder)):
        os.makedirs(target, exist_ok=True)
        os.rename(os.path.join(folder, name), os.path.join(target, name))


def _make_new(parent: str, name: str) -> str:
    """Make a folder that did not exist: an id that the user reuses gets a number behind it."""
    parent = os.path.abspath(parent)
    os.makedirs(parent, exist_ok=True)
    for number in range(1, _MOST_NUMBERS):
        path = os.path.join(parent, _add_number(name, number))
        try:
            os.mkdir(path)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(17, "too many runs of this id", parent)


def _add_number(name: str, number: int) -> str:
    return name if number == 1 else f"{name}.{number}"


def _make_shared(parent: str, name: str) -> str:
    path = os.path.join(os.path.abspath(parent), name)
    os.makedirs(path, exist_ok=True)
    return path


def _make_attempt(paths: RunPaths, attempt: int) -> None:
    _make_writable(paths.log_dir(attempt))
    try:
        _make_writable(paths.error_dir(attempt))
    except FileNotFoundError:  # a node that has ended has just tidied what was above it
        _make_writable(paths.error_dir(attempt))


def _make_writable(folder: str) -> None:
    """Make a folder; where another node has made it, see that this one may write in it, too."""
    os.makedirs(folder, exist_ok=True)
    os.utime(folder)


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


def link_latest(paths: RunPaths) -> None:
    """Let `latest` beside the run's folder lead to it, unless something else has that name."""
    parent, name = os.path.split(paths.run_dir)
    link = os.path.join(parent, "latest")
    temporary = f"{link}.{os.getpid()}.tmp"
    with suppress(OSError):
        if os.path.islink(link) or not os.path.lexists(link):
            os.symlink(name, temporary)
            os.replace(temporary, link)


def _remove_if_empty(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:
        pass
