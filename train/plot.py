"""Pictures of a training: curves.png, predictions.png and confusion.png in its output folder.

`python -m train.plot outputs` draws them at any time, also while the training runs; the trainer
does so at its end. Owns the reading of metrics.jsonl and predictions.json, and the writing of the
pictures; train/drawing.py knows how they look. Needs no torch, and matplotlib only to draw.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from train.errors import EXIT_USAGE, TrainerError, one_line
from train.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from launcher import Context

DPI = 200  # 1200 pixels width; half of them are enough to read everything
STYLE = {"font.size": 9, "axes.titlesize": 9, "text.parse_math": False}  # $ is a letter in a name


# -- reading ---------------------------------------------------------------------------------------


def read_metrics(path: str) -> dict[str, dict[int, dict[str, Any]]]:
    """The lines of metrics.jsonl by split and epoch; a broken one is named and left out."""
    found: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "val": {}}
    for number, line in enumerate(_text(path).splitlines(), 1):
        try:
            record = json.loads(line)
            values = {
                key: math.nan if record[key] is None else float(record[key])  # null: no number
                for key in ("loss", "accuracy", "lr", "images_per_s")
            }
            found[record["split"]][int(record["epoch"])] = values
        except (ValueError, TypeError, KeyError, OverflowError):
            print(
                f"train.plot: warning: {path}: line {number} is left out, it is no line of the"
                " trainer's",
                file=sys.stderr,
            )
    if not found["train"] and not found["val"]:
        raise TrainerError(f"{path} has no epoch yet; there is nothing to draw.")
    return found


def read_predictions(path: str) -> dict[str, Any] | None:
    """The content of predictions.json, the picture whose class got the least probability first;
    None if there is no such file.
    """
    if not os.path.exists(path):
        return None
    try:
        content: dict[str, Any] = json.loads(_text(path))
        content["pictures"].sort(key=lambda picture: float(picture["label_probability"]))
        known = set(content["classes"])
        if not all({p["label"], p["prediction"]} <= known for p in content["pictures"]):
            raise ValueError("classes that it does not list")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TrainerError(
            f"{path} cannot be read ({one_line(error)}). `--data DIR` makes it again."
        ) from error
    return content if content["pictures"] else None


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as error:
        raise TrainerError(f"{path} cannot be read ({error.strerror or error}).") from error


# -- files -----------------------------------------------------------------------------------------


def draw(folder: str) -> list[str]:
    """Draw what the files of the output folder allow, and return the names of the pictures.

    Raises TrainerError if a file cannot be read or written, ImportError without matplotlib.
    """
    from train.drawing import draw_confusion, draw_curves, draw_predictions

    pictures: dict[str, tuple[Callable[[Figure, Any], None], Any]]
    pictures = {"curves.png": (draw_curves, read_metrics(os.path.join(folder, "metrics.jsonl")))}
    predictions = read_predictions(os.path.join(folder, "predictions.json"))
    if predictions is not None:
        pictures["predictions.png"] = (draw_predictions, predictions)
        pictures["confusion.png"] = (draw_confusion, predictions)
    for name, (draw_one, content) in pictures.items():
        _save(os.path.join(folder, name), draw_one, content)
    return list(pictures)


def _save(path: str, draw_one: Callable[[Figure, Any], None], content: object) -> None:
    """Draw one picture and write it, whole or not at all."""
    os.environ["MPLBACKEND"] = "agg"  # a name that matplotlib does not know would stop its import
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")  # a class name in letters that the font does not have
        matplotlib.rcdefaults()  # a style of one's own may have white lines, or want LaTeX
        matplotlib.rcParams.update(STYLE)
        figure = Figure(dpi=DPI, layout="constrained")
        draw_one(figure, content)
        FigureCanvasAgg(figure).print_png(file)
    try:
        with whole_file(path) as whole:
            whole.write(file.getvalue())
    except OSError as error:
        raise TrainerError(f"{path} cannot be written ({error.strerror or error}).") from error


def draw_at_the_end(ctx: Context, folder: str) -> None:
    """Draw on rank 0 after a training; whatever goes wrong is one line and not the run's end."""
    if not ctx.is_main:
        return
    try:
        made = f"{os.path.join(folder, '')}{', '.join(draw(folder))}"
    except ImportError:
        made = f"none without matplotlib. Type: {_missing(folder)}"
    except Exception as error:  # the training is done and saved
        made = f"none ({one_line(error)})"
    ctx.print(f"pictures    {made}")


def _missing(folder: str) -> str:
    python = shlex.quote(sys.executable)
    return f"{python} -m pip install matplotlib && {python} -m train.plot {shlex.quote(folder)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the pictures of the folder that is named; 0, or 2 if there is nothing to draw."""
    parser = argparse.ArgumentParser(
        prog="train.plot",
        description="Draw curves.png, predictions.png and confusion.png of a training.",
    )
    parser.add_argument("folder", help="the trainer's output folder")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder with train/ and val/: show val/ to model.pt again, for the last two pictures",
    )
    args = parser.parse_args(argv)
    try:
        if args.data is not None:
            from train.validation import predict_again

            predict_again(args.folder, args.data)
        made = draw(args.folder)
    except ImportError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        print(
            f"train.plot: error: matplotlib is missing. Type: {_missing(args.folder)}",
            file=sys.stderr,
        )
        return EXIT_USAGE
    except TrainerError as error:
        print(f"train.plot: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    for name in made:
        print(os.path.join(args.folder, name))
    if len(made) == 1:
        print(
            "train.plot: note: there is no predictions.json; `--data DIR` makes it from model.pt,"
            " for predictions.png and confusion.png",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
