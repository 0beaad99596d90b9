"""The folder of pictures: which classes, which files, and whether each file can be used.

Owns the checks before the first step: everything wrong with the data is an error here, or a file
skipped by name. All ranks agree on the result. Knows nothing of training.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from PIL import Image

from train.errors import TrainerError, together
from train.pictures import PictureCache, Unreadable, decode, validation_crop

if TYPE_CHECKING:
    from launcher import Context

SPLITS = ("train", "val")
SHOWN_SKIPS = 10  # names on the screen; skipped.txt in the output folder has all of them
CHECK_CHUNK = 64  # pictures decoded between two writes to the cache: bounds the memory of the check
# Beyond the cache, this many pictures are still decoded in full before the first step; a folder of
# ImageNet's size would take many minutes, so there the rest is checked at its first use, where a
# bad file is skipped by name too.
MOST_CHECKED = 50_000


class Picture(NamedTuple):
    """One file: its place in the sorted list of all files, its path below the data folder, its
    class number.
    """

    key: int
    path: str
    label: int


@dataclass(frozen=True)
class Folder:
    """The pictures that can be used, in a fixed order."""

    root: str
    classes: tuple[str, ...]
    train: tuple[Picture, ...]
    val: tuple[Picture, ...]
    skipped: tuple[tuple[str, str], ...]
    """Path and reason of each file that is left out."""


def open_folder(ctx: Context, root: str, image_size: int, cache: PictureCache) -> Folder:
    """List the data folder, check every file and fill the cache; a collective call.

    Rank 0 lists; on each node every file is opened by one rank. Raises SystemExit on all ranks,
    with one message, if there is nothing to train on.
    """
    listing = together(ctx, lambda: _list(root) if ctx.is_main else None)
    listing = ctx.broadcast_object(listing)
    assert listing is not None  # rank 0 made one, or nobody is here any more
    classes, train, val = listing
    mine = (train + val)[ctx.local_rank :: ctx.local_world_size]
    bad = dict(_check(root, mine, len(train), image_size, cache, threads=cpus_per_rank(ctx)))
    everyone = ctx.broadcast_object(ctx.gather_object(bad)) or []
    bad = {key: reason for part in reversed(everyone) for key, reason in part.items()}
    folder = Folder(
        root,
        classes,
        tuple(p for p in train if p.key not in bad),
        tuple(p for p in val if p.key not in bad),
        tuple((shown(p.path), bad[p.key]) for p in train + val if p.key in bad),
    )
    together(ctx, lambda: _require_pictures(folder))
    cache.share(ctx)
    return folder


def shown(path: str) -> str:
    """A file name as it can be printed: bytes that are no UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def cpus_per_rank(ctx: Context) -> int:
    """Processors that this rank may use for itself, at least 1."""
    return max(1, len(os.sched_getaffinity(0)) // ctx.local_world_size)


def list_folder(root: str) -> Folder:
    """The folder as it is, without a look into its files; raises TrainerError for a wrong shape."""
    classes, train, val = _list(root)
    return Folder(root, classes, tuple(train), tuple(val), ())


def _list(root: str) -> tuple[tuple[str, ...], list[Picture], list[Picture]]:
    """Class names and all files below train/ and val/; raises TrainerError for a folder of the
    wrong shape.
    """
    classes = _classes(root, "train")
    val_classes = _classes(root, "val")
    if classes != val_classes:
        only = [
            f"{split}/ has {', '.join(sorted(more))}, which {other}/ has not"
            for split, other, more in (
                ("train", "val", set(classes) - set(val_classes)),
                ("val", "train", set(val_classes) - set(classes)),
            )
            if more
        ]
        raise TrainerError(
            f"the class folders of train/ and val/ in {root} differ: {'; '.join(only)}."
        )
    if len(classes) < 2:
        raise TrainerError(
            f"{root}/train has the one class {classes[0]}; there is nothing to tell it from."
        )
    paths = [
        [
            (path, label)
            for label, name in enumerate(classes)
            for path in list_files(root, f"{split}/{name}")
        ]
        for split in SPLITS
    ]
    keyed = [Picture(key, path, label) for key, (path, label) in enumerate(paths[0] + paths[1])]
    return classes, keyed[: len(paths[0])], keyed[len(paths[0]) :]


def _classes(root: str, split: str) -> tuple[str, ...]:
    """Sorted names of the class folders of one split."""
    folder = os.path.join(root, split)
    try:
        names = sorted(
            e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith(".")
        )
    except FileNotFoundError as error:
        raise TrainerError(_wrong_shape(root, split)) from error
    except OSError as error:
        raise TrainerError(f"the data folder cannot be read: {error}.") from error
    if not names:
        raise TrainerError(
            f"{folder} has no class folders; pictures belong into {folder}/<class>/, one folder for"
            " each class."
        )
    return tuple(names)


def _wrong_shape(root: str, split: str) -> str:
    if not os.path.isdir(root):
        return (
            f"there is no data folder {root}. `--data` takes the folder that holds train/ and val/."
        )
    inner = [
        e.path
        for e in os.scandir(root)
        if e.is_dir() and os.path.isdir(os.path.join(e.path, "train"))
    ]
    hint = f" Did you mean `--data {inner[0]}`?" if inner else ""
    return (
        f"the data folder {root} has no {split}/ in it; it needs train/<class>/*.jpg and"
        f" val/<class>/*.jpg.{hint}"
    )


def list_files(root: str, folder: str) -> Iterator[str]:
    """All files below one class folder, sorted, as paths below `root`; hidden ones are nobody's
    pictures.

    Links are followed, but each folder is read once: a link to a folder above it would bring the
    same pictures again and again.
    """
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> NoReturn:
        raise TrainerError(f"the data folder cannot be read: {error}.") from error

    for here, folders, names in os.walk(
        os.path.join(root, folder), onerror=refuse, followlinks=True
    ):
        info = os.stat(here)
        if (info.st_dev, info.st_ino) in seen:
            folders.clear()
            continue
        seen.add((info.st_dev, info.st_ino))
        folders.sort()
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(here, name), root)


