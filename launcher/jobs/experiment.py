"""Experiment: a name under which runs of one kind are kept."""

from __future__ import annotations

from launcher.jobs import configuration
from launcher.jobs.errors import RunConfigurationException
from launcher.jobs.run import Run, ScriptRun
from launcher.jobs.store import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from launcher.jobs.workspace import Workspace


class Experiment:
    """All runs of one name in a workspace; made by its first run."""

    def __init__(self, workspace: Workspace, name: str, **_: object) -> None:
        self.workspace = workspace
        self.name = check_name(name, "an experiment")

    @property
    def id(self) -> str:
        return self.name

    def submit(self, config: Any, tags: dict[str, Any] | None = None, **kwargs: Any) -> ScriptRun:
        """Start a run and return at once; a mistake in `config` is raised before anything exists.

        kwargs: `parent`, a run's id; `display_name`; `launcher_options`, flags for
        `python -m launcher`.
        """
        from launcher.jobs import submit

        convert = getattr(config, "as_script_run_config", None)
        if convert is not None:
            config = convert()
        if not isinstance(config, configuration.ScriptRunConfig):
            raise RunConfigurationException(
                f"{type(config).__name__} cannot be submitted.", hint="Give a ScriptRunConfig."
            )
        definition = configuration.make_definition(config.run_config)
        if self.workspace._environments == "nearest":
            definition["environment"]["python"]["nearest"] = True
        folder = submit.submit(
            self.workspace._store,
            self.name,
            definition,
            config.source_directory,
            tags=dict(tags or {}),
            resume_from=_path_of_outputs(config.resume_from),
            **kwargs,
        )
        run = ScriptRun._at(folder.path)
        run._known_experiment = self
        return run

    def start_logging(self, *args: object, **kwargs: object) -> Run:
        """Begin a run that this process looks after: it logs, and ends it with `complete()`.

        No folder is copied; `display_name=` gives it a name.
        """
        from launcher.jobs import interactive

        name = kwargs.get("display_name")
        return interactive.begin(self.workspace._store, self.name, of=self, display_name=name)

    def get_runs(
        self,
        type: str | None = None,  # noqa: A002
        tags: object = None,
        properties: dict[str, str] | None = None,
        include_children: bool = False,
    ) -> Iterator[Run]:
        """Yield its runs, newest first."""
        return Run.list(self, type, tags, properties, include_children=include_children)

    def get_portal_url(self) -> str:
        """Return where its runs are to be seen."""
        return "file://" + self.workspace._store.join("runs")

    def __repr__(self) -> str:
        return f"Experiment(Name: {self.name},\nWorkspace: {self.workspace.name})"


def _path_of_outputs(resume_from: Any) -> str | None:
    """Return the folder from which a run is to go on: that of a run's outputs, or a path."""
    if resume_from is None:
        return None
    if isinstance(resume_from, Run):
        return resume_from._folder.join("outputs")
    return configuration.make_argument(resume_from)
