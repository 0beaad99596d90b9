"""What a person sees who waits for a run: its log as it comes, then how it ended.

The texts are those that Azure ML's users know.
"""

from __future__ import annotations

import json
import os
import time

from launcher.jobs import files, state
from launcher.jobs.screen import show
from launcher.jobs.store import RunFolder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

# How long a new line may stay unseen.
_POLL_S = 0.05

_INTERRUPTED = (
    "The output streaming for the run interrupted.\n"
    "But the run is still executing on the compute target.\n"
    "Details for canceling the run: run.cancel(), or python -m launcher.jobs cancel {id}"
)


class LogReader:
    """Reads on in a log that grows; whole lines only, until it is told that no more will come."""

    def __init__(self, path: str, rank: int | None) -> None:
        self._path = path
        self._rank = rank
        self._offset = 0
        self._rest = b""

    def read(self, *, is_over: bool = False) -> str:
        """Return what has come since the last call."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return ""
        self._offset += len(data)
        data = self._rest + data
        end = len(data) if is_over else data.rfind(b"\n") + 1
        self._rest = data[end:]
        lines = data[:end].splitlines(keepends=True)
        return b"".join(files.lines_of_rank(lines, self._rank)).decode("utf-8", "backslashreplace")


def follow(run: RunFolder, rank: int | None, timeout_s: float | None = None) -> Iterator[str]:
    """Yield the text of a run's log as it comes, until the run has ended."""
    reader = LogReader(run.driver_log, rank)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        record = state.look(run)
        is_over = record is None or record.is_over
        text = reader.read(is_over=is_over)
        if text:
            yield text
        if is_over or (deadline is not None and time.monotonic() > deadline):
            return
        time.sleep(_POLL_S)


def wait_showing(
    run: RunFolder, url: str, asked: dict[str, Any], details: Callable[[], dict[str, Any]]
) -> None:
    """Show a run until it has ended, rank 0's log among it, and then its summary."""
    try:
        _stream(run, url, asked)
    except KeyboardInterrupt:
        show(_INTERRUPTED.format(id=run.run_id))
        raise
    found = details()
    show("\nExecution Summary\n=================")
    show(f"RunId: {run.run_id}\nWeb View: {url}")
    if found.get("warnings"):
        show("\nWarnings:")
        for warning in found["warnings"]:
            show(warning["message"])
    if found.get("error"):
        show("\nError:")
        show(json.dumps(found["error"]["error"]["message"]))
    show()


def _stream(run: RunFolder, url: str, asked: dict[str, Any]) -> None:
    show(f"RunId: {run.run_id}\nWeb View: {url}")
    if "definition" not in asked:
        state.wait(run)
        return
    build = LogReader(run.build_log, None)
    is_building = False
    said = ""
    shape_rank = 0 if files.driver_log_name(asked).endswith("_0.txt") else None
    while not os.path.exists(run.driver_log):
        record = state.look(run)
        if record is None or record.is_over:
            break
        text = build.read()
        if text and not is_building:
            _show_heading("azureml-logs/20_image_build_log.txt")
            is_building = True
        show(text, end="")
        if record.status == "Queued" and record.reason != said:
            said = record.reason
            show(f"Queued: {said}")
        time.sleep(_POLL_S)
    show(build.read(is_over=True), end="")
    if not os.path.exists(run.driver_log):
        return
    _show_heading(files.driver_log_name(asked))
    for text in follow(run, shape_rank):
        show(text, end="")


def _show_heading(name: str) -> None:
    show(f"\nStreaming {name}\n{'=' * (len(name) + 10)}\n")
