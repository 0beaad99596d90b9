"""The scoring interface of the articles: init() loads the model, run(data) answers for one picture.

A server imports this file and calls the two; no launcher is needed. Owns what a request may look
like. Whatever is wrong with a request is in the answer; a missing model is an exception of init().
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.classifier import Classifier, load_classifier
from train.errors import TrainerError, one_line
from train.pictures import Unreadable, decode_bytes, validation_crop

MODEL_FILES = ("model.pt", "model.onnx")  # in a folder with both, the first is taken
# A picture's content begins otherwise, and so does base64.
JSON_STARTS = ("{", "[", '"')

_classifier: Classifier | None = None


def init(path: str | None = None) -> None:
    """Load the model: `path` is its file or a folder, without it the folder in AZUREML_MODEL_DIR.

    Raises TrainerError if there is none, or several.
    """
    global _classifier
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _classifier = load_classifier(_find_model(path), device)


def run(data: Any) -> dict[str, Any]:
    """The likeliest class of one picture: {"label": ..., "probability": ...}, or {"error": ...}.

    `data` is the content of a picture file (bytes, or base64 text), or a nested list of normalised
    numbers, 3 x height x width or 1 x 3 x height x width; or JSON text {"data": ...} with base64
    or such a list in it.
    """
    classifier = _classifier
    if classifier is None:
        raise TrainerError("there is no model yet: call init() before run().")
    try:
        images = _images(data, classifier)
        probability, label = classifier.probabilities(images)[0].max(0)
    except Exception as error:  # a request can be anything, and so can what the decoders raise
        return {"error": one_line(error)}
    if not math.isfinite(probability):
        return {"error": "the numbers are too large for the model, or no numbers"}
    return {"label": classifier.classes[int(label)], "probability": float(probability)}


def _find_model(path: str | None) -> str:
    where = path or os.environ.get("AZUREML_MODEL_DIR")
    if not where:
        raise TrainerError(
            "no model is named: give init() the model's file or folder, or set AZUREML_MODEL_DIR."
        )
    if not os.path.isdir(where):
        return where
    for name in MODEL_FILES:
        found = [os.path.join(here, name) for here, _, names in os.walk(where) if name in names]
        if len(found) > 1 and found[0] != os.path.join(where, name):
            raise TrainerError(f"there are {len(found)} files {name} in {where}, not one.")
        if found:
            return found[0]
    raise TrainerError(f"there is no {' and no '.join(MODEL_FILES)} in {where}.")


def _images(data: Any, classifier: Classifier) -> Tensor:
    """The request as one normalised picture (1, 3, H, W); raises whatever is wrong with it."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        data = bytes(data)
        if not data.lstrip().startswith(tuple(s.encode() for s in JSON_STARTS)):
            return _picture(data, classifier)
        data = data.decode()
    if isinstance(data, str) and data.lstrip().startswith(JSON_STARTS):
        data = _from_json(data)
    if isinstance(data, Mapping):
        if "data" not in data:
            raise ValueError('the JSON object has no "data"')
        data = data["data"]
    if isinstance(data, str):
        return _picture(_from_base64(data), classifier)
    if isinstance(data, (bytes, bytearray)):
        return _picture(bytes(data), classifier)
    if isinstance(data, (list, tuple)):
        return _numbers(data)
    raise ValueError(
        "a request is a picture's bytes, base64 text or a nested list of numbers,"
        f" not {type(data).__name__}"
    )


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the text is no JSON: {one_line(error)}") from error


def _from_base64(text: str) -> bytes:
    if text.startswith("data:"):  # as browsers write it: data:image/jpeg;base64,...
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise ValueError("the text is neither JSON nor base64") from error


def _picture(content: bytes, classifier: Classifier) -> Tensor:
    """One picture, prepared as the validation pictures of the training were."""
    try:
        picture = decode_bytes(content, classifier.image_size)
    except Unreadable as error:
        raise ValueError(f"the picture cannot be read: {error}") from error
    cut = validation_crop(picture, classifier.image_size, classifier.resize)
    return classifier.normalise(torch.from_numpy(np.array(cut)[None]))


def _numbers(data: list[Any] | tuple[Any, ...]) -> Tensor:
    try:
        images = torch.tensor(data, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError("the list is no array of numbers") from error
    shape = "x".join(map(str, images.shape))
    if images.dim() == 3:
        images = images[None]
    if images.dim() != 4 or images.shape[:2] != (1, 3) or not images.numel():
        raise ValueError(f"the numbers are {shape}, not 3xHxW or 1x3xHxW")
    return images
