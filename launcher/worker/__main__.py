"""Entry of every process that the supervisor starts, run by path: a worker, or the fork server.

python __main__.py run KIND PARENT_PID TITLE TARGET [ARGS...]      a worker, started by exec
python __main__.py forkserver SOCKET_FD PARENT_PID ROOM            the fork server
"""

from __future__ import annotations

import os
import sys

_LOADED_BY_PYTHON = set(sys.modules)

import signal  # noqa: E402

_ON_INTERRUPT = signal.getsignal(signal.SIGINT)


def _enter() -> None:
    # Ctrl-C while we prepare ends the process quietly; the script will find python's handler.
    if _ON_INTERRUPT is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Run by path, python has put this folder first: our modules would shadow the user's.
    parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if sys.path and os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]
    sys.path.insert(0, parent)
    import launcher.worker  # noqa: F401  (see below)

    # The package knows by now where its modules are. Installed, its parent holds all kinds of
    # others, which must not come before python's own.
    del sys.path[0]
    from launcher.worker import bootstrap

    bootstrap.LOADED_BY_PYTHON = _LOADED_BY_PYTHON


def _prepare_after_exec(arguments: list[str]) -> tuple[str, str, list[str], str | None]:
    from launcher.system.processes import die_with_parent
    from launcher.worker import bootstrap, diagnose, title

    kind, parent_pid, shown, target, *args = arguments
    if not die_with_parent(signal.SIGKILL, int(parent_pid)):
        sys.exit(1)
    error_file = os.environ.get("LAUNCHER_ERROR_FILE")
    diagnose.arm(error_file)
    title.set_title(shown)
    bootstrap.set_import_path(kind, target)
    return kind, target, args, error_file


def _prepare_after_fork(socket_fd: str, parent_pid: str) -> tuple[str, str, list[str], str | None]:
    from launcher.worker import forkserver

    request = forkserver.main(int(socket_fd), int(parent_pid))
    if request is None:
        os._exit(0)  # the server itself: nothing to tear down
    return request.kind, request.target, list(request.args), request.error_file


if __name__ == "__main__":
    _enter()
    _mode, *_arguments = sys.argv[1:]
    _job = (
        _prepare_after_exec(_arguments) if _mode == "run" else _prepare_after_fork(*_arguments[:2])
    )
    from launcher.worker.bootstrap import run

    if os.environ.get("LAUNCHER_AGREE"):  # named in contract/environment.py, which takes time
        from launcher.worker.agreement import agree_first

        _job = agree_first(*_job)
    signal.signal(signal.SIGINT, _ON_INTERRUPT)
    run(*_job)
