"""model.pt: what a training leaves for those who use the model.

Owns its format, and tells it from other files. Knows nothing of networks.
"""

from __future__ import annotations

import argparse
import os
import zipfile
from typing import Any

import torch
from torch import nn

from train.data import MEAN, STD
from train.errors import TrainerError, one_line
from train.pictures import resized_side

# What the file must hold to be of use.
MODEL_KEYS = {"model", "arch", "classes", "image_size", "resize", "mean", "std", "epoch"}


def model_content(
    args: argparse.Namespace,
    classes: tuple[str, ...],
    model: nn.Module,
    *,
    accuracy: float,
    epoch: int,
) -> dict[str, Any]:
    """What someone needs to use the model: weights, the network's name, class names, and how to
    prepare a picture.
    """
    return {
        "model": model.state_dict(),
        "arch": args.model,
        "classes": list(classes),
        "image_size": args.image_size,
        "resize": resized_side(args.image_size),
        "mean": list(MEAN),
        "std": list(STD),
        "accuracy": accuracy,
        "epoch": epoch,
    }


def load_model(path: str) -> dict[str, Any]:
    """What model_content() has put into the file; raises TrainerError for any other file."""
    if path.endswith(".onnx"):
        raise TrainerError(f"{path} is an ONNX file. Give the model.pt that the training wrote.")
    if not os.path.isfile(path):
        hint = " Did you mean the model.pt in it?" if os.path.isdir(path) else ""
        raise TrainerError(f"there is no model file {path}.{hint}")
    if not zipfile.is_zipfile(path):
        raise TrainerError(
            f"{path} is of an unknown type: it is not a model.pt that the training wrote."
        )
    try:
        content = load_whole(path)
    except Exception as error:
        raise TrainerError(
            f"the model file {path} cannot be read ({one_line(error)}). Copy it again, or train"
            " again."
        ) from error
    missing = MODEL_KEYS - set(content if isinstance(content, dict) else ())
    if missing:
        what = "a checkpoint" if "model" not in missing and "optimizer" in content else "another"
        raise TrainerError(
            f"{path} is not a model.pt that the training wrote, but {what} file of torch"
            f" (without {', '.join(sorted(missing))}). model.pt lies beside the checkpoint."
        )
    return content


def load_whole(path: str) -> Any:
    """The content of a file of torch.save; raises whatever the unpickler meets in a damaged one."""
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()  # torch does not look at the check sums
    if damaged is not None:
        raise zipfile.BadZipFile(f"the check sum of {damaged} in it is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)
