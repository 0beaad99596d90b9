"""Datastores and file datasets: folders, under the names that Azure ML's code gives them.

A datastore is a folder of the store; a dataset is a path, or what a URL leads to, fetched once. As
an argument of a run each becomes a path, because nothing needs to be mounted here.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import os
import shutil
import urllib.request

from launcher.jobs import screen
from launcher.jobs.errors import JobsError
from launcher.jobs.store import cache_root, check_name, read_json, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from launcher.jobs.workspace import Workspace

_DEFAULT_NAME = "workspaceblobstore"

# How long a server may say nothing.
_SILENCE_S = 60.0


class DataReference:
    """A path below a datastore."""

    def __init__(self, datastore: Datastore, path: str = "") -> None:
        self.datastore = datastore
        self.path_on_datastore = path

    def path(self, path: str) -> DataReference:
        """Return a path below this one."""
        return DataReference(self.datastore, os.path.join(self.path_on_datastore, path))

    def as_mount(self) -> DataReference:
        """Return the same: it is a path already."""
        return self

    as_download = as_upload = as_mount

    def as_argument(self) -> str:
        """Return what a script gets."""
        return self.datastore._join(self.path_on_datastore)

    def __str__(self) -> str:
        return self.as_argument()


class Datastore:
    """A folder of the workspace for data."""

    datastore_type = "LocalFolder"
    account_name = container_name = None

    def __init__(self, workspace: Workspace, name: str = _DEFAULT_NAME) -> None:
        self.workspace = workspace
        self.name = check_name(name, "a datastore")

    @staticmethod
    def get(workspace: Workspace, datastore_name: str) -> Datastore:
        """Return the datastore of a name; its folder is made when something is put there."""
        return Datastore(workspace, datastore_name)

    @staticmethod
    def get_default(workspace: Workspace) -> Datastore:
        """Return the datastore that every workspace has."""
        return Datastore(workspace)

    def _join(self, *names: str) -> str:
        return os.path.normpath(self.workspace._store.join("data", self.name, *names))

    def path(self, path: str | None = None) -> DataReference:
        """Return a path below this datastore."""
        return DataReference(self, path or "")

    def as_mount(self) -> DataReference:
        """Return the whole datastore as a path."""
        return DataReference(self)

    as_download = as_upload = as_mount

    def as_argument(self) -> str:
        """Return what a script gets."""
        return self._join()

    def upload(
        self,
        src_dir: str,
        target_path: str | None = None,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> DataReference:
        """Copy a folder into the datastore."""
        paths = [os.path.join(top, name) for top, _, names in os.walk(src_dir) for name in names]
        return self.upload_files(sorted(paths), src_dir, target_path, overwrite, show_progress)

    def upload_files(
        self,
        files: list[str],
        relative_root: str | None = None,
        target_path: str | None = None,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> DataReference:
        """Copy files into the datastore, below `target_path`."""
        say = screen.show if show_progress else _say_nothing
        say(f"Uploading an estimated of {len(files)} files")
        for number, path in enumerate(files, start=1):
            below = (
                os.path.relpath(path, relative_root) if relative_root else os.path.basename(path)
            )
            target = self._join(target_path or "", below)
            if os.path.exists(target) and not overwrite:
                say(f"Target already exists. Skipping upload for {below}")
                continue
            say(f"Uploading {path}")
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(path, target)
            say(f"Uploaded {path}, {number} files out of an estimated total of {len(files)}")
        say(f"Uploaded {len(files)} files")
        return DataReference(self, target_path or "")

    def download(
        self,
        target_path: str,
        prefix: str | None = None,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> int:
        """Copy the files whose paths begin with `prefix` into a folder; return how many."""
        count = 0
        for top, _, names in os.walk(self._join()):
            for name in names:
                below = os.path.relpath(os.path.join(top, name), self._join())
                target = os.path.join(target_path, below)
                if below.startswith(prefix or "") and (overwrite or not os.path.exists(target)):
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    shutil.copyfile(os.path.join(top, name), target)
                    count += 1
        return count


class FileDataset:
    """Files somewhere: a path, a pattern, or a URL that is fetched once."""

    def __init__(self, sources: list[str], name: str | None = None) -> None:
        self.sources = sources
        self.name = name
        self.version = 1

    def as_named_input(self, name: str) -> FileDataset:
        """Return the same under a name."""
        return FileDataset(self.sources, name)

    def as_mount(self, path_on_compute: str | None = None) -> FileDataset:
        """Return the same: it is a path already."""
        return self

    as_download = as_hdfs = as_mount

    def as_argument(self) -> str:
        """Return what a script gets: the folder, or the only file."""
        found = [_fetch(source) for source in self.sources]
        return found[0] if len(found) == 1 else os.path.commonpath(found)

    def to_path(self) -> list[str]:
        """Return the paths of all files."""
        paths: list[str] = []
        for source in self.sources:
            path = _fetch(source)
            if os.path.isdir(path):
                paths += [
                    os.path.join(top, one) for top, _, names in os.walk(path) for one in names
                ]
            else:
                paths += glob.glob(path) or [path]
        return sorted(paths)

    def download(self, target_path: str | None = None, overwrite: bool = False) -> list[str]:
        """Copy the files into a folder; return their paths there."""
        copies = []
        for path in self.to_path():
            target = os.path.join(target_path or ".", os.path.basename(path))
            if overwrite or not os.path.exists(target):
                os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
                shutil.copyfile(path, target)
            copies.append(target)
        return copies

    def register(
        self,
        workspace: Workspace,
        name: str,
        description: str | None = None,
        tags: dict[str, Any] | None = None,
        create_new_version: bool = False,
    ) -> FileDataset:
        """Keep the sources under a name."""
        path = workspace._store.join("datasets", check_name(name, "a dataset") + ".json")
        versions: list[dict[str, Any]] = read_json(path) or []
        if versions and not create_new_version and versions[-1]["sources"] != self.sources:
            raise JobsError(
                f"There is a dataset {name} already.", hint="create_new_version=True adds to it."
            )
        if not versions or versions[-1]["sources"] != self.sources:
            workspace._store.open_for_writing(workspace.name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            versions.append({"sources": self.sources, "description": description, "tags": tags})
            write_json(path, versions)
        self.name, self.version = name, len(versions)
        return self


class _Files:
    """`Dataset.File`."""

    @staticmethod
    def from_files(path: Any, validate: bool = True) -> FileDataset:
        """Return a dataset of paths, patterns or URLs; of data in a datastore, too."""
        items = path if isinstance(path, list) else [path]
        sources = [_source_of(item) for item in items]
        for source in sources:
            if validate and "://" not in source and not glob.glob(source):
                raise JobsError(f"There is no file or folder {source}.")
        return FileDataset(sources)

    @staticmethod
    def upload_directory(
        src_dir: str,
        target: Any,
        pattern: str | None = None,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> FileDataset:
        """Copy a folder into a datastore; return it as a dataset."""
        datastore, below = target if isinstance(target, tuple) else (target, "")
        paths = [os.path.join(top, name) for top, _, names in os.walk(src_dir) for name in names]
        chosen = [
            path for path in sorted(paths) if pattern is None or fnmatch.fnmatch(path, pattern)
        ]
        datastore.upload_files(chosen, src_dir, below, overwrite, show_progress)
        return FileDataset([datastore.path(below).as_argument()])


class Dataset:
    """Where datasets come from."""

    File = _Files

    @staticmethod
    def get_by_name(workspace: Workspace, name: str, version: int | str = "latest") -> FileDataset:
        """Return a registered dataset."""
        versions = read_json(workspace._store.join("datasets", f"{name}.json")) or []
        number = len(versions) if version == "latest" else int(version)
        if not 0 < number <= len(versions):
            raise JobsError(f"There is no dataset {name}, version {version}, in this workspace.")
        found = FileDataset(versions[number - 1]["sources"], name)
        found.version = number
        return found

    get = get_by_name

    @staticmethod
    def names_in(workspace: Workspace) -> list[str]:
        """Return the names of the registered datasets."""
        try:
            files = os.listdir(workspace._store.join("datasets"))
        except OSError:
            return []
        return sorted(name[:-5] for name in files if name.endswith(".json"))


def _say_nothing(text: str) -> None:
    """Take the place of the progress where none is wanted."""


def _source_of(item: Any) -> str:
    """Return a source as it is kept: paths whole, so that they hold in any folder."""
    if isinstance(item, tuple):
        return str(item[0].path(item[1]))
    text = str(item.as_argument() if hasattr(item, "as_argument") else item)
    return text if "://" in text else os.path.abspath(os.path.expanduser(text))


def _fetch(source: str) -> str:
    """Return the path of a source; what a URL leads to is fetched once."""
    if "://" not in source:
        return source
    name = hashlib.sha256(source.encode()).hexdigest()[:16]
    target = os.path.join(
        cache_root(), "data", name, os.path.basename(source.partition("?")[0]) or "data"
    )
    if not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        temporary = f"{target}.{os.getpid()}.tmp"
        try:
            with (
                urllib.request.urlopen(source, timeout=_SILENCE_S) as answer,
                open(temporary, "wb") as file,
            ):
                shutil.copyfileobj(answer, file)
        except OSError as error:
            raise JobsError(f"{source} cannot be fetched: {error}.") from None
        os.replace(temporary, target)
    return target
