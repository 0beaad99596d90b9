"""What a person sees who waits for a run: its log as it comes, then how it ended.

The texts are those that Azure ML's users know.
"""

from __future__ import annotations

import json
import os
import time

from launcher.jobs import files, state
from launcher.jobs.logs import LogReader, as_text
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


def follow(run: RunFolder, rank: int | None, timeout_s: float | None = None) -> Iterator[str]:
    """Yield the text of a run's log as it comes, until the run has ended."""
    reader = LogReader(run, rank)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        record = state.look(run)
        is_over = record is None or record.is_over
        text = as_text(reader.read(is_over=is_over))
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
    said = ""
    shown = 0
    shape_rank = 0 if files.driver_log_name(asked).endswith("_0.txt") else None
    while not os.path.exists(run.driver_log):
        record = state.look(run)
        if record is None or record.is_over:
            break
        shown = _show_build(run, shown)
        if record.status == "Queued" and record.reason != said:
            said = record.reason
            show(f"Queued: {said}")
        time.sleep(_POLL_S)
    _show_build(run, shown)
    if not os.path.exists(run.driver_log):
        return
    _show_heading(files.driver_log_name(asked))
    for text in follow(run, shape_rank):
        show(text, end="")


def _show_build(run: RunFolder, shown: int) -> int:
    """Show how the building of the environment goes on from a byte; return up to where."""
    try:
        with open(run.build_log, "rb") as file:
            file.seek(shown)
            data = file.read()
    except OSError:
        return shown
    if data and not shown:
        _show_heading("azureml-logs/20_image_build_log.txt")
    show(as_text(data), end="")
    return shown + len(data)


def _show_heading(name: str) -> None:
    show(f"\nStreaming {name}\n{'=' * (len(name) + 10)}\n")
