"""The command lines of workers: which interpreter, with which options, runs what.

Owns the files that python is told to execute for a worker and for a fork server. Starts nothing.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.plan.plan import WorkerPlan

_WORKER_DIR = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "worker")
ENTRY = os.path.join(_WORKER_DIR, "__main__.py")
_EXEC_ENTRY = os.path.join(_WORKER_DIR, "exec_command.py")


def interpreter_flags() -> list[str]:
    """Return the options of this interpreter, as they were typed, for the workers' ones."""
    options: list[str] = []
    arguments = iter(sys.orig_argv[1:])
    for argument in arguments:
        if argument == "--check-hash-based-pycs":
            options += [argument, next(arguments)]
            continue
        if len(argument) < 2 or argument[0] != "-":
            break
        letters = ""
        for index, letter in enumerate(argument[1:], start=1):
            if letter in "cm":  # the program begins
                return [*options, "-" + letters] if letters else options
            if letter in "WX":
                options += ["-" + letter, argument[index + 1 :] or next(arguments)]
                break
            # Workers have no terminal to be interactive on, and their entry no first line to skip.
            letters += letter if letter not in "ix" else ""
        if letters:
            options.append("-" + letters)
    return options


def python_command() -> list[str]:
    """Return the interpreter with its options; PYTHON_EXEC names another, as under torchrun."""
    return [os.environ.get("PYTHON_EXEC") or sys.executable, *interpreter_flags()]


def make_command_line(worker: WorkerPlan, parent_pid: int) -> list[str]:
    """Return what is executed for one worker."""
    if worker.kind == "command":
        return [
            sys.executable,
            "-I",
            "-S",
            _EXEC_ENTRY,
            str(parent_pid),
            worker.target,
            *worker.args,
        ]
    return [
        *python_command(),
        ENTRY,
        "run",
        worker.kind,
        str(parent_pid),
        worker.title,
        worker.target,
        *worker.args,
    ]
