"""What a notebook shows of a run: a table with its state, and a widget's place taken by text."""

from __future__ import annotations

import html

from launcher.jobs import screen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.jobs.run import Run


def as_html(run: Run) -> str:
    """Return a run as the table that notebooks show for it."""
    record = run._look()
    cells = {
        "Experiment": record.asked.get("experiment", ""),
        "Id": run.id,
        "Type": record.asked.get("type", ""),
        "Status": record.status + (f": {record.reason}" if record.reason else ""),
    }
    head = "".join(f"<th>{name}</th>" for name in cells)
    body = "".join(f"<td>{html.escape(str(value))}</td>" for value in cells.values())
    return f'<table style="width:100%"><tr>{head}</tr><tr>{body}</tr></table>'


class RunDetails:
    """The SDK's widget: here the table, and what was logged, as they are when it is shown."""

    def __init__(self, run_instance: Run) -> None:
        self._run = run_instance

    def show(self, render_lib: object = None, widget_settings: object = None) -> None:
        """Print the run's state and its metrics."""
        screen.show(repr(self._run))
        for name, value in self._run.get_metrics().items():
            screen.show(f"{name}: {value}")

    def get_widget_data(self) -> dict[str, object]:
        """Return the same as data."""
        return {"status": self._run.get_status(), "run_metrics": self._run.get_metrics()}

    def _repr_html_(self) -> str:
        return as_html(self._run)
