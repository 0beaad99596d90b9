"""The registry of models: files under a name and a number that only ever grows.

<store>/models/<name>/<version>/ holds the files and model.json, which is written last: a version
without it is none. mkdir gives out the numbers, so that two who register at once get two.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from datetime import datetime, timezone

from launcher.jobs import files
from launcher.jobs.errors import JobsError, ModelNotFoundException
from launcher.jobs.store import RunFolder, Store, cannot_write, check_name, read_json, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from launcher.jobs.run import Run
    from launcher.jobs.workspace import Workspace

_FILES = "files"


class Model:
    """One version of a registered model."""

    def __init__(
        self,
        workspace: Workspace,
        name: str | None = None,
        id: str | None = None,  # noqa: A002
        tags: object = None,
        properties: dict[str, str] | None = None,
        version: int | str | None = None,
        run_id: str | None = None,
        **_: object,
    ) -> None:
        if id:
            name, _colon, number = id.partition(":")
            version = number or version
        if name is None:
            raise ModelNotFoundException("Neither the name nor the id of a model was given.")
        for candidate in _versions(workspace._store, name):
            if version is not None and candidate != int(version):
                continue
            found = read_json(_path(workspace._store, name, candidate, "model.json"))
            if found and _fits(found, tags, properties, run_id):
                self._setup(workspace, found)
                return
        wanted = f"{name}:{version}" if version is not None else name
        raise ModelNotFoundException(
            f"ModelNotFound: there is no model {wanted} in this workspace.",
            hint="Type: python -m launcher.jobs models",
        )

    def _setup(self, workspace: Workspace, found: dict[str, Any]) -> None:
        self.workspace = workspace
        self._found = found
        self.name: str = found["name"]
        self.version: int = found["version"]
        self.id = f"{self.name}:{self.version}"
        self.description: str | None = found.get("description")
        self.tags: dict[str, Any] = found.get("tags") or {}
        self.properties: dict[str, Any] = found.get("properties") or {}
        self.run_id: str | None = found.get("run_id")
        self.model_framework: str | None = found.get("framework")
        self.model_framework_version: str | None = found.get("framework_version")
        self.created_time = datetime.fromtimestamp(found["created"], timezone.utc)
        self.url = f"aml://asset/{self.id}"
        self.sha256: str = found.get("sha256", "")

    @classmethod
    def _from(cls, workspace: Workspace, found: dict[str, Any]) -> Model:
        made = cls.__new__(cls)
        made._setup(workspace, found)
        return made

    @property
    def run(self) -> Run | None:
        from launcher.jobs.history import find_run

        return find_run(self.workspace, self.run_id) if self.run_id else None

    @staticmethod
    def register(
        workspace: Workspace,
        model_path: str,
        model_name: str,
        tags: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
        description: str | None = None,
        datasets: object = None,
        model_framework: object = None,
        model_framework_version: str | None = None,
        child_paths: object = None,
        **_: object,
    ) -> Model:
        """Copy a file or folder into the registry, as the next version of this name."""
        if not os.path.exists(model_path):
            raise JobsError(f"There is no file or folder {model_path} to register.")
        return _register(
            workspace,
            model_name,
            model_path,
            tags=tags or {},
            properties=properties or {},
            description=description,
            framework=str(model_framework) if model_framework is not None else None,
            framework_version=model_framework_version,
        )

    @staticmethod
    def list(
        workspace: Workspace,
        name: str | None = None,
        tags: object = None,
        properties: dict[str, str] | None = None,
        run_id: str | None = None,
        latest: bool = False,
        **_: object,
    ) -> list[Model]:
        """Return the models that fit, the newest version of each name first."""
        names = [name] if name else sorted(_listdir(workspace._store.join("models")))
        models = []
        for one in names:
            for version in _versions(workspace._store, one):
                found = read_json(_path(workspace._store, one, version, "model.json"))
                if found and _fits(found, tags, properties, run_id):
                    models.append(Model._from(workspace, found))
                    if latest:
                        break
        return models

    def download(
        self, target_dir: str = ".", exist_ok: bool = False, exists_ok: bool | None = None
    ) -> str:
        """Copy the model's file or folder into a folder; return its path there."""
        source = self._files()
        target = os.path.join(target_dir, os.path.basename(source))
        if os.path.exists(target) and not (exist_ok or exists_ok):
            raise JobsError(f"{target} exists already.", hint="exist_ok=True replaces it.")
        try:
            os.makedirs(target_dir, exist_ok=True)
            _copy(source, target)
        except OSError as error:
            raise cannot_write(target, error) from None
        return target

    def _files(self) -> str:
        """Return the path of the model's file or folder in the registry."""
        folder = _path(self.workspace._store, self.name, self.version, _FILES)
        return os.path.join(folder, self._found["path"])

    @staticmethod
    def get_model_path(
        model_name: str, version: int | None = None, _workspace: Workspace | None = None
    ) -> str:
        """Return where a model lies: for scoring scripts first below AZUREML_MODEL_DIR."""
        folder = os.environ.get("AZUREML_MODEL_DIR", "azureml-models")
        found = sorted(_listdir(os.path.join(folder, model_name)))
        if found:
            name = str(version) if version is not None else found[-1]
            inner = _listdir(os.path.join(folder, model_name, name))
            return os.path.join(folder, model_name, name, *inner[:1])
        if _workspace is None:
            from launcher.jobs.workspace import Workspace

            _workspace = Workspace.from_config()
        return Model(_workspace, model_name, version=version)._files()

    def add_tags(self, tags: dict[str, Any]) -> None:
        """Attach tags."""
        self.tags.update(tags)
        self._found["tags"] = self.tags
        path = _path(self.workspace._store, self.name, self.version, "model.json")
        write_json(path, self._found)

    def delete(self) -> None:
        """Remove this version; its number is not given out again."""
        folder = _path(self.workspace._store, self.name, self.version)
        os.unlink(os.path.join(folder, "model.json"))
        shutil.rmtree(os.path.join(folder, _FILES))

    def serialize(self) -> dict[str, Any]:
        """Return what is kept of it."""
        return {**self._found, "id": self.id}

    def __repr__(self) -> str:
        return (
            f"Model(workspace={self.workspace!r}, name={self.name}, id={self.id},"
            f" version={self.version}, tags={self.tags}, properties={self.properties})"
        )


