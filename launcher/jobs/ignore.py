"""Which files of a source folder belong to its snapshot.

`.amlignore` in the folder decides, in the syntax of `.gitignore`; where there is none, the
`.gitignore` files do. What no run ever needs is left out unless these files ask for it.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from launcher.jobs.errors import RunConfigurationException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_NEVER_NEEDED = {
    *(".git", ".hg", ".svn", "__pycache__", ".venv", "venv", "node_modules", ".ipynb_checkpoints"),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".tox", ".nox", "runs", "mlruns", "wandb"),
}
# At the top these are what a run makes; below, they may be anything.
_MADE_BY_RUNS = {"outputs", "logs"}

_SECRETS = (".env", "id_rsa", "id_ed25519", "credentials", ".netrc", ".pypirc")
_SECRET_ENDINGS = (".pem", ".key", ".p12", ".pfx")


class Found(NamedTuple):
    """One file of a source folder."""

    path: str  # below the folder, with `/`
    stat: os.stat_result


class Walk:
    """The files of a source folder; afterwards `notes` says what was left out, and why."""

    def __init__(self, folder: str, *, without: str = "") -> None:
        self._top = os.path.realpath(folder)
        self._without = os.path.realpath(without) if without else ""
        self._has_amlignore = os.path.isfile(os.path.join(self._top, ".amlignore"))
        self.notes: list[str] = []

    def files(self) -> Iterator[Found]:
        """Yield the files in the order of their paths."""
        yield from self._walk(self._top, "", [])

    def _walk(self, folder: str, below: str, outer: list[tuple[str, Any]]) -> Iterator[Found]:
        specs = self._read_rules(folder, below, outer)
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.notes.append(f"{below or folder} was left out: {error.strerror}")
            return
        if below and any(entry.name == "pyvenv.cfg" for entry in entries):
            return  # a virtual environment by another name
        for entry in entries:
            path = below + entry.name
            if entry.is_dir(follow_symlinks=False):
                if not self._is_ignored(path + "/", specs) and not self._is_store(entry.path):
                    yield from self._walk(entry.path, path + "/", specs)
            elif not self._is_ignored(path, specs):
                status = self._stat(entry, path)
                if status is not None:
                    yield Found(path, status)

    def _is_store(self, path: str) -> bool:
        return bool(self._without) and os.path.realpath(path) == self._without

    def _stat(self, entry: os.DirEntry[str], path: str) -> os.stat_result | None:
        try:
            status = entry.stat()
        except OSError as error:
            self.notes.append(f"{path} was left out: {error.strerror}")
            return None
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if not target.startswith(self._top + os.sep) or not stat.S_ISREG(status.st_mode):
                self.notes.append(f"{path} was left out: a link to {target}")
                return None
        elif not stat.S_ISREG(status.st_mode):
            self.notes.append(f"{path} was left out: no regular file")
            return None
        return status

    def _read_rules(
        self, folder: str, below: str, outer: list[tuple[str, Any]]
    ) -> list[tuple[str, Any]]:
        """Return the rules that hold in a folder: those from above and its own, innermost last."""
        name = ".gitignore" if not self._has_amlignore else "" if below else ".amlignore"
        path = os.path.join(folder, name)
        if not name or not os.path.isfile(path):
            return outer
        return [*outer, (below, _parse(path))]

    def _is_ignored(self, path: str, specs: list[tuple[str, Any]]) -> bool:
        for below, spec in reversed(specs):
            decision = spec.check_file(path[len(below) :]).include
            if decision is not None:
                return bool(decision)
        name = path.rstrip("/").rpartition("/")[2]
        if path.endswith("/"):
            return name in _NEVER_NEEDED or path[:-1] in _MADE_BY_RUNS
        return name.endswith((".pyc", ".pyo"))


def _parse(path: str) -> Any:
    try:
        import pathspec  # most folders have no such file, and it takes a while to load
    except ImportError:
        raise RunConfigurationException(
            f"{path} cannot be understood without the package pathspec.",
            hint="Type: pip install 'launcher[jobs]'",
        ) from None
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return pathspec.GitIgnoreSpec.from_lines(file)


def looks_secret(path: str) -> bool:
    """Tell whether a file's name is one under which people keep secrets."""
    name = path.rpartition("/")[2].lower()
    return name.startswith(_SECRETS) or name.endswith(_SECRET_ENDINGS)
