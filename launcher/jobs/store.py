"""Where everything of a workspace lies: the one place that knows the names in a store.

    <store>/workspace.json              id, name, version of the layout
    <store>/index.db                    the index: may be deleted at any time
    <store>/runs/<run id>/              one folder for each run, see RunFolder
    <store>/changes/<host>              ids of runs to which something was added after their end
    <store>/snapshots/  objects/        code by content
    <store>/models/<name>/<version>/    registered models
    <store>/environments/<name>/<n>.json
    <store>/compute/<name>.json  <name>/slot_<k>.lock  <name>/queue/
    <store>/data/  trash/

Knows the file system only: no run, no configuration.
"""

from __future__ import annotations

import json
import os
import re

from launcher.jobs.errors import StoreException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LAYOUT_VERSION = 1

_CONFIG_FOLDERS = ("", ".azureml", "aml_config")
CONFIG_NAME = "config.json"

# What is a name of an experiment, a model, an environment or a target: it becomes a folder.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")


def check_name(name: str, what: str) -> str:
    """Return a name that may become a folder; StoreException says what is wrong with another."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise StoreException(
            f"{name!r} cannot be the name of {what}: letters, digits, `_`, `-` and `.`, at most"
            " 128, and the first one no `-` or `.`."
        )
    return name


class RunFolder:
    """The file names of one run."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.run_id = os.path.basename(path)

    def join(self, *names: str) -> str:
        """Return the path of a file of this run."""
        return os.path.join(self.path, *names)

    @property
    def asked(self) -> str:
        """What was asked; written once."""
        return self.join("run.json")

    @property
    def agent(self) -> str:
        """Which process looks after the run."""
        return self.join("agent.json")

    @property
    def lock(self) -> str:
        """Held by that process for as long as it lives."""
        return self.join("agent.lock")

    @property
    def end(self) -> str:
        """How the run ended; written once."""
        return self.join("end.json")

    @property
    def left(self) -> str:
        """How its process left a run that Slurm stopped, and may begin anew."""
        return self.join("left.json")

    @property
    def cancel(self) -> str:
        """Who asked for the run's end, made by whoever asks first."""
        return self.join("cancel.json")

    @property
    def journal(self) -> str:
        """Folder of the writers' journals."""
        return self.join("journal")

    @property
    def metrics(self) -> str:
        """Folder of the ranks' metrics."""
        return self.join("metrics")

    @property
    def code(self) -> str:
        """The copy in which the script runs."""
        return self.join("code")

    @property
    def driver_log(self) -> str:
        """What the launcher and its ranks wrote to stdout and stderr, in order of arrival."""
        return self.join("driver.log")

    @property
    def ranks(self) -> str:
        """Folder of the ranks' own logs, where mpirun starts them."""
        return self.join("ranks")

    @property
    def build_log(self) -> str:
        """What the building of the environment said."""
        return self.join("build.log")

    @property
    def diff(self) -> str:
        """What the code has that its commit has not."""
        return self.join("git.diff")

    @property
    def launcher(self) -> str:
        """The launcher's own run folder; its report is below it."""
        return self.join("launcher")


class Store:
    """One workspace's folder."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def join(self, *names: str) -> str:
        """Return the path of something in the store."""
        return os.path.join(self.root, *names)

    def run(self, run_id: str) -> RunFolder:
        """Return the names of one run, whether it exists or not."""
        return RunFolder(self.join("runs", run_id))

    def run_ids(self) -> list[str]:
        """Return the ids of all runs that are not in the trash."""
        try:
            # A name with a dot in front is that of a run which is just being made.
            return [name for name in os.listdir(self.join("runs")) if name[0] != "."]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreException(
                f"The store {self.root} cannot be read: {error.strerror}."
            ) from None

    @property
    def info(self) -> dict[str, Any]:
        """What workspace.json says; {} before anything was written."""
        found: dict[str, Any] = read_json(self.join("workspace.json")) or {}
        return found

    def open_for_writing(self, name: str = "") -> None:
        """Make the store where there is none; StoreException when it cannot be written to."""
        info = self.info
        if info:
            if info.get("version", 1) > LAYOUT_VERSION:
                raise StoreException(
                    f"The store {self.root} has layout {info['version']}, this version writes"
                    f" {LAYOUT_VERSION}: it can be read only.",
                    hint="Upgrade: pip install -U launcher",
                )
            return
        try:
            for folder in ("runs", "changes"):
                os.makedirs(self.join(folder), exist_ok=True)
            name = name or os.path.basename(self.root)
            info = {"version": LAYOUT_VERSION, "id": os.urandom(8).hex(), "name": name}
            write_json(self.join("workspace.json"), info)
        except OSError as error:
            raise cannot_write(self.root, error) from None


def cannot_write(path: str, error: OSError) -> StoreException:
    """Return what to raise when the system refuses to write to the store."""
    return StoreException(
        f"{error.filename or path} cannot be written: {error.strerror}.",
        hint="LAUNCHER_STORE=DIR names another store; `python -m launcher.jobs du` shows its size.",
    )


def default_root(name: str) -> str:
    """Return the folder of a workspace for which nobody chose one."""
    home = os.environ.get("LAUNCHER_HOME") or os.path.join(
        os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "launcher"
    )
    return os.path.join(home, name)


def cache_root() -> str:
    """Return the folder for what can be made again: environments, indexes of network stores."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.environ.get("LAUNCHER_CACHE") or os.path.join(cache, "launcher")


def find_config(path: str | None = None, file_name: str | None = None) -> str | None:
    """Return the config.json that counts at `path` (default: here), or in a folder above it."""
    name = file_name or CONFIG_NAME
    folder = os.path.abspath(path or os.getcwd())
    if os.path.isfile(folder):
        return folder
    while True:
        for below in _CONFIG_FOLDERS:
            candidate = os.path.join(folder, below, name)
            if os.path.isfile(candidate):
                return candidate
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent


def read_json(path: str) -> Any:
    """Return what a JSON file holds; None when there is none, or none that is whole."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def write_json(path: str, value: object, *, is_lasting: bool = False) -> None:
    """Write a JSON file that others see whole or not at all.

    is_lasting: also after a power cut, which costs a wait for the disk.
    """
    temporary = f"{path}.{os.uname().nodename}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            if is_lasting:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        discard(temporary)
        raise


def discard(path: str) -> None:
    """Remove a file that could not be written whole, if it is there: on a full disk it is in the
    way.
    """
    try:
        os.unlink(path)
    except OSError:
        pass


def append_line(path: str, line: str) -> None:
    """Append one line in one write: writers of one host never mix theirs."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.write(fd, (line + "\n").encode("utf-8", "backslashreplace"))
    finally:
        os.close(fd)


def read_lines(path: str) -> list[dict[str, Any]]:
    """Return the JSON lines of a file; one that is broken, say by a full disk, is left out."""
    found = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    value = json.loads(line)
                except ValueError:
                    continue
                if isinstance(value, dict):
                    found.append(value)
    except OSError:
        pass
    return found
