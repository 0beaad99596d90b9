"""One picture: decode it, cut it as the recipe says, and remember it decoded.

Owns what happens to pixels before they become a batch. The random cut takes its numbers from the
caller, so that it is the same whoever makes it. Knows nothing of ranks' training, epochs or
networks; no torch here.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import random
import stat
import tempfile
import warnings
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

if TYPE_CHECKING:
    from launcher import Context

FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "BMP",
    "PPM",
    "TIFF",
)  # those of torchvision's ImageFolder, by content, not by name
RESIZE_RATIO = (
    256 / 224
)  # validation: the shorter side becomes this many times the crop, as in the tutorial
CROP_AREA = (0.08, 1.0)  # training: part of the picture's area that a random crop covers
CROP_RATIO = (3 / 4, 4 / 3)  # and its width over its height
# Larger pictures are reduced once, when they are decoded: no crop at the usual sizes loses pixels
# that it would show, a phone's 12 megapixels take 40 ms and 36 MB each otherwise. Photographs of
# ImageNet's size are not touched.
KEPT_PER_RESIZE = 2


class Unreadable(Exception):
    """A file that is no picture we read; the text says why in a few words."""


def resized_side(image_size: int) -> int:
    """Shorter side of a validation picture before its centre is cut out."""
    return round(image_size * RESIZE_RATIO)


def decode(path: str, image_size: int) -> Image.Image:
    """Read one file completely and return it as RGB, its shorter side at most 2 x the validation
    size.

    Raises Unreadable, whatever is wrong with the file.
    """
    try:
        if not stat.S_ISREG(
            os.stat(path).st_mode
        ):  # opening a pipe would wait for somebody who writes to it
            raise Unreadable("no regular file")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise Unreadable(_first_line(error, path)) from error
    return _decode(path, image_size)


def decode_bytes(data: bytes, image_size: int) -> Image.Image:
    """Read the content of a picture file as decode() reads the file."""
    return _decode(io.BytesIO(data), image_size)


def _decode(source: str | io.BytesIO, image_size: int) -> Image.Image:
    bound = KEPT_PER_RESIZE * resized_side(image_size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # odd palettes and EXIF blocks: the pixels are what counts
            with Image.open(source) as image:
                if image.format not in FORMATS:
                    raise Unreadable(f"a {image.format}, which is not one of {', '.join(FORMATS)}")
                image.draft(
                    "RGB", (bound, bound)
                )  # JPEG only: decodes at 1/2, 1/4 or 1/8 where that is enough
                picture = _rgb(image)
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable("not a picture") from error
    except (
        Exception
    ) as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise Unreadable(_first_line(error, source)) from error
    return _shrink(picture, bound)


def _first_line(error: Exception, source: object) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0].replace(repr(source), "the file")


def _rgb(image: Image.Image) -> Image.Image:
    """The picture with 8 bits per colour. Pillow alone clips wider values: a 16-bit grey picture
    would be a white one.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format != "TIFF"):
        return _narrow(image).convert("RGB")
    if image.mode in ("I", "F"):
        raise Unreadable(
            "its values are 32 bits wide or signed, in a range that the file does not tell; save it"
            " with 8 or 16 bits"
        )
    return image.convert("RGB")


def _narrow(image: Image.Image) -> Image.Image:
    """A wide grey picture with 8 bits. A TIFF has 12 as well, and zero may be its white: Pillow
    leaves both as they are.
    """
    bits, is_negative = 16, False
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2[BITSPERSAMPLE][0]
        is_negative = image.tag_v2.get(PHOTOMETRIC_INTERPRETATION, 0) == 0
    grey = (np.asarray(image) >> bits - 8).astype(np.uint8)
    return Image.fromarray(255 - grey if is_negative else grey)


def _shrink(picture: Image.Image, bound: int) -> Image.Image:
    short = min(picture.size)
    if short <= bound:
        return picture
    size = (round(picture.width * bound / short), round(picture.height * bound / short))
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)


