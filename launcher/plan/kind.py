"""What kind of program a spec names, and whether a fork server is the way to start it. Layer 1."""

from __future__ import annotations

import os.path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.options.spec import LaunchSpec


def program_kind(spec: LaunchSpec) -> str:
    """Return how the target is run: command, module, run_path, package (a folder or an archive) or script."""
    if spec.no_python:
        return "command"
    if spec.module:
        return "module"
    if spec.run_path:
        return "run_path"
    return "package" if os.path.isdir(spec.script) or _is_archive(spec.script) else "script"


def _is_archive(path: str) -> bool:
    """Tell whether python would run a file as a zip archive, whatever its name."""
    if path.endswith((".py", ".pyc")) or not os.path.isfile(path):
        return False
    from zipimport import ZipImportError, zipimporter

    try:
        zipimporter(path)
    except ZipImportError:
        return False
    return True


def starts_warm(spec: LaunchSpec) -> bool:
    """Whether to try a fork server. It has nothing to offer to foreign commands, and to one worker that is started once."""
    if program_kind(spec) == "command" or spec.start == "spawn":
        return False
    return spec.start == "warm" or spec.nproc != 1 or spec.max_restarts > 0
