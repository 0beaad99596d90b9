"""What `Run.get_context()` gives outside of any run: the same calls, which print what they get."""

from __future__ import annotations

import os
import uuid

from launcher.jobs import metrics, screen
from launcher.jobs.errors import RunEnvironmentException
from launcher.jobs.run import Run
from launcher.jobs.store import RunFolder

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from typing import Any


class OfflineRun(Run):
    """A run that is none: nothing is kept."""

    @classmethod
    def make(cls, is_allowed: bool) -> OfflineRun:
        """Return one, or raise where the script insists on a real run."""
        if not is_allowed:
            raise RunEnvironmentException(
                "This process is in no run, and allow_offline=False was given.",
                hint="Submit it: python -m launcher.jobs run SCRIPT",
            )
        made = cls.__new__(cls)
        made._setup(RunFolder(os.path.join(os.getcwd(), f"OfflineRun_{uuid.uuid4()}")))
        made._logged = metrics.Collected()
        made._tags = {}
        made._properties = {}
        return made

    _logged: metrics.Collected
    _tags: dict[str, Any]
    _properties: dict[str, str]

    def log(self, name: str, value: object, description: str = "", step: int | None = None) -> None:
        """Print a value."""
        screen.show(f"Attempted to log scalar metric {name}:\n{value}")
        self._logged.add(name, "", metrics.to_plain(value))

    def _log_object(self, name: str, kind: str, value: object) -> None:
        plain = metrics.to_plain(value)
        screen.show(f"Attempted to log {kind} metric {name}:\n{plain}")
        self._logged.add(name, kind, plain)

    def log_image(
        self, name: str, path: str | None = None, plot: Any = None, description: str = ""
    ) -> None:
        """Print that there is a picture."""
        self._log_object(name, "image", path or "a figure")

    def get_metrics(
        self,
        name: str | None = None,
        recursive: bool = False,
        run_type: str | None = None,
        populate: bool = False,
        *,
        ranks: str | int = "first",
    ) -> dict[str, Any]:
        """Return what was printed."""
        return {key: one.plain() for key, one in self._logged.items() if name in (None, key)}

    def tag(self, key: str, value: object = None) -> None:
        """Remember a tag for as long as the process lives."""
        self._tags[key] = value

    def remove_tags(self, tags: Any) -> None:
        """Forget tags."""
        for key in tags:
            self._tags.pop(key, None)

    def get_tags(self) -> dict[str, Any]:
        """Return the tags."""
        return dict(self._tags)

    def add_properties(self, properties: dict[str, object]) -> None:
        """Remember properties for as long as the process lives."""
        self._properties.update({key: str(value) for key, value in properties.items()})

    def get_properties(self) -> dict[str, str]:
        """Return the properties."""
        return dict(self._properties)

    def upload_file(self, name: str, path_or_stream: Any) -> None:
        """Print that a file would be kept."""
        screen.show(f"Attempted to track file {name} at {path_or_stream}")

    def upload_folder(self, name: str, path: str) -> None:
        """Print that a folder would be kept."""
        screen.show(f"Attempted to track folder {name} at {path}")

    def child_run(
        self, name: str | None = None, run_id: str | None = None, outputs: object = None
    ) -> Run:
        """Return another one of this kind."""
        return OfflineRun.make(True)

    def get_status(self) -> str:
        """Return what a script that asks expects."""
        return "Running"

    def get_file_names(self) -> builtins.list[str]:
        """Return no names: nothing is kept."""
        return []

    def cancel(self) -> None:
        """Do nothing."""

    def _display_name(self) -> str:
        return self.id

    def _append(self, event: str, **fields: Any) -> None:
        """Keep nothing."""

    @property
    def parent(self) -> Run | None:
        return None

    def __repr__(self) -> str:
        return f"Run(Experiment: None,\nId: {self.id},\nType: None,\nStatus: Running)"
