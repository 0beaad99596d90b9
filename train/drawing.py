"""How the pictures of a training look: curves, predictions, and the confusion matrix.

Readable at 600 pixels width and without colours: train and val differ in line and marker. Knows
nothing of the files of an output folder; matplotlib's figures come from the caller.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from train.pictures import Unreadable, decode, validation_crop

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.0  # inches
LINES = {
    "train": {"color": "black", "linestyle": "-", "marker": "o", "markersize": 4},
    "val": {"color": "0.45", "linestyle": "--", "marker": "s", "markersize": 5, "mfc": "white"},
}
MOST_MARKERS = 25  # with more epochs, only some of them have a marker
COLUMNS, MOST_PICTURES = 4, 16
MOST_NAMED = 20  # with more classes, the matrix has no numbers and names only some of them
LONGEST_NAME = 14  # letters of a class name that fit under a picture


def draw_curves(figure: Figure, metrics: dict[str, dict[int, dict[str, float]]]) -> None:
    """Loss, accuracy, learning rate and speed: `metrics` by split and epoch."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure.set_size_inches(WIDTH, 4.6)
    loss, accuracy, rate, speed = panels = figure.subplots(2, 2, sharex=True).ravel()
    for panel, key in zip(panels, ("loss", "accuracy", "lr", "images_per_s"), strict=True):
        for split in ("train",) if key == "lr" else ("train", "val"):
            epochs = sorted(metrics[split])
            values = [metrics[split][epoch][key] for epoch in epochs]
            every = math.ceil(len(epochs) / MOST_MARKERS) or 1
            panel.plot(epochs, values, label=split, markevery=every, **LINES[split])
        title = {"lr": "learning rate", "images_per_s": "images/s"}.get(key, key)
        panel.set_title(title, fontweight="bold")
        panel.grid(color="0.88")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    # Of equal ones the first, as in model.pt.
    best = max(sorted(metrics["val"]), key=lambda e: metrics["val"][e]["accuracy"], default=None)
    if best is not None:
        for panel in (loss, accuracy):
            panel.axvline(best, color="black", linestyle=":", label=f"best: epoch {best}")
    lowest = min(values["accuracy"] for split in metrics.values() for values in split.values())
    accuracy.set_ylim(math.floor(lowest * 10 - 0.2) / 10, 1.03)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    rates = [values["lr"] for values in metrics["train"].values() if values["lr"] > 0]
    if rates and max(rates) >= 10 * min(rates):
        rate.set_yscale("log")
        rate.yaxis.set_major_formatter("{x:g}")
    else:
        rate.set_ylim(bottom=0)
    speed.set_ylim(bottom=0)
    for panel in (rate, speed):
        panel.set_xlabel("epoch")
    figure.legend(*loss.get_legend_handles_labels(), loc="outside upper center", ncols=3)


def draw_predictions(figure: Figure, content: dict[str, Any]) -> None:
    """The first pictures of predictions.json, which come with the worst in front."""
    worst, total = content["pictures"][:MOST_PICTURES], len(content["pictures"])
    rows = math.ceil(len(worst) / COLUMNS)
    figure.set_size_inches(WIDTH, 0.6 + 1.9 * rows)
    wrong = sum(p["label"] != p["prediction"] for p in content["pictures"])
    figure.suptitle(
        f"epoch {content['epoch']}: {wrong} of {total} wrong, the worst first\n"
        "above: class, below: prediction; thick frame: wrong",
        fontsize=9,
    )
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for panel in panels[len(worst) :]:
        panel.axis("off")
    for panel, picture in zip(panels, worst, strict=False):
        _show(panel, os.path.join(content["data"], picture["path"]), int(content["image_size"]))
        panel.set_title(_short(picture["label"]), fontweight="bold", pad=6)
        panel.set_xlabel(f"{_short(picture['prediction'])} {picture['probability']:.0%}")
        for side in panel.spines.values():
            side.set_linewidth(4 if picture["label"] != picture["prediction"] else 0.5)


def _show(panel: Axes, path: str, image_size: int) -> None:
    """The part of the picture that the network saw; words where its file is gone."""
    panel.set_xticks([])
    panel.set_yticks([])
    try:
        panel.imshow(validation_crop(decode(path, image_size), image_size))
    except (Unreadable, OSError):
        panel.set_box_aspect(1)
        panel.text(0.5, 0.5, "the file is\nnot there", ha="center", transform=panel.transAxes)


def draw_confusion(figure: Figure, content: dict[str, Any]) -> None:
    """How many pictures of each class were taken for which; grey by their part of the class."""
    names, total = content["classes"], len(content["pictures"])
    counts = Counter((p["label"], p["prediction"]) for p in content["pictures"])
    table = [[counts[label, said] for said in names] for label in names]
    parts = [[count / max(1, sum(row)) for count in row] for row in table]
    figure.set_size_inches(WIDTH, min(WIDTH, 2.4 + 0.8 * len(names)))
    panel = figure.subplots()
    panel.imshow(parts, cmap="Greys", vmin=0, vmax=1)
    right = sum(counts[name, name] for name in names)
    panel.set_title(f"epoch {content['epoch']}: {right} of {total} right ({right / total:.1%})")
    panel.set_xlabel("prediction")
    panel.set_ylabel("class")
    step = math.ceil(len(names) / MOST_NAMED)
    size = 9 if len(names) < 14 else 7
    shown, places = [_short(name) for name in names[::step]], range(0, len(names), step)
    panel.set_yticks(places, shown, fontsize=size)
    is_wide = len(shown) * max(map(len, shown)) > 40
    panel.set_xticks(places, shown, fontsize=size, rotation=90 if is_wide else 0)
    if step > 1:
        return
    for y, row in enumerate(table):
        for x, count in enumerate(row):
            style = {"color": "white" if parts[y][x] > 0.5 else "black", "ha": "center"}
            text_size = 14 if len(names) < 8 else size
            panel.text(x, y, count or "·", va="center", fontsize=text_size, **style)


def _short(name: str) -> str:
    """A class name that can be drawn: not too long, and bytes that are no text as their numbers."""
    name = os.fsencode(name).decode("utf-8", "backslashreplace")
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
