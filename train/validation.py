"""What the network said about each validation picture: predictions.json, beside model.pt.

Owns the collecting over ranks and the writing of that file; train/plot.py reads it. Knows nothing
of epochs, and nothing of drawing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torchvision
from torch import Tensor

import launcher
from train.data import Loader, to_network
from train.errors import TrainerError, one_line
from train.folder import Folder, Picture, list_folder
from train.pictures import PictureCache

if TYPE_CHECKING:
    from launcher import Context


class Predictions:
    """The predictions of one validation, of this rank's pictures."""

    def __init__(self) -> None:
        self._pictures: list[Picture] = []
        self._said: list[Tensor] = []

    def add(self, pictures: Sequence[Picture], logits: Tensor, labels: Tensor) -> None:
        """Note one batch; waits for no GPU."""
        chances = logits.detach().float().softmax(1)
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
            with open(f"{path}.tmp", "w", encoding="ascii") as file:
                file.write(text)
            os.replace(f"{path}.tmp", path)
        except OSError as error:
            ctx.print(f"train: warning: {path} could not be written ({error.strerror or error})")


def predict_again(output_folder: str, data: str) -> None:
    """Show the validation pictures of `data` to model.pt, and write predictions.json anew.

    Raises TrainerError if the model or the data cannot be used.
    """
    path = os.path.join(output_folder, "model.pt")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        size, names, epoch = content["image_size"], tuple(content["classes"]), content["epoch"]
        model = torchvision.models.get_model(content["arch"], weights=None, num_classes=len(names))
        model.load_state_dict(content["model"])
    except Exception as error:  # whatever torch meets in a damaged file, or in one of others
        raise TrainerError(f"{path} is no model of this trainer ({one_line(error)}).") from error
    folder = list_folder(data)
    if folder.classes != names:
        raise TrainerError(
            f"{data} has the classes {', '.join(folder.classes)}, and {path} was trained on"
            f" {', '.join(names)}."
        )
    ctx = launcher.init()
    with PictureCache(0) as cache, torch.inference_mode():
        model = model.to(ctx.device, memory_format=torch.channels_last).eval()
        predictions = Predictions()
        for batch in Loader(ctx, folder, cache, size, "auto").validation():
            logits = model(to_network(batch.images, ctx.device))
            predictions.add(batch.pictures, logits, batch.labels.to(ctx.device))
        predictions.save(
            ctx,
            os.path.join(output_folder, "predictions.json"),
            folder,
            epoch=epoch,
            image_size=size,
        )
