"""The files of a run under the names that its users know.

    outputs/...  logs/...  images/...        as they lie in the run's folder
    azureml-logs/70_driver_log[_<rank>].txt  the driver log, or a rank's lines of it
    user_logs/std_log[_<rank>].txt           the same under its later name
    azureml-logs/20_image_build_log.txt      what the building of the environment said

Nothing is stored twice: a rank's log is that which the launcher keeps, or is cut out of the driver
log when it is read.
"""

from __future__ import annotations

import os
import re
import shutil

from launcher.jobs.configuration import shape_of
from launcher.jobs.engine import is_tagged
from launcher.jobs.errors import JobsError
from launcher.jobs.logs import LogReader
from launcher.jobs.store import RunFolder, cannot_write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FOLDERS = ("outputs", "logs", "images", "files")
_BUILD_LOG = "azureml-logs/20_image_build_log.txt"
_LOG_NAME = re.compile(r"(?:azureml-logs/70_driver_log|user_logs/std_log)(?:_(\d+))?\.txt")


def names_of(run: RunFolder, asked: dict[str, Any]) -> list[str]:
    """Return the names of all files of a run."""
    found = []
    for folder in _FOLDERS:
        top = run.join(folder)
        for path, folders, files in os.walk(top):
            folders.sort()
            below = os.path.relpath(path, run.path if folder != "files" else top)
            found += [os.path.normpath(os.path.join(below, name)) for name in files]
    return sorted([*found, *log_names(run, asked)])


def log_names(run: RunFolder, asked: dict[str, Any]) -> list[str]:
    """Return the names of the logs that there are by now."""
    names = [_BUILD_LOG] if os.path.exists(run.build_log) else []
    if os.path.exists(run.driver_log) and "definition" in asked:
        for stem in ("azureml-logs/70_driver_log", "user_logs/std_log"):
            shape = shape_of(asked["definition"])
            ranks = range(shape.num_processes) if is_tagged(shape) else ()
            names += [f"{stem}_{rank}.txt" for rank in ranks] or [f"{stem}.txt"]
    return names


def driver_log_name(asked: dict[str, Any], rank: int = 0) -> str:
    """Return the name of a rank's log."""
    suffix = f"_{rank}" if is_tagged(shape_of(asked["definition"])) else ""
    return f"azureml-logs/70_driver_log{suffix}.txt"


def clean_name(name: str) -> str:
    """Return a file's name as it stands in the list: `./outputs/x` is `outputs/x`."""
    plain = os.path.normpath(name)
    if plain.startswith(("..", "/")):
        raise JobsError(f"{name!r} is no name of a run's file: it leaves the run.")
    return plain


def path_of(run: RunFolder, name: str) -> str:
    """Return where a file of a run lies, or is to lie; not for logs, which lie nowhere."""
    plain = clean_name(name)
    top = plain.partition(os.sep)[0]
    return run.join(plain) if top in _FOLDERS[:3] else run.join("files", plain)


def save(run: RunFolder, asked: dict[str, Any], name: str, target: str) -> None:
    """Write a file of a run to `target`."""
    plain = clean_name(name)
    try:
        folder = os.path.dirname(os.path.abspath(target))
        os.makedirs(folder, exist_ok=True)
        if plain == _BUILD_LOG or _LOG_NAME.fullmatch(plain):
            with open(target, "wb") as file:
                file.write(read_log(run, plain))
            return
        shutil.copyfile(path_of(run, plain), target)
    except FileNotFoundError:
        names = names_of(run, asked)
        near = [known for known in names if os.path.basename(plain) in known][:3]
        raise JobsError(
            f"{run.run_id} has no file {name}.",
            hint=f"It has: {', '.join(near or names[:8])}." if names else "It has none yet.",
        ) from None
    except OSError as error:
        raise cannot_write(target, error) from None


def read_log(run: RunFolder, name: str) -> bytes:
    """Return what a log holds."""
    match = _LOG_NAME.fullmatch(name)
    if match is not None:
        return LogReader(run, int(match[1]) if match[1] else None).read(is_over=True)
    with open(run.build_log, "rb") as file:
        return file.read()


def add(run: RunFolder, name: str, source: Any) -> str:
    """Copy a file, or what a stream holds, into a run; return its path there."""
    target = path_of(run, name)
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if hasattr(source, "read"):
            data = source.read()
            with open(target, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
        elif os.path.realpath(source) != os.path.realpath(target):
            shutil.copyfile(source, target)
    except FileNotFoundError:
        raise JobsError(f"There is no file {source} to upload as {name}.") from None
    except OSError as error:
        raise cannot_write(target, error) from None
    return target
