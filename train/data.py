"""Batches: which pictures in which order, which of them are this rank's, and their pixels.

The order and every random cut depend on the seed, the epoch and the picture only, so 1 rank and N
ranks, with and without threads, train on the same pixels in the same batches. Knows nothing of
networks.
"""

from __future__ import annotations

import os
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from train.folder import Folder, Picture, cpus_per_rank, shown
from train.pictures import PictureCache, Unreadable, decode, training_crop, validation_crop

if TYPE_CHECKING:
    from PIL import Image

    from launcher import Context

MEAN, STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # of ImageNet, which the pretrained weights expect
BATCHES_AHEAD = 2  # batches that the threads prepare while the network works
MOST_THREADS = 8  # more take Python's lock from each other
VALIDATION_BATCH = 32  # pictures per rank and step; the figures do not depend on it


class Batch(NamedTuple):
    """This rank's part of one batch: bytes (N, H, W, 3), class numbers (N), the size of the whole
    batch, and the N pictures.
    """

    images: Tensor
    labels: Tensor
    whole: int
    pictures: tuple[Picture, ...]


class Loader:
    """Turns lists of pictures into batches, on threads when there are processors for them."""

    def __init__(
        self,
        ctx: Context,
        folder: Folder,
        cache: PictureCache,
        image_size: int,
        workers: int | str,
        *,
        resize: int | None = None,
        report: Callable[[Picture, Unreadable], None] | None = None,
    ) -> None:
        """`workers` is a number of threads, or "auto": none when the network itself needs the
        processors. `resize` is the shorter side that validation cuts from, unless the recipe's;
        `report` is told once of each unreadable picture, instead of stderr.
        """
        self._ctx, self._folder, self._cache, self._size = ctx, folder, cache, image_size
        self._resize, self._tell = resize, report or _print_skipped
        auto = min(MOST_THREADS, cpus_per_rank(ctx)) if ctx.device.type == "cuda" else 0
        threads = auto if workers == "auto" else int(workers)
        self._pool = ThreadPoolExecutor(threads) if threads else None
        self._reported: set[int] = set()

    def training(
        self, seed: int, epoch: int, batch_size: int, *, first: int, pairs: bool = False
    ) -> Iterator[Batch]:
        """This rank's parts of the batches of one epoch, from batch number `first` on.

        With `pairs`, before each picture the one before it in the whole batch, before the first one
        the last.
        """
        batches = training_batches(self._folder.train, seed, epoch, batch_size)[first:]
        rank, world_size = self._ctx.rank, self._ctx.world_size
        if not pairs:
            return self._load(((b[rank::world_size], len(b)) for b in batches), (seed, epoch))
        paired = (
            ([b[j] for i in range(rank, len(b), world_size) for j in (i - 1, i)], len(b))
            for b in batches
        )
        return self._load(paired, (seed, epoch), together=2)

    def validation(self) -> Iterator[Batch]:
        """This rank's part of the validation pictures, each picture on one rank; the same number of
        batches on all.
        """
        whole = VALIDATION_BATCH * self._ctx.world_size
        batches = cut(self._folder.val, whole)
        return self._load(
            ((b[self._ctx.rank :: self._ctx.world_size], len(b)) for b in batches), None
        )

    def _load(
        self,
        parts: Iterable[tuple[Sequence[Picture], int]],
        draw: tuple[int, int] | None,
        *,
        together: int = 1,
    ) -> Iterator[Batch]:
        """The batches of `parts`; of `together` pictures in a row, all or none are in it."""
        if self._pool is None:
            for pictures, whole in parts:
                images = [self._picture(p, draw) for p in pictures]
                yield self._collate(pictures, images, whole, together)
            return
        waiting: deque[tuple[Sequence[Picture], list[Future[Image.Image | None]], int]] = deque()
        for pictures, whole in parts:
            waiting.append(
                (pictures, [self._pool.submit(self._picture, p, draw) for p in pictures], whole)
            )
            if len(waiting) > BATCHES_AHEAD:
                yield self._finish(*waiting.popleft(), together)
        while waiting:
            yield self._finish(*waiting.popleft(), together)

    def _finish(
        self,
        pictures: Sequence[Picture],
        futures: list[Future[Image.Image | None]],
        whole: int,
        together: int,
    ) -> Batch:
        return self._collate(pictures, [future.result() for future in futures], whole, together)

    def _picture(self, picture: Picture, draw: tuple[int, int] | None) -> Image.Image | None:
        """The pixels that the network sees of one picture; None if its file became unreadable since
        the check.
        """
        image = self._cache.get(picture.key)
        if draw is None and image is not None:
            return image  # the cache keeps validation pictures as they are cut
        if image is None:
            try:
                image = decode(os.path.join(self._folder.root, picture.path), self._size)
            except Unreadable as error:
                self._report(picture, error)
                return None
        if draw is None:
            return validation_crop(image, self._size, self._resize)
        return training_crop(
            image, self._size, random.Random(b"%d %d " % draw + os.fsencode(picture.path))
        )

    def _report(self, picture: Picture, error: Unreadable) -> None:
        if picture.key not in self._reported:
            self._reported.add(picture.key)
            self._tell(picture, error)

    def _collate(
        self,
        pictures: Sequence[Picture],
        images: Sequence[Image.Image | None],
        whole: int,
        together: int,
    ) -> Batch:
        rows = list(zip(images, pictures, strict=True))
        groups = [rows[i : i + together] for i in range(0, len(rows), together)]
        good = [row for g in groups if all(image is not None for image, _ in g) for row in g]
        pixels = torch.empty(len(good), self._size, self._size, 3, dtype=torch.uint8)
        into = pixels.numpy()
        for row, (image, _) in enumerate(good):
            into[row] = np.asarray(image)
        kept = tuple(picture for _, picture in good)
        labels = torch.tensor([picture.label for picture in kept], dtype=torch.long)
        return Batch(pixels, labels, whole, kept)


def _print_skipped(picture: Picture, error: Unreadable) -> None:
    print(f"skipped: {shown(picture.path)}: {error}", file=sys.stderr, flush=True)


def training_batches(
    pictures: Sequence[Picture], seed: int, epoch: int, batch_size: int
) -> list[Sequence[Picture]]:
    """The batches of one epoch for the whole run: every picture once, in an order of its own for
    each epoch.
    """
    generator = torch.Generator().manual_seed(random.Random(f"{seed} {epoch}").getrandbits(63))
    order = torch.randperm(len(pictures), generator=generator).tolist()
    return cut([pictures[i] for i in order], batch_size)


def cut(pictures: Sequence[Picture], size: int) -> list[Sequence[Picture]]:
    """Consecutive parts of `size` pictures; the last one has what is left, nothing is repeated."""
    return [pictures[i : i + size] for i in range(0, len(pictures), size)]


def step_of(batch: int, total: int, size: int, accumulate: int) -> tuple[int, bool]:
    """The pictures of the optimizer's step that batch number `batch` of an epoch is part of, and
    whether it is the last batch of that step.

    The epoch has `total` pictures in batches of `size`, `accumulate` of them to a step.
    """
    first = (batch - batch % accumulate) * size
    count = min(total - first, accumulate * size)
    return count, (batch + 1) * size >= first + count


def to_network(
    images: Tensor, device: torch.device, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> Tensor:
    """Bytes (N, H, W, 3) -> normalised float32 (N, 3, H, W) on the device, in memory still channels
    last.
    """
    images = images.to(device, non_blocking=True).permute(0, 3, 1, 2)
    scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(1, 3, 1, 1)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device).view(
        1, 3, 1, 1
    )
    return images.float().mul_(scale).sub_(shift)