def training_crop(picture: Image.Image, image_size: int, rng: random.Random) -> Image.Image:
    """A random part, resized to the square, mirrored half of the time (RandomResizedCrop and flip
    of the recipe).
    """
    x, y, width, height = _random_box(picture.width, picture.height, rng)
    part = picture.crop((x, y, x + width, y + height))
    part = part.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def _random_box(width: int, height: int, rng: random.Random) -> tuple[int, int, int, int]:
    low, high = math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])
    for _ in range(10):  # long pictures have no room for most large boxes
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, width - w), rng.randint(0, height - h), w, h
    w = min(width, round(height * CROP_RATIO[1]))
    h = min(height, round(width / CROP_RATIO[0]))
    return (width - w) // 2, (height - h) // 2, w, h


def validation_crop(picture: Image.Image, image_size: int, side: int | None = None) -> Image.Image:
    """The centre of the picture, after its shorter side was resized to `side`, or as the recipe
    says (its Resize and CenterCrop).
    """
    side = side or resized_side(image_size)
    if picture.width <= picture.height:
        size = (side, int(side * picture.height / picture.width))
    else:
        size = (int(side * picture.width / picture.height), side)
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - image_size) / 2), round((size[1] - image_size) / 2)
    return picture.crop((left, top, left + image_size, top + image_size))


class _Entry(NamedTuple):
    offset: int
    width: int
    height: int


def _unnamed_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()  # PictureCache closes it
    except OSError:  # no temporary folder that can be written to: then nothing is kept
        return open("/dev/full", "wb", buffering=0)


class PictureCache:
    """Decoded pictures of one node: each is decoded by one local rank, once, and read by all of
    them.

    Every rank writes its part to a file without a name in the temporary folder, and the others map
    it into memory. The pages belong to the kernel, which can take them back; nothing is left
    behind, however the processes end.
    """

    def __init__(self, limit_bytes: int) -> None:
        """Make an empty cache of which this rank may fill `limit_bytes`."""
        self._limit = limit_bytes
        self._size = 0
        self._mine: dict[int, _Entry] = {}
        self._file: IO[bytes] = _unnamed_file()
        self._maps: dict[int, tuple[memoryview, _Entry]] = {}

    def __enter__(self) -> PictureCache:
        """Begin to fill it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End filling it; what was shared stays readable."""
        self._file.close()

    def __len__(self) -> int:
        """Number of pictures this rank can read from the cache."""
        return len(self._maps)

    @property
    def full(self) -> bool:
        """True once a picture found no room; the rest is then decoded each time."""
        return self._size >= self._limit

    def add(self, key: int, picture: Image.Image) -> None:
        """Keep a picture of this rank's part, unless the cache is full."""
        data = picture.tobytes()
        if self.full or self._size + len(data) > self._limit:
            self._limit = self._size
            return
        try:
            self._file.write(data)
        except OSError:  # the temporary folder has less room than the cache may have
            self._limit = self._size
            return
        self._mine[key] = _Entry(self._size, picture.width, picture.height)
        self._size += len(data)

    def share(self, ctx: Context) -> None:
        """Map the parts of all ranks of this node; a collective call, after the last add()."""
        try:
            self._file.flush()
        except OSError:
            self._mine = {}
        info = os.fstat(self._file.fileno())
        part = (
            ctx.node_rank,
            os.getpid(),
            self._file.fileno(),
            info.st_dev,
            info.st_ino,
            self._mine,
        )
        parts = ctx.broadcast_object(ctx.gather_object(part)) or []
        for node_rank, pid, fd, device, inode, entries in parts:
            view = (
                self._map(pid, fd, device, inode)
                if node_rank == ctx.node_rank and entries
                else None
            )
            if view is not None:
                self._maps.update({key: (view, entry) for key, entry in entries.items()})
        ctx.barrier()  # nobody may leave before the others have opened its file
        self._mine = {}

    def _map(self, pid: int, fd: int, device: int, inode: int) -> memoryview | None:
        try:
            with open(f"/proc/{pid}/fd/{fd}", "rb") as file:
                info = os.fstat(file.fileno())
                if (info.st_dev, info.st_ino) != (
                    device,
                    inode,
                ):  # another container's process with the same pid
                    return None
                return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        except OSError:  # no /proc, or not for us: those pictures are decoded at each use
            return None

    def get(self, key: int) -> Image.Image | None:
        """The decoded picture, or None if it is not in the cache."""
        found: tuple[Any, _Entry] | None = self._maps.get(key)
        if found is None:
            return None
        view, (offset, width, height) = found
        data = view[offset : offset + 3 * width * height]
        return Image.frombuffer("RGB", (width, height), data, "raw", "RGB", 0, 1)
