"""What the network said about each validation picture: predictions.json, beside model.pt.

Owns the collecting over ranks and the writing of that file, which train/plot.py reads; and how a
trained model is shown the pictures again. Knows nothing of epochs, and nothing of drawing.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import launcher
from train.classifier import Classifier, load_classifier
from train.data import Loader
from train.errors import TrainerError, together
from train.files import whole_file
from train.folder import Folder, Picture, list_folder
from train.metrics import Meter, Result
from train.pictures import PictureCache

if TYPE_CHECKING:
    from launcher import Context


class Predictions:
    """The predictions of one validation, of this rank's pictures."""

    def __init__(self) -> None:
        self._pictures: list[Picture] = []
        self._said: list[Tensor] = []

    def add(self, pictures: Sequence[Picture], chances: Tensor, labels: Tensor) -> None:
        """Note one batch, with the probability of each class (N, classes); waits for no GPU."""
        highest, number = chances.max(1)
        of_label = chances.gather(1, labels[:, None]).squeeze(1)
        self._pictures += pictures
        self._said.append(torch.stack([number.float(), highest, of_label], dim=1))

    def save(self, ctx: Context, path: str, folder: Folder, *, epoch: int, image_size: int) -> None:
        """Write those of all ranks, whole or not at all; a collective call.

        A failure is a warning: they can be made again from model.pt.
        """
        said = torch.cat(self._said).tolist() if self._said else []
        parts = ctx.gather_object(list(zip(self._pictures, said, strict=True)))
        if parts is None:
            return
        names = folder.classes
        lines = [
            json.dumps(
                {
                    "path": picture.path,
                    "label": names[picture.label],
                    "prediction": names[int(number)],
                    "probability": round(highest, 6),
                    "label_probability": round(of_label, 6),
                }
            )
            for picture, (number, highest, of_label) in sorted(
                row for part in parts for row in part
            )
        ]
        head = {
            "epoch": epoch,
            "data": os.path.abspath(folder.root),
            "image_size": image_size,
            "classes": names,
        }
        # One picture to a line, for people and grep; one JSON object all the same.
        text = json.dumps(head)[:-1] + ', "pictures": [\n' + ",\n".join(lines) + "\n]}\n"
        try:
            with whole_file(path) as file:
                file.write(text.encode("ascii"))
        except OSError as error:
            ctx.print(f"train: warning: {path} could not be written ({error.strerror or error})")


# -- without a training ----------------------------------------------------------------------------


def predict_again(output_folder: str, data: str) -> None:
    """Show the validation pictures of `data` to model.pt, and write predictions.json anew.

    Raises TrainerError if the model or the data cannot be used.
    """
    path = os.path.join(output_folder, "model.pt")
    ctx = launcher.init()
    classifier, folder = _open(path, data, ctx.device)
    predictions = Predictions()
    _ask(ctx, classifier, folder, "auto", predictions)
    path = os.path.join(output_folder, "predictions.json")
    size = classifier.image_size
    predictions.save(ctx, path, folder, epoch=classifier.epoch, image_size=size)


def evaluate(ctx: Context, args: argparse.Namespace) -> int:
    """Print loss and accuracy of the validation pictures for a trained model, and return the exit
    code; a collective call, SystemExit if the model or the data cannot be used.
    """
    path = args.weights
    if path in ("imagenet", "none"):  # no file is named
        path = os.path.join(args.output_dir, "model.pt")
    classifier, folder = together(ctx, lambda: _open(path, args.data, ctx.device))
    result = _ask(ctx, classifier, folder, args.workers, Predictions())
    ctx.print(
        f"{path}: val loss {result.loss:.4f} accuracy {result.accuracy:.1%} of {result.images}"
        f" pictures, {result.images_per_s:.1f} images/s"
    )
    return 0


def _open(path: str, data: str, device: torch.device) -> tuple[Classifier, Folder]:
    """The model, and the pictures of its classes; raises TrainerError."""
    try:
        classifier = load_classifier(path, device)
    except TrainerError as error:
        raise TrainerError(f"{path} is no model of this trainer ({error})") from error
    folder = list_folder(data)
    if folder.classes != classifier.classes:
        raise TrainerError(
            f"{data} has the classes {', '.join(folder.classes)}, and {path} was trained on"
            f" {', '.join(classifier.classes)}."
        )
    return classifier, folder


def _ask(
    ctx: Context,
    classifier: Classifier,
    folder: Folder,
    workers: int | str,
    predictions: Predictions,
) -> Result:
    """Show the validation pictures to the model, each noted in `predictions`; a collective call."""
    meter = Meter(torch.device("cpu"))
    with PictureCache(0) as cache:
        size = classifier.image_size
        loader = Loader(ctx, folder, cache, size, workers, resize=classifier.resize)
        for batch in loader.validation():
            logits = classifier.logits(classifier.normalise(batch.images)).cpu()
            loss_sum = F.cross_entropy(logits, batch.labels, reduction="sum")
            meter.add(loss_sum, logits, batch.labels)
            predictions.add(batch.pictures, logits.softmax(1), batch.labels)
            ctx.heartbeat()
    return meter.result(ctx)
