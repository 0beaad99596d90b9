"""Makes a worker able to say where it is: at a crash, and whenever the supervisor asks.

A private signal makes faulthandler write the Python stacks of all threads into the worker's stack
file. That works while the worker is stuck in C code, and needs nothing from the script.
"""

from __future__ import annotations

import faulthandler
import os

from launcher.contract.files import STACK_SIGNAL, stack_file
from launcher.system.files import move_out_of_the_way


def arm(error_file: str | None) -> None:
    """Install the crash handler on stderr, and the stack dump on the private signal."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        faulthandler.enable()
        if error_file is not None:
            # Kept open for the life of the process: a signal handler can open nothing.
            fd = move_out_of_the_way(os.open(stack_file(error_file), flags, 0o644))
            faulthandler.register(STACK_SIGNAL, file=fd, all_threads=True)
    except (OSError, ValueError, RuntimeError):
        pass  # stderr is closed, or the disk is full: then there are no stacks
