"""What a script logs to its run, and the words that people attach to it.

Every rank imports this file, so it loads little; what only readers need is imported where they use
it.
"""

from __future__ import annotations

import os

from launcher.jobs import metrics
from launcher.jobs.store import RunFolder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TypeVar

    from launcher.jobs.state import Record

    Self = TypeVar("Self", bound="Recorder")


class Recorder:
    """The part of a run that is written to while it runs."""

    def _setup(self, folder: RunFolder) -> None:
        self._folder = folder
        self._writer: metrics.Writer | None = None
        # Of a run that this process itself looks after: the descriptor that holds its lock.
        self._lock = -1

    @classmethod
    def _at(cls: type[Self], path: str) -> Self:
        """Return the run in a folder."""
        made = cls.__new__(cls)
        made._setup(RunFolder(path))
        return made

    @property
    def id(self) -> str:
        return self._folder.run_id

    @property
    def _asked(self) -> dict[str, Any]:
        return self._look_asked()

    def _look_asked(self) -> dict[str, Any]:
        from launcher.jobs.store import read_json

        return read_json(self._folder.asked) or {"type": "azureml.scriptrun", "experiment": ""}

    def _look(self) -> Record:
        from launcher.jobs import state

        record = state.look(self._folder)
        if record is None:
            from launcher.jobs.errors import JobsError

            raise JobsError(f"The run {self.id} has gone: {self._folder.path} is not there.")
        return record

    # --- What it logs

    def log(self, name: str, value: object, description: str = "", step: int | None = None) -> None:
        """Log a number or a text; the same name again makes a series."""
        writer = self._writer
        if writer is None:
            writer = self._writer = self._make_writer()
        writer.log(name, value, step)

    def log_list(self, name: str, value: Iterable[object], description: str = "") -> None:
        """Log several values at once."""
        self._log_object(name, "list", value)

    def log_row(self, name: str, description: str | None = None, **kwargs: object) -> None:
        """Log one row of a table; the same name again adds a row."""
        self._log_object(name, "row", kwargs)

    def log_table(self, name: str, value: dict[str, Any], description: str = "") -> None:
        """Log a table: columns, each with its values."""
        self._log_object(name, "table", value)

    def log_image(
        self, name: str, path: str | None = None, plot: Any = None, description: str = ""
    ) -> None:
        """Log a picture: a file, or the figure of matplotlib (`plot=plt`)."""
        from launcher.jobs import files

        try:
            ending = os.path.splitext(path)[1] if path else ".png"
            stored = self._image_name(name, ending)
            target = files.path_of(self._folder, stored)
            if plot is not None:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                plot.savefig(target, bbox_inches="tight")
            else:
                files.add(self._folder, stored, path)
        except Exception as error:  # a picture is not worth a training
            from launcher.jobs import screen

            screen.warn(f"the image {name} was not kept: {error}")
            return
        self._log_object(name, "image", stored)

    def _image_name(self, name: str, ending: str) -> str:
        safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
        for number in range(1, 1_000_000):
            stored = f"images/{safe}" + (f"_{number}" if number > 1 else "") + ending
            if not os.path.exists(self._folder.join(stored)):
                return stored
        return f"images/{safe}{ending}"

    def log_confusion_matrix(self, name: str, value: object, description: str = "") -> None:
        """Log a confusion matrix in the SDK's schema."""
        self._log_object(name, "table", value)

    log_accuracy_table = log_predictions = log_residuals = log_confusion_matrix

    def _log_object(self, name: str, kind: str, value: object) -> None:
        if self._writer is None:
            self._writer = self._make_writer()
        self._writer.log_object(name, kind, value)

    def _make_writer(self) -> metrics.Writer:
        rank = os.environ.get("RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or "0"
        return metrics.Writer(self._folder.metrics, int(rank) if rank.isdigit() else 0)

    def flush(self, timeout_seconds: int = 300) -> None:
        """Do nothing: what was logged is in the file already."""

    # --- What is said about it

    def _append(self, event: str, **fields: Any) -> None:
        from launcher.jobs import journal

        journal.append(self._folder, event, **fields)

    def tag(self, key: str, value: object = None) -> None:
        """Attach a word, with a value if you like; a later value replaces it."""
        self._append("tag", k=key, v=metrics.to_plain(value))

    def set_tags(self, tags: dict[str, Any]) -> None:
        """Attach several tags."""
        for key, value in tags.items():
            self.tag(key, value)

    def remove_tags(self, tags: Iterable[str]) -> None:
        """Take tags off."""
        for key in tags:
            self._append("untag", k=key)

    def get_tags(self) -> dict[str, Any]:
        """Return the tags."""
        return self._look().added.tags

    def add_properties(self, properties: dict[str, object]) -> None:
        """Attach properties, which nobody can change any more."""
        have = self.get_properties()
        for key, value in properties.items():
            if key in have and have[key] != str(value):
                from launcher.jobs.errors import JobsError

                raise JobsError(
                    f"The property {key} of {self.id} is {have[key]!r} and cannot be changed.",
                    hint="Tags can be.",
                )
        for key, value in properties.items():
            self._append("property", k=key, v=str(value))

    def get_properties(self) -> dict[str, str]:
        """Return the properties, those of the snapshot and of git among them."""
        from launcher.jobs.history import properties_of

        return properties_of(self._look())

    def note(self, text: str) -> None:
        """Add a remark of your own."""
        self._append("note", text=text)
