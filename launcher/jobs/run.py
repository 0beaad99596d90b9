"""Run: what a script logs to while it runs, and what everybody reads afterwards.

Owns who a run is, its life and its children. Every rank imports this file, so it loads little.
"""

from __future__ import annotations

import os

from launcher.jobs import metrics
from launcher.jobs.run_files import RunFiles
from launcher.jobs.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterator, Sequence
    from typing import Any

    from launcher.jobs.environment import Environment
    from launcher.jobs.experiment import Experiment
    from launcher.jobs.workspace import Workspace

_RUN_VARIABLE = "LAUNCHER_JOBS_RUN"


class Run(RunFiles):
    """One run of an experiment."""

    _known_experiment: Experiment | None = None

    def __init__(
        self, experiment: Experiment | None, run_id: str, outputs: object = None, **_: object
    ) -> None:
        store = experiment.workspace._store if experiment is not None else _store_of_context()
        self._setup(store.run(run_id))
        self._known_experiment = experiment
        if not os.path.exists(self._folder.asked):
            from launcher.jobs.errors import JobsError

            raise JobsError(
                f"There is no run {run_id} in {store.root}.",
                hint="Type: python -m launcher.jobs list",
            )

    # --- Who am I

    @staticmethod
    def get_context(allow_offline: bool = True, used_for_context_manager: bool = False) -> Run:
        """Return the run in which this process runs; alone, one that only prints."""
        path = os.environ.get(_RUN_VARIABLE, "")
        if path and os.path.isdir(path):
            return ScriptRun._at(path)
        from launcher.jobs.offline import OfflineRun

        return OfflineRun.make(allow_offline)

    @staticmethod
    def get_submitted_run() -> Run:
        """Return the run in which this process runs, as scripts of 2018 ask for it."""
        return Run.get_context()

    @staticmethod
    def get(workspace: Workspace, run_id: str) -> Run:
        """Return a run of a workspace by its id."""
        from launcher.jobs.history import find_run

        return find_run(workspace, run_id)

    @staticmethod
    def list(
        experiment: Experiment,
        type: str | None = None,  # noqa: A002
        tags: object = None,
        properties: dict[str, str] | None = None,
        status: str | None = None,
        include_children: bool = False,
    ) -> Iterator[Run]:
        """Yield the runs of an experiment, newest first."""
        from launcher.jobs.history import find_runs

        return find_runs(
            experiment.workspace,
            experiment.name,
            kind=type,
            tags=tags,
            properties=properties,
            status=status,
            include_children=include_children,
        )

    @property
    def name(self) -> str:
        return self.display_name

    @property
    def number(self) -> int:
        from launcher.jobs.history import number_of

        return number_of(self)

    @property
    def type(self) -> str:
        return str(self._asked["type"])

    @property
    def status(self) -> str:
        return self.get_status()

    @property
    def tags(self) -> dict[str, Any]:
        return self.get_tags()

    @property
    def properties(self) -> dict[str, str]:
        return self.get_properties()

    @property
    def display_name(self) -> str:
        """What this run is called; its id until somebody gives it a name."""
        return self._display_name()

    @display_name.setter
    def display_name(self, value: str) -> None:
        self._append("name", k="display_name", v=value)

    def _display_name(self) -> str:
        return self._look().added.display_name or self.id

    @property
    def description(self) -> str | None:
        return self._look().added.description

    @description.setter
    def description(self, value: str) -> None:
        self._append("name", k="description", v=value)

    @property
    def experiment(self) -> Experiment:
        if self._known_experiment is None:
            from launcher.jobs.experiment import Experiment
            from launcher.jobs.workspace import Workspace

            store = os.path.dirname(os.path.dirname(self._folder.path))
            self._known_experiment = Experiment(Workspace._at(store), self._asked["experiment"])
        return self._known_experiment

    @property
    def parent(self) -> Run | None:
        parent = self._asked.get("parent")
        return self._sibling(parent) if parent else None

    @property
    def input_datasets(self) -> dict[str, Any]:
        return {}

    def _sibling(self, run_id: str) -> Run:
        return Run._at(os.path.join(os.path.dirname(self._folder.path), run_id))

    # --- Its life

    def get_metrics(
        self,
        name: str | None = None,
        recursive: bool = False,
        run_type: str | None = None,
        populate: bool = False,
        *,
        ranks: str | int = "first",
    ) -> dict[str, Any]:
        """Return what was logged: one value itself, several as a list.

        Where several ranks logged one name, the lowest rank's values count; `ranks="all"` gives
        {rank: metrics}, a number those of one rank. recursive: the children's, by their ids, too.
        """
        folder = self._folder.metrics
        if ranks == "first":
            found = metrics.read(folder)
        elif ranks == "all":
            return {
                str(rank): self.get_metrics(name, ranks=rank) for rank in metrics.ranks_of(folder)
            }
        else:
            found = metrics.read_rank(os.path.join(folder, f"rank_{ranks}.jsonl"))
        plain = {key: series.plain() for key, series in found.items() if name in (None, key)}
        if recursive:
            for child in self.get_children(recursive=True):
                plain[child.id] = child.get_metrics(name)
        return plain

    def get_status(self) -> str:
        """Return the status; a run whose process was killed is Failed from the next look on."""
        return self._look().status

    def get_details(self) -> dict[str, Any]:
        """Return everything about the run in one dict."""
        from launcher.jobs.history import details_of

        return details_of(self._look())

    def get_details_with_logs(self) -> dict[str, Any]:
        """Return the same, with the text of its logs in the place of their paths."""
        from launcher.jobs import files
        from launcher.jobs.logs import as_text

        details = self.get_details()
        details["logFiles"] = {
            name: as_text(files.read_log(self._folder, name)) for name in details["logFiles"]
        }
        return details

    def wait_for_completion(
        self,
        show_output: bool = False,
        wait_post_processing: bool = False,
        raise_on_error: bool = True,
    ) -> dict[str, Any]:
        """Wait until the run has ended, showing rank 0's log if you like; return its details.

        Raises ActivityFailedException for a run that failed, with the rank and its cause.
        """
        from launcher.jobs import follow, history, state

        if show_output:
            follow.wait_showing(self._folder, self.get_portal_url(), self._asked, self.get_details)
        state.wait(self._folder)
        if raise_on_error:
            history.raise_if_failed(self._look())
        return self.get_details()

    def cancel(self) -> None:
        """Stop the run and its children: its ranks get SIGTERM, and SIGKILL if they do not end."""
        from launcher.jobs import history

        history.cancel(self._look())

    def complete(self, _set_status: bool = True) -> None:
        """Say that the run has done its work; one that this process looks after has ended then."""
        self._finish("complete", "Completed")

    def fail(
        self, error_details: object = None, error_code: str | None = None, _set_status: bool = True
    ) -> None:
        """Say that the run has failed, and why."""
        self._finish("fail", "Failed", details=str(error_details or ""), code=error_code or "")

    def _finish(self, event: str, status: str, **fields: str) -> None:
        self._append(event, **fields)
        if self._lock >= 0:
            from launcher.jobs import interactive

            interactive.end(self, status, fields.get("details", ""), fields.get("code", ""))

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._lock < 0:
            return
        if error is None:
            self.complete()
        else:
            self.fail(f"{type(error).__name__}: {error}")

    # --- Its children

    def child_run(
        self, name: str | None = None, run_id: str | None = None, outputs: object = None
    ) -> Run:
        """Begin a run below this one, which this process looks after."""
        from launcher.jobs import interactive

        return interactive.begin_child(self, name, run_id)

    def create_children(
        self,
        count: int | None = None,
        tag_key: str | None = None,
        tag_values: Sequence[object] | None = None,
    ) -> builtins.list[Run]:
        """Begin several: so many, or one for each value of a tag."""
        values = tuple(tag_values) if tag_values is not None else (None,) * (count or 0)
        children = []
        for value in values:
            child = self.child_run()
            if tag_key is not None:
                child.tag(tag_key, value)
            children.append(child)
        return children

    def get_children(
        self,
        recursive: bool = False,
        tags: object = None,
        properties: dict[str, str] | None = None,
        type: str | None = None,  # noqa: A002
        status: str | None = None,
        _rehydrate_runs: bool = True,
    ) -> Iterator[Run]:
        """Yield the runs below this one, newest first."""
        from launcher.jobs.history import find_runs

        for child in find_runs(
            self.experiment.workspace,
            None,
            parent=self.id,
            kind=type,
            tags=tags,
            properties=properties,
            status=status,
            include_children=True,
        ):
            yield child
            if recursive:
                yield from child.get_children(True, tags, properties, type, status)

    def submit_child(self, config: Any, tags: dict[str, Any] | None = None) -> Run:
        """Submit a run below this one."""
        return self.experiment.submit(config, tags, parent=self.id)

    # --- Where it came from

    def get_snapshot_id(self) -> str | None:
        """Return which state of the source folder runs here."""
        snapshot_id: str | None = self._asked.get("snapshot")
        return snapshot_id

    def restore_snapshot(self, snapshot_id: str | None = None, path: str | None = None) -> str:
        """Write the run's code as a zip archive into a folder; return its path."""
        from launcher.jobs import snapshot
        from launcher.jobs.errors import JobsError

        wanted = snapshot_id or self.get_snapshot_id()
        if not wanted:
            raise JobsError(f"{self.id} has no snapshot: it ran in this process.")
        target = os.path.join(path or ".", f"{wanted[:16]}.zip")
        return snapshot.zip_to(self.experiment.workspace._store, wanted, os.path.abspath(target))

    def take_snapshot(self, file_or_folder_path: str) -> str:
        """Keep the files of a folder; return the snapshot's id."""
        from launcher.jobs import snapshot

        return snapshot.take(self.experiment.workspace._store, file_or_folder_path).id

    def get_environment(self) -> Environment:
        """Return the environment that was asked for."""
        from launcher.jobs.environment import from_definition

        return from_definition(self._asked["definition"]["environment"])

    def get_portal_url(self) -> str:
        """Return where the run is to be seen: its folder."""
        return "file://" + self._folder.path

    def __repr__(self) -> str:
        asked = self._asked
        return (
            f"Run(Experiment: {asked['experiment']},\nId: {self.id},\nType: {asked['type']},"
            f"\nStatus: {self.get_status()})"
        )

    def _repr_html_(self) -> str:
        from launcher.jobs.widget import as_html

        return as_html(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other._folder.path == self._folder.path

    def __hash__(self) -> int:
        return hash(self._folder.path)


class ScriptRun(Run):
    """A run that was submitted, with a script or a command."""


def _store_of_context() -> Store:
    from launcher.jobs.workspace import Workspace

    return Workspace.from_config()._store
