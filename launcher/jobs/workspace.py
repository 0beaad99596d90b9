"""Workspace: where runs, models and environments of some people's work are kept together."""

from __future__ import annotations

import os

from launcher.jobs import screen
from launcher.jobs.errors import RunConfigurationException
from launcher.jobs.store import Store, check_name, default_root, find_config, read_json, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

    from launcher.jobs.compute import ComputeTarget
    from launcher.jobs.data import Datastore, FileDataset
    from launcher.jobs.environment import Environment
    from launcher.jobs.experiment import Experiment
    from launcher.jobs.model import Model

_DEFAULT_NAME = "default"


class Workspace:
    """A store with a name; the names of Azure's that come with it are kept, and mean nothing."""

    location = "local"
    _environments = "exact"

    def __init__(
        self,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        workspace_name: str = _DEFAULT_NAME,
        *,
        store: str | None = None,
        **_: object,
    ) -> None:
        self.name = check_name(workspace_name, "a workspace")
        self.subscription_id = subscription_id
        self.resource_group = resource_group
        root = store or os.environ.get("LAUNCHER_STORE") or default_root(workspace_name)
        self._store = Store(os.path.expanduser(root))

    @classmethod
    def _at(cls, root: str) -> Workspace:
        """Return the workspace of a store's folder."""
        made = cls.__new__(cls)
        made._store = Store(root)
        made.name = made._store.info.get("name") or os.path.basename(root)
        made.subscription_id = made.resource_group = None
        return made

    @staticmethod
    def from_config(
        path: str | None = None,
        auth: object = None,
        _logger: object = None,
        _file_name: str | None = None,
    ) -> Workspace:
        """Return the workspace that the next config.json names, searched as Azure ML does.

        Without one, and with no path given, it is the workspace `default`.
        """
        made, is_default = Workspace._find(path, _file_name)
        if is_default:
            screen.warn(f"no config.json here: runs are kept in {made._store.root}")
        return made

    @staticmethod
    def _find(path: str | None = None, file_name: str | None = None) -> tuple[Workspace, bool]:
        """Return the workspace of a folder, and whether that is the default one."""
        found = find_config(path, file_name)
        if found is None:
            if path is not None:
                raise RunConfigurationException(
                    f"There is no config.json at {path} or above it.",
                    hint="Type: python -m launcher.jobs init NAME",
                )
            return Workspace(), True
        config = read_json(found)
        if not isinstance(config, dict):
            raise RunConfigurationException(f"{found} is no JSON object.")
        store = None if os.environ.get("LAUNCHER_STORE") else config.get("store")
        if store:
            store = os.path.join(os.path.dirname(found), os.path.expanduser(store))
        made = Workspace(
            config.get("subscription_id"),
            config.get("resource_group"),
            config.get("workspace_name") or _DEFAULT_NAME,
            store=store,
        )
        # Pins that cannot be had: "nearest" goes on with what can.
        made._environments = config.get("environments", "exact")
        return made, False

    @staticmethod
    def get(
        name: str,
        auth: object = None,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        **_: object,
    ) -> Workspace:
        """Return a workspace that exists."""
        made = Workspace(subscription_id, resource_group, name)
        if not made._store.info:
            raise RunConfigurationException(
                f"There is no workspace {name} in {made._store.root}.",
                hint=f"Make it: Workspace.create({name!r})",
            )
        return made

    @staticmethod
    def create(
        name: str,
        auth: object = None,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        *_args: object,
        exist_ok: bool = False,
        store: str | None = None,
        **_: object,
    ) -> Workspace:
        """Make a workspace."""
        made = Workspace(subscription_id, resource_group, name, store=store)
        if made._store.info and not exist_ok:
            raise RunConfigurationException(
                f"There is a workspace {name} in {made._store.root} already.",
                hint="exist_ok=True takes it as it is.",
            )
        made._store.open_for_writing(name)
        return made

    def write_config(self, path: str | None = None, file_name: str | None = None) -> None:
        """Write the config.json by which `from_config` finds this workspace."""
        folder = os.path.join(path or ".", ".azureml")
        os.makedirs(folder, exist_ok=True)
        config = {
            "subscription_id": self.subscription_id,
            "resource_group": self.resource_group,
            "workspace_name": self.name,
        }
        if self._store.root != os.path.abspath(default_root(self.name)):
            config["store"] = self._store.root
        write_json(os.path.join(folder, file_name or "config.json"), config)

    def get_details(self) -> dict[str, Any]:
        """Return what there is to know of it."""
        return {
            "name": self.name,
            "id": self._store.info.get("id"),
            "location": self.location,
            "store": self._store.root,
            "layout": self._store.info.get("version"),
        }

    @property
    def experiments(self) -> dict[str, Experiment]:
        from launcher.jobs import index
        from launcher.jobs.experiment import Experiment

        def ask(connection: sqlite3.Connection) -> list[Any]:
            sql = "SELECT DISTINCT experiment FROM run ORDER BY experiment"
            return connection.execute(sql).fetchall()

        return {name: Experiment(self, name) for (name,) in index.read(self._store, ask)}

    @property
    def compute_targets(self) -> dict[str, ComputeTarget]:
        from launcher.jobs.compute import ComputeTarget

        return {target.name: target for target in ComputeTarget.list(self)}

    @property
    def environments(self) -> dict[str, Environment]:
        from launcher.jobs.environment import Environment

        return Environment.list(self)

    @property
    def models(self) -> dict[str, Model]:
        from launcher.jobs.model import Model

        return {model.name: model for model in Model.list(self, latest=True)}

    def get_default_datastore(self) -> Datastore:
        """Return the datastore that every workspace has."""
        from launcher.jobs.data import Datastore

        return Datastore.get_default(self)

    @property
    def datastores(self) -> dict[str, Datastore]:
        default = self.get_default_datastore()
        return {default.name: default}

    @property
    def datasets(self) -> dict[str, FileDataset]:
        from launcher.jobs.data import Dataset

        return {name: Dataset.get_by_name(self, name) for name in Dataset.names_in(self)}

    def get_run(self, run_id: str) -> Any:
        """Return a run by its id."""
        from launcher.jobs.history import find_run

        return find_run(self, run_id)

    def __repr__(self) -> str:
        return f"Workspace.create(name={self.name!r}, store={self._store.root!r})"
