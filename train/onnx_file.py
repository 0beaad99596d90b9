"""model.onnx: a trained model as a file that needs no torch.

Owns what its metadata say, and how it becomes a network again. The file takes normalised pictures,
any number of them, and answers with one number per class, as the network itself does. Knows nothing
of how it was made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from train.command import require_packages
from train.errors import TrainerError, one_line

INPUT, OUTPUT, BATCH = "images", "logits", "batch"
# Of model.pt, everything but the weights: each as JSON under its own name.
METADATA = ("arch", "classes", "image_size", "resize", "mean", "std", "epoch")


def metadata_of(content: Mapping[str, Any]) -> dict[str, str]:
    """What the file says about itself, from the content of a model.pt."""
    return {key: json.dumps(content[key]) for key in METADATA}


class OnnxNetwork:
    """The network of a model.onnx: normalised pictures (N, 3, H, W) on the CPU to logits."""

    def __init__(self, model: str | bytes) -> None:
        """Open a file, or the content of one; raises what onnxruntime finds wrong with it."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # As many as torch would take: the launcher shares the processors among the ranks.
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._size = tuple(self._session.get_inputs()[0].shape[1:])

    @property
    def metadata(self) -> dict[str, Any]:
        """What the file says about itself; raises ValueError if it is not ours."""
        found = self._session.get_modelmeta().custom_metadata_map
        missing = set(METADATA) - set(found)
        if missing:
            raise ValueError(f"without {', '.join(sorted(missing))} in its metadata")
        return {key: json.loads(found[key]) for key in METADATA}

    def __call__(self, images: Tensor) -> Tensor:
        """The logits; raises ValueError for pictures of another size than the file was made for."""
        if tuple(images.shape[1:]) != self._size:
            shape, own = ("x".join(map(str, s)) for s in (images.shape[1:], self._size))
            raise ValueError(f"the numbers are {shape}, and the model takes {own}")
        (logits,) = self._session.run([OUTPUT], {INPUT: images.contiguous().numpy()})
        return torch.from_numpy(logits)


def read_onnx(path: str) -> tuple[OnnxNetwork, dict[str, Any]]:
    """The network and the metadata of a model.onnx; raises TrainerError for any other file."""
    require_packages(("onnxruntime",), what=path)
    if not os.path.isfile(path):
        raise TrainerError(f"there is no model file {path}.")
    try:
        network = OnnxNetwork(path)
    except Exception as error:  # onnxruntime has a class of its own for each way to be broken
        raise TrainerError(
            f"the model file {path} cannot be read ({one_line(error)}). Export it again."
        ) from error
    try:
        return network, network.metadata
    except ValueError as error:
        raise TrainerError(
            f"{path} is not a model.onnx that `python -m train.export` wrote ({error})."
        ) from error
