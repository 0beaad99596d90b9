"""conda, or a program that understands the same words, where there is one: it solves and installs.

One command makes the environment with Python and conda's packages; pip's come later, from pip.
"""

from __future__ import annotations

import os
import re
import shutil

from launcher.jobs.errors import EnvironmentException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# The quickest first.
_PROGRAMS = ("micromamba", "mamba", "conda")

# Where a shell says which it has, when it is a function there and no program on the PATH.
_VARIABLES = ("MAMBA_EXE", "CONDA_EXE")

_DEFAULT_CHANNEL = "conda-forge"

# How they say what cannot be had. Of conda, the line behind its headline has the name.
_REFUSAL = re.compile(
    r"PackagesNotFoundError:[^\n]*\n(?:\s*\n)*\s*- (?P<conda>[^\n]+)"
    r"|(?P<line>[^\n]*(?:does not exist|nothing provides|not installable|conflicts with)[^\n]*)"
)


def find() -> str | None:
    """Return the program, if there is one."""
    for name in _PROGRAMS:
        path = shutil.which(name)
        if path is not None:
            return path
    for variable in _VARIABLES:
        path = os.environ.get(variable)
        if path and os.access(path, os.X_OK):
            return path
    return None


def create(
    program: str,
    folder: str,
    channels: Sequence[str],
    packages: Sequence[str],
    *,
    run: Callable[[Sequence[str]], int],
    read_log: Callable[[], str],
) -> None:
    """Make the environment in a folder; EnvironmentException names what cannot be had."""
    begin = len(read_log())
    argv = [program, "create", "--yes", "--prefix", folder]
    argv += [word for name in channels or [_DEFAULT_CHANNEL] for word in ("--channel", name)]
    if run([*argv, *packages]) != 0:
        name = os.path.basename(program)
        raise EnvironmentException(f"{name} cannot make it: {_refused(read_log()[begin:])}")


def _refused(said: str) -> str:
    """Return what of a solver's output names the cause: that line, or its last one."""
    match = _REFUSAL.search(said)
    if match is not None:
        found = match["conda"] or match["line"]
        return found.strip(" \t│├└─╰-") + (" is in no channel" if match["conda"] else "")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "see the log of the build"
