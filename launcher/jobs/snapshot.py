"""A source folder by content: the same file is kept once, and read once while it does not change.

<store>/objects/ab/cdef...       a file, named by the SHA-256 of its content
<store>/snapshots/<sha256>.json  the files of a folder: path, mode, size, content
<store>/snapshots/seen/...       which content a file had when it was last read: a cache
"""

from __future__ import annotations

import json
import os
import time
from typing import NamedTuple

from launcher.jobs.errors import RunConfigurationException, StoreException
from launcher.jobs.ignore import Walk, looks_secret
from launcher.jobs.store import Store, discard, read_json, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# A file younger than this may still change within the tick of its time stamp.
_SETTLED_NS = 2_000_000_000
_CHUNK_BYTES = 1 << 20

# From where on a snapshot is worth a remark: every run keeps a copy of it.
_BIG_BYTES = 100 << 20


class Snapshot(NamedTuple):
    """One state of a source folder."""

    id: str
    num_files: int
    num_bytes: int
    notes: list[str]


def take(store: Store, folder: str) -> Snapshot:
    """Keep the files of a folder; return their snapshot."""
    folder = os.path.abspath(folder)
    if not os.path.isdir(folder):
        raise RunConfigurationException(
            f"source_directory={folder!r} is no folder.", hint="Give the folder of the script."
        )
    walk = Walk(folder, without=store.root)
    seen_path = store.join("snapshots", "seen", _digest(folder.encode())[:32] + ".json")
    seen: dict[str, Any] = read_json(seen_path) or {}
    now = time.time_ns()
    tree: list[list[Any]] = []
    kept: dict[str, Any] = {}
    for found in walk.files():
        mark = [found.stat.st_dev, found.stat.st_ino, found.stat.st_size, found.stat.st_mtime_ns]
        known = seen.get(found.path)
        if known is not None and known[:4] == mark and _has_object(store, known[4]):
            content = known[4]
        else:
            content = _keep(store, os.path.join(folder, found.path))
        if now - found.stat.st_mtime_ns > _SETTLED_NS:
            kept[found.path] = [*mark, content]
        mode = 0o755 if found.stat.st_mode & 0o100 else 0o644
        tree.append([found.path, mode, found.stat.st_size, content])
    text = json.dumps(tree)
    snapshot_id = _digest(text.encode())
    path = store.join("snapshots", snapshot_id + ".json")
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_json(path, tree)
    if kept != seen:
        os.makedirs(os.path.dirname(seen_path), exist_ok=True)
        write_json(seen_path, kept)
    num_bytes = sum(entry[2] for entry in tree)
    return Snapshot(snapshot_id, len(tree), num_bytes, [*walk.notes, *_remarks(tree, num_bytes)])


def _remarks(tree: list[list[Any]], num_bytes: int) -> list[str]:
    notes = [
        f"{entry[0]} looks like a secret and is kept with the run's code; a line in .amlignore"
        " leaves it out"
        for entry in tree
        if looks_secret(entry[0])
    ]
    if num_bytes > _BIG_BYTES:
        biggest = sorted(tree, key=lambda entry: -entry[2])[:5]
        names = ", ".join(f"{entry[0]} ({entry[2] >> 20} MiB)" for entry in biggest)
        notes.append(
            f"the source folder has {num_bytes >> 20} MiB in {len(tree)} files, and each run gets a"
            f" copy; the biggest are {names}; a line for each in .amlignore leaves them out"
        )
    return notes


def _digest(data: bytes) -> str:
    import hashlib  # the agent, which only restores, has no need for the four megabytes

    return hashlib.sha256(data).hexdigest()


def _object(store: Store, content: str) -> str:
    return store.join("objects", content[:2], content[2:])


def _has_object(store: Store, content: str) -> bool:
    return os.path.exists(_object(store, content))


def _keep(store: Store, path: str) -> str:
    """Copy a file into the objects; return its content's name."""
    folder = store.join("objects", "tmp")
    temporary = os.path.join(folder, f"{os.getpid()}-{os.urandom(6).hex()}")
    os.makedirs(folder, exist_ok=True)
    import hashlib

    digest = hashlib.sha256()
    try:
        with open(path, "rb") as source, open(temporary, "wb") as copy:
            while data := source.read(_CHUNK_BYTES):
                digest.update(data)
                copy.write(data)
        content = digest.hexdigest()
        target = _object(store, content)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.replace(temporary, target)  # the same bytes, if another process was first
    except OSError:
        discard(temporary)
        raise
    return content


def files_of(store: Store, snapshot_id: str) -> list[list[Any]]:
    """Return the files of a snapshot: path, mode, size, content."""
    tree: list[list[Any]] | None = read_json(store.join("snapshots", snapshot_id + ".json"))
    if tree is None:
        raise StoreException(f"There is no snapshot {snapshot_id} in {store.root}.")
    return tree


def read_file(store: Store, content: str) -> bytes:
    """Return the bytes of a kept file."""
    with open(_object(store, content), "rb") as file:
        return file.read()


def restore(store: Store, snapshot_id: str, folder: str) -> None:
    """Copy the files of a snapshot into a folder."""
    made: set[str] = set()
    for path, mode, _, content in files_of(store, snapshot_id):
        target = os.path.join(folder, path)
        parent = os.path.dirname(target)
        if parent not in made:
            os.makedirs(parent, exist_ok=True)
            made.add(parent)
        _copy(_object(store, content), target, mode)


def _copy(source: str, target: str, mode: int) -> None:
    """Copy a file: never a hard link, because scripts write into their folder."""
    try:
        with open(source, "rb") as theirs, open(target, "wb") as ours:
            left = os.fstat(theirs.fileno()).st_size
            while left > 0:  # shares the blocks where the file system can
                done = os.copy_file_range(theirs.fileno(), ours.fileno(), left)
                if done == 0:
                    break
                left -= done
    except OSError:
        import shutil

        shutil.copyfile(source, target)
    if mode != 0o644:
        os.chmod(target, mode)


def zip_to(store: Store, snapshot_id: str, path: str) -> str:
    """Write the files of a snapshot into a zip archive; return its path."""
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, mode, _, content in files_of(store, snapshot_id):
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, read_file(store, content))
    return path


def changes(old: Iterable[list[Any]], new: Iterable[list[Any]]) -> list[tuple[str, str, str]]:
    """Return the paths that differ between two snapshots, each with its old and new content."""
    before = {entry[0]: entry[3] for entry in old}
    after = {entry[0]: entry[3] for entry in new}
    return [
        (path, before.get(path, ""), after.get(path, ""))
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    ]
