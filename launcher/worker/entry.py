"""What a process of the supervisor's does first: a worker after its exec, or a fork server.

A worker ends in the program that it is to run.
"""

from __future__ import annotations

import os
import sys

from launcher.system.bare import die_with_parent
from launcher.worker import bootstrap, diagnose, title

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
    from typing import Any

    # What is run: its kind, its name, its arguments, and where it notes why it has failed.
    Job = tuple[str, str, list[str], str | None]
else:
    import _signal as signal  # `signal` makes enumerations of it, which takes each rank 2 ms


def main(arguments: Sequence[str], loaded_by_python: set[str], on_interrupt: Any) -> None:
    """Be a worker, or a fork server and its workers.

    arguments: see `__main__.py`. on_interrupt: what the program is to find as SIGINT's handler.
    """
    bootstrap.LOADED_BY_PYTHON = loaded_by_python
    mode, *others = arguments
    job = _prepare_after_exec(others) if mode == "run" else _prepare_after_fork(*others[:2])
    if os.environ.get("LAUNCHER_AGREE"):  # named in contract/environment.py, which takes time
        from launcher.worker.agreement import agree_first

        job = agree_first(*job)
    signal.signal(signal.SIGINT, on_interrupt)
    bootstrap.run(*job)


def _prepare_after_exec(arguments: Sequence[str]) -> Job:
    kind, parent_pid, shown, target, *args = arguments
    if not die_with_parent(signal.SIGKILL, int(parent_pid)):
        sys.exit(1)
    error_file = os.environ.get("LAUNCHER_ERROR_FILE")
    diagnose.arm(error_file)
    title.set_title(shown)
    bootstrap.set_import_path(kind, target)
    return kind, target, args, error_file


def _prepare_after_fork(socket_fd: str, parent_pid: str) -> Job:
    from launcher.worker import forkserver

    request = forkserver.main(int(socket_fd), int(parent_pid))
    if request is None:
        os._exit(0)  # the server itself: nothing to tear down
    return request.kind, request.target, list(request.args), request.error_file