def _check(
    root: str,
    pictures: Sequence[Picture],
    num_train: int,
    image_size: int,
    cache: PictureCache,
    *,
    threads: int,
) -> Iterator[tuple[int, str]]:
    """Open each picture, put it into the cache, and yield the key and the reason of each that
    cannot be used.

    A validation picture is always cut in the same way, so its cut is what the cache keeps.
    """

    def prepare(picture: Picture) -> Image.Image | str:
        try:
            image = decode(os.path.join(root, picture.path), image_size)
        except Unreadable as error:
            return str(error)
        return image if picture.key < num_train else validation_crop(image, image_size)

    with ThreadPoolExecutor(threads) as pool:
        remaining = iter(pictures)
        done = 0
        while chunk := list(islice(remaining, CHECK_CHUNK)):
            if cache.full and done >= MOST_CHECKED:
                return
            done += len(chunk)
            for picture, result in zip(chunk, pool.map(prepare, chunk), strict=True):
                if isinstance(result, str):
                    yield picture.key, result
                else:
                    cache.add(picture.key, result)


def _require_pictures(folder: Folder) -> None:
    """Raise TrainerError if a class has no picture left."""
    for split, pictures in (("train", folder.train), ("val", folder.val)):
        present = {picture.label for picture in pictures}
        for label, name in enumerate(folder.classes):
            if label in present:
                continue
            where = f"{split}/{name}"
            bad = [
                f"{path} ({reason})"
                for path, reason in folder.skipped
                if path.startswith(where + "/")
            ]
            why = (
                f"none of its {len(bad)} files is, for example {bad[0]}"
                if bad
                else "the folder is empty"
            )
            raise TrainerError(f"{os.path.join(folder.root, where)} has no usable picture: {why}.")


def describe(folder: Folder) -> str:
    """The lines that say what was found and what is left out."""
    lines = [
        f"data: {folder.root}: {len(folder.train)} pictures to train, {len(folder.val)} to"
        " validate, "
        f"{len(folder.classes)} classes ({', '.join(map(shown, folder.classes[:8]))}"
        f"{', ...' if len(folder.classes) > 8 else ''})"
    ]
    lines += [f"skipped: {path}: {reason}" for path, reason in folder.skipped[:SHOWN_SKIPS]]
    if len(folder.skipped) > SHOWN_SKIPS:
        lines.append(
            f"skipped: and {len(folder.skipped) - SHOWN_SKIPS} more, see skipped.txt in the output"
            " folder"
        )
    return "\n".join(lines)
