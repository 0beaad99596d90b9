"""The folder of pictures: what is used, what is skipped by name, what is refused before the first
step.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.data import cut, training_batches
from train.folder import Picture
from train.pictures import (
    CROP_AREA,
    PictureCache,
    Unreadable,
    _random_box,
    decode,
    resized_side,
    training_crop,
    validation_crop,
)

Alone = Callable[..., object]
Figures = Callable[[Path], list[dict[str, object]]]


def spoil(birds: Path) -> None:
    """Four files that are no pictures, and one that is of a kind we do not read."""
    folder = birds / "train" / "crow"
    whole = (folder / "crow_0003.jpg").read_bytes()
    (folder / "crow_0003.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("crows, mostly\n")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / ".DS_Store").write_bytes(b"nobody's picture")
    Image.new("P", (8, 8)).save(birds / "val" / "robin" / "placeholder.gif")


def test_unusable_files_are_named_and_the_rest_is_trained_on(
    alone: Alone, birds: Path, tmp_path: Path
) -> None:
    spoil(birds)
    done = alone("--data", birds, "--epochs", 1)
    assert done.code == 0
    assert "21 pictures to train, 14 to validate, 2 classes (crow, robin)" in done.out
    assert "skipped: train/crow/crow_0003.jpg: image file is truncated" in done.out
    assert "skipped: train/crow/notes.txt: not a picture\n" in done.out
    assert "skipped: train/crow/empty.jpg: not a picture\n" in done.out
    assert "skipped: val/robin/placeholder.gif: a GIF, which is not one of JPEG" in done.out
    assert "DS_Store" not in done.out
    assert len((tmp_path / "outputs" / "skipped.txt").read_text().splitlines()) == 4


def test_file_names_of_all_sorts_are_read_and_printed(alone: Alone, birds: Path) -> None:
    folder = os.fsencode(birds / "train" / "crow")
    for name in (b"two words.jpg", "Krähe 🐦.jpg".encode(), b"latin-\xe4.jpg", b"no extension"):
        shutil.copy(folder + b"/crow_0000.jpg", folder + b"/" + name)
    (birds / "train" / "crow" / "nested").mkdir()
    shutil.copy(folder + b"/crow_0000.jpg", folder + b"/nested")
    Path(os.fsdecode(folder + b"/bad-\xe4.jpg")).write_bytes(b"")
    done = alone("--data", birds, "--epochs", 1)
    assert done.code == 0
    assert "27 pictures to train" in done.out
    assert "skipped: train/crow/bad-\\xe4.jpg: not a picture" in done.out


def test_a_class_name_that_the_terminal_cannot_show_is_escaped(
    run_command: Callable[..., object], birds: Path
) -> None:
    for split in ("train", "val"):
        (birds / split / "crow").rename(birds / split / "Krähe")
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.getcwd()}
    args = [
        "--data",
        str(birds),
        "--weights",
        "none",
        "--image-size",
        "48",
        "--epochs",
        "1",
        "--output-dir",
    ]
    done = run_command(
        [sys.executable, "-m", "train", *args, str(birds / "outputs")], env=env, timeout_s=60.0
    )
    assert done.code == 0, done.err
    assert "2 classes (Kr\\xe4he, robin)" in done.out


def test_the_trainer_runs_without_a_stdout(
    run_command: Callable[..., object], tmp_path: Path
) -> None:
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = (
        f"exec {sys.executable} -m train --data {tmp_path / 'nowhere'} --output-dir"
        f" {tmp_path / 'outputs'} >&-"
    )
    done = run_command(["bash", "-c", command], env=env, timeout_s=60.0)
    assert (done.code, "there is no data folder" in done.err, "Traceback" in done.err) == (
        2,
        True,
        False,
    ), done.err


def test_a_link_to_a_folder_above_it_brings_no_picture_twice(alone: Alone, birds: Path) -> None:
    (birds / "train" / "crow" / "again").symlink_to(birds / "train" / "crow")
    (birds / "elsewhere").mkdir()
    shutil.copy(birds / "train" / "crow" / "crow_0000.jpg", birds / "elsewhere")
    (birds / "train" / "crow" / "more").symlink_to(birds / "elsewhere")
    done = alone("--data", birds, "--epochs", 1)
    assert done.code == 0
    assert "23 pictures to train" in done.out


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_16_bits_of_grey_are_reduced_to_8_and_not_clipped_to_white(
    tmp_path: Path, name: str
) -> None:
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / name)
    assert np.array_equal(np.asarray(decode(str(tmp_path / name), 48))[..., 0], values >> 8)


def grey_tiff(bits: int, photometric: int, packed: bytes) -> bytes:
    """A TIFF of 8 x 8 pixels: Pillow reads such ones, but does not write them."""
    tags = {
        256: 8,
        257: 8,
        258: bits,
        259: 1,
        262: photometric,
        273: 122,
        277: 1,
        278: 8,
        279: len(packed),
    }
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", 0) + packed


@pytest.mark.parametrize(
    ("bits", "photometric", "packed"),
    [
        (12, 1, b"\xc0\x0c\x00" * 32),
        (16, 1, b"\x00\xc0" * 64),
        pytest.param(16, 0, b"\xff\x3f" * 64, id="zero is white"),
    ],
)
def test_wide_tiffs_keep_their_shades(
    tmp_path: Path, bits: int, photometric: int, packed: bytes
) -> None:
    (tmp_path / "wide.tif").write_bytes(grey_tiff(bits, photometric, packed))
    assert decode(str(tmp_path / "wide.tif"), 48).getcolors() == [(64, (192, 192, 192))]


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(Unreadable, match="no regular file"):
        decode(str(tmp_path / "pipe.jpg"), 48)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_without_a_known_range_are_refused_by_name(tmp_path: Path, kind: type) -> None:
    Image.fromarray(np.ones((8, 8), dtype=kind)).save(tmp_path / "wide.tif")
    with pytest.raises(Unreadable, match="32 bits wide"):
        decode(str(tmp_path / "wide.tif"), 48)


def test_a_file_that_vanishes_in_the_middle_is_named_and_skipped(
    alone: Alone, birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train.trainer import Meter

    add = Meter.add

    def and_lose_a_file(self: Meter, *args: object) -> None:
        (birds / "val" / "crow" / "crow_0002.jpg").unlink(missing_ok=True)
        add(self, *args)

    monkeypatch.setattr(Meter, "add", and_lose_a_file)
    done = alone("--data", birds, "--epochs", 1, "--cache-mb", 0)
    assert done.code == 0
    assert done.err.count("skipped: val/crow/crow_0002.jpg") == 1


def no_folder(birds: Path) -> str:
    shutil.rmtree(birds)
    return "there is no data folder"


def no_val(birds: Path) -> str:
    shutil.rmtree(birds / "val")
    return "has no val/ in it; it needs train/<class>/*.jpg and val/<class>/*.jpg"


def one_level_too_high(birds: Path) -> str:
    inner = birds / "inner"
    inner.mkdir()
    for split in ("train", "val"):
        (birds / split).rename(inner / split)
    return f"Did you mean `--data {inner}`?"


def no_class_folders(birds: Path) -> str:
    for folder in (birds / "train").iterdir():
        shutil.rmtree(folder)
    return "has no class folders"


def other_classes(birds: Path) -> str:
    (birds / "val" / "robin").rename(birds / "val" / "robins")
    return "differ: train/ has robin, which val/ has not; val/ has robins, which train/ has not"


def one_class(birds: Path) -> str:
    for split in ("train", "val"):
        shutil.rmtree(birds / split / "robin")
    return "has the one class crow"


def empty_class(birds: Path) -> str:
    for file in (birds / "train" / "robin").iterdir():
        file.unlink()
    return "train/robin has no usable picture: the folder is empty"


def class_of_text_files(birds: Path) -> str:
    for file in (birds / "val" / "crow").iterdir():
        file.write_text("no picture")
    return (
        "val/crow has no usable picture: none of its 7 files is, for example val/crow/crow_0000.jpg"
        " (not a picture)"
    )


@pytest.mark.parametrize(
    "change",
    [
        no_folder,
        no_val,
        one_level_too_high,
        no_class_folders,
        other_classes,
        one_class,
        empty_class,
        class_of_text_files,
    ],
)
def test_a_folder_of_the_wrong_shape_is_one_clear_message(
    alone: Alone, birds: Path, change: Callable[[Path], str]
) -> None:
    expected = change(birds)
    done = alone("--data", birds)
    assert done.code == 2
    assert expected in done.err
    assert done.err.startswith("train: error: ")
    assert done.err.count("\n") == 1


def test_validation_pictures_are_cut_exactly_as_torchvision_cuts_them() -> None:
    from torchvision.transforms import CenterCrop, Compose, Resize

    recipe = Compose([Resize(256), CenterCrop(224)])
    noise = np.random.default_rng(0)
    for width, height in ((500, 375), (333, 500), (256, 256), (301, 257)):
        picture = Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        assert np.array_equal(
            np.asarray(validation_crop(picture, 224)), np.asarray(recipe(picture))
        )


def test_random_cuts_lie_inside_the_picture_and_cover_the_recipe_s_areas() -> None:
    rng = random.Random(1)
    parts, mirrored = [], 0
    for _ in range(500):
        x, y, width, height = _random_box(500, 375, rng)
        assert 0 <= x <= 500 - width and 0 <= y <= 375 - height
        assert 0.73 < width / height < 1.37
        parts.append(width * height / (500 * 375))
    assert CROP_AREA[0] * 0.95 < min(parts) < 0.15 and 0.85 < max(parts) <= 1
    half = Image.new("RGB", (64, 64))
    half.paste((255, 255, 255), (0, 0, 32, 64))
    for seed in range(200):
        left = np.asarray(training_crop(half, 32, random.Random(seed)))[:, 0, 0]
        mirrored += int(left.mean() < 128)
    assert 40 < mirrored < 160


def test_a_panorama_is_cut_in_its_middle() -> None:
    assert _random_box(1000, 10, random.Random(0))[2:] == (13, 10)


def test_a_large_photograph_is_reduced_once_and_a_usual_one_is_not(tmp_path: Path) -> None:
    for size, expected in (((3000, 2000), (768, 512)), ((500, 375), (500, 375))):
        Image.new("RGB", size, (10, 200, 30)).save(tmp_path / "photo.jpg")
        assert resized_side(224) == 256
        assert decode(str(tmp_path / "photo.jpg"), 224).size == expected


def test_every_picture_comes_once_per_epoch_in_an_order_of_its_own() -> None:
    pictures = [Picture(i, f"{i}.jpg", 0) for i in range(22)]
    first, second = (training_batches(pictures, 0, epoch, 4) for epoch in (0, 1))
    assert [len(batch) for batch in first] == [4, 4, 4, 4, 4, 2]
    assert sorted(p for b in first for p in b) == sorted(p for b in second for p in b) == pictures
    assert first != second
    assert first == training_batches(pictures, 0, 0, 4)
    assert cut(pictures, 30) == [pictures]


def test_a_full_cache_changes_no_figure(
    alone: Alone, drawn_birds: Path, tmp_path: Path, figures: Figures
) -> None:
    results = []
    for cache_mb, workers in ((2048, "auto"), (1, 0), (0, 3)):
        out = tmp_path / f"cache{cache_mb}"
        options = ("--cache-mb", cache_mb, "--workers", workers, "--epochs", 1, "--output-dir", out)
        assert alone("--data", drawn_birds, *options).code == 0
        results.append(figures(out))
    assert results[0] == results[1] == results[2]


def test_the_cache_keeps_what_fits_and_forgets_the_rest() -> None:
    import launcher

    picture = Image.new("RGB", (10, 10), (1, 2, 3))
    ctx = launcher.init()
    with PictureCache(700) as cache:
        for key in range(5):
            cache.add(key, picture)
        cache.share(ctx)
    ctx.close()
    assert len(cache) == 2
    assert np.array_equal(np.asarray(cache.get(1)), np.asarray(picture))
    assert cache.get(3) is None
