"""Parts of the log files of a run, for somebody who has not got them: so much at a time.

Whoever asks says how far each file is there already. Of a file of which very much is not, only the
end is given.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from launcher.named import NamedTuple
from launcher.runs.logs import is_notes_name, list_folders, read_log_name

# So much of the end of what is not known of a file.
MOST_BEFORE_BYTES = 8 << 20

# At least so much of a file that has grown, if anything.
_LEAST_BYTES = 1024


class Part(NamedTuple):
    """What stands in a file from this offset on."""

    name: str
    offset: int
    data: bytes
    # How large the file is now.
    size: int


def list_inner(logs: str) -> list[str]:
    """Return the folders with log files, relative to the first: that of each attempt."""
    return [os.path.relpath(folder, logs) for folder in list_folders(logs)]


def read_parts(
    logs: str, inner: str, ranks: Collection[int], known: Mapping[str, int], most_bytes: int
) -> list[Part]:
    """Return what these ranks have written in an attempt that is not known; b"" of what is empty.

    inner: one of `list_inner`. known: name of a file -> how much of it is known.
    """
    if inner not in list_inner(logs):
        return []
    folder = os.path.normpath(os.path.join(logs, inner))
    names = sorted(os.listdir(folder))
    wanted = [name for name in names if (rank := read_log_name(name)) is not None and rank in ranks]
    if wanted:
        wanted += filter(is_notes_name, names)
    sizes = {name: os.stat(os.path.join(folder, name)).st_size for name in wanted}
    grown = [name for name in wanted if known.get(name, -1) < sizes[name]]
    grown.sort(key=lambda name: known.get(name, -1))  # one that grows fast leaves room for others
    each = max(_LEAST_BYTES, most_bytes // max(1, len(grown)))
    parts = []
    for name in grown[: max(1, most_bytes // each)]:
        offset = max(known.get(name, 0), sizes[name] - MOST_BEFORE_BYTES)
        with open(os.path.join(folder, name), "rb") as file:
            file.seek(offset)
            parts.append(Part(name, offset, file.read(each), sizes[name]))
    return parts
