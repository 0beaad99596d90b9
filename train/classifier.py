"""A trained model that answers: its network, its class names, and how it wants a picture prepared.

Owns how model.pt becomes a network again; train/onnx_file.py does that for model.onnx. Everything
about the pixels comes from that file. Knows nothing of ranks, files of pictures, and what is done
with an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from train.data import to_network
from train.errors import TrainerError, one_line
from train.model import build_network
from train.model_file import load_model
from train.onnx_file import read_onnx


@dataclass(frozen=True)
class Classifier:
    """A network in evaluation mode, on its device."""

    network: Callable[[Tensor], Tensor]
    classes: tuple[str, ...]
    image_size: int
    resize: int
    """The shorter side of a picture before its centre is cut out."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epoch: int
    """The one after which it was the best."""
    device: torch.device
    precision: torch.dtype

    def normalise(self, images: Tensor) -> Tensor:
        """Bytes (N, H, W, 3) as probabilities() takes them."""
        return to_network(images, self.device, self.mean, self.std)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def logits(self, images: Tensor) -> Tensor:
        """What the network says of normalised pictures (N, 3, H, W): a number per class."""
        images = images.to(self.device)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision is torch.bfloat16
        ):
            return self.network(images).float()

    def probabilities(self, images: Tensor) -> Tensor:
        """The probability of each class (N, classes) for normalised pictures (N, 3, H, W)."""
        return self.logits(images).softmax(1).cpu()


def load_classifier(
    path: str, device: torch.device, precision: torch.dtype = torch.float32
) -> Classifier:
    """Make the network of a model.pt, or of a model.onnx, which computes in float32 on the CPU
    whatever is asked for; raises TrainerError if the file is neither, or is damaged.
    """
    network: Callable[[Tensor], Tensor]
    if path.endswith(".onnx"):
        network, content = read_onnx(path)
        device, precision = torch.device("cpu"), torch.float32
    else:
        content = load_model(path)
        network = _build(path, content, device)
    try:
        return Classifier(
            network,
            tuple(map(str, content["classes"])),
            int(content["image_size"]),
            int(content["resize"]),
            tuple(map(float, content["mean"])),
            tuple(map(float, content["std"])),
            int(content["epoch"]),
            device,
            precision,
        )
    except (TypeError, ValueError) as error:
        raise _broken(path, error) from error


def _build(path: str, content: Mapping[str, Any], device: torch.device) -> nn.Module:
    try:
        with torch.device("meta"):  # the values come from the file: none need be drawn
            network = build_network(content["arch"], len(content["classes"]), content["image_size"])
        network.load_state_dict(content["model"], assign=True)
        return network.to(device, memory_format=torch.channels_last).eval()
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _broken(path, error) from error


def _broken(path: str, error: Exception) -> TrainerError:
    return TrainerError(f"the model file {path} does not fit together ({one_line(error)}).")