def register_from_run(
    run: RunFolder, name: str, path: str | None, *, tags: dict[str, Any] | None, **more: Any
) -> Model:
    """Register a file or folder of a run's; without a path, what lies in outputs/ by that name."""
    from launcher.jobs.workspace import Workspace

    inside = files.clean_name(path or f"outputs/{name}")
    source = files.path_of(run, inside)
    if not os.path.exists(source):
        names = [known for known in files.names_of(run, {}) if known.startswith("outputs/")]
        raise JobsError(
            f"{run.run_id} has no {path or inside} to register.",
            hint=f"It has: {', '.join(names[:8])}." if names else "Its outputs/ is empty.",
        )
    framework = more.pop("framework", None)
    return _register(
        Workspace._at(os.path.dirname(os.path.dirname(run.path))),
        name,
        source,
        tags=tags or {},
        run_id=run.run_id,
        framework=str(framework) if framework is not None else None,
        **more,
    )


def _register(workspace: Workspace, name: str, source: str, **more: Any) -> Model:
    store = workspace._store
    check_name(name, "a model")
    store.open_for_writing(workspace.name)
    path = os.path.basename(os.path.abspath(source))
    try:
        version = _take_number(store, name)
        folder = _path(store, name, version, _FILES)
        os.makedirs(folder)
        _copy(source, os.path.join(folder, path))
        num_bytes, digest = _measure(os.path.join(folder, path))
        found = {
            **more,
            "name": name,
            "version": version,
            "path": path,
            "created": time.time(),
            "bytes": num_bytes,
            "sha256": digest,
        }
        write_json(_path(store, name, version, "model.json"), found, is_lasting=True)
    except OSError as error:
        raise cannot_write(store.root, error) from None
    return Model._from(workspace, found)


def _take_number(store: Store, name: str) -> int:
    folder = store.join("models", name)
    os.makedirs(folder, exist_ok=True)
    while True:
        taken = [int(entry) for entry in os.listdir(folder) if entry.isdigit()]
        version = max(taken, default=0) + 1
        try:
            os.mkdir(os.path.join(folder, str(version)))
        except FileExistsError:
            continue
        return version


def _copy(source: str, target: str) -> None:
    if os.path.isdir(source):
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def _measure(path: str) -> tuple[int, str]:
    """Return size and SHA-256 of a file, or of all files of a folder with their names."""
    digest = hashlib.sha256()
    num_bytes = 0
    paths = [path]
    if os.path.isdir(path):
        paths = sorted(os.path.join(top, name) for top, _, names in os.walk(path) for name in names)
    for one in paths:
        if one != path:
            digest.update(os.path.relpath(one, path).encode() + b"\0")
        with open(one, "rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
                num_bytes += len(data)
    return num_bytes, digest.hexdigest()


def _fits(
    found: dict[str, Any], tags: object, properties: dict[str, str] | None, run_id: str | None
) -> bool:
    """Tell whether a model has these tags: names, pairs of name and value, or a dict."""
    have = found.get("tags") or {}
    items = list(tags.items()) if isinstance(tags, dict) else list(tags or [])  # type: ignore[call-overload]
    for item in items:
        key, value = (item, None) if isinstance(item, str) else item
        if key not in have or (value is not None and str(have[key]) != str(value)):
            return False
    theirs = found.get("properties") or {}
    if any(theirs.get(key) != value for key, value in (properties or {}).items()):
        return False
    return run_id is None or found.get("run_id") == run_id


def _versions(store: Store, name: str) -> list[int]:
    """Return the numbers of a model, newest first."""
    entries = _listdir(store.join("models", name))
    return sorted((int(entry) for entry in entries if entry.isdigit()), reverse=True)


def _path(store: Store, name: str, version: int, *more: str) -> str:
    return store.join("models", name, str(version), *more)


def _listdir(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
