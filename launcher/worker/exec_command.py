"""Becomes a command that is no Python script, and that dies with the supervisor.

python -I -S exec_command.py PARENT_PID COMMAND [ARGS...]

Run by path, with as little of Python as possible: it stands between the supervisor and every
--no-python worker, and must start in milliseconds. Imports nothing of this package.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent_pid, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)
    # Python ignores SIGPIPE and SIGXFSZ for itself; the command must find them as from a shell.
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"launcher: cannot execute {command[0]}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


main()
