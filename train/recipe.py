"""The recipe beyond the tutorial's: learning rates, loss, mixup, and the average of the weights.

Torch's and torchvision's own parts, put together so that the numbers depend neither on the number
of ranks nor on a stop in between. All of it is off by default. Knows nothing of files.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms.v2 import MixUp

from train.model import build_network

if TYPE_CHECKING:
    from train.folder import Folder


def learning_rates(args: argparse.Namespace) -> list[float]:
    """The rate of each epoch.

    Torch's schedulers are asked beforehand, with an optimizer of nothing: so a continued run needs
    no state of theirs.
    """
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=args.lr)
    schedule: LRScheduler
    if args.lr_schedule == "cosine":
        schedule = CosineAnnealingLR(optimizer, T_max=args.epochs - args.warmup_epochs)
    else:
        schedule = LambdaLR(optimizer, lambda epoch: args.lr_gamma ** (epoch // args.lr_step))
    if args.warmup_epochs:
        first = 1 / (args.warmup_epochs + 1)
        warmup = LinearLR(optimizer, start_factor=first, total_iters=args.warmup_epochs)
        schedule = SequentialLR(optimizer, [warmup, schedule], milestones=[args.warmup_epochs])
    rates = []
    for _ in range(args.epochs):
        rates.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return rates


class Objective:
    """What the training minimises: the loss, of pictures that may be mixed."""

    def __init__(self, args: argparse.Namespace, folder: Folder, device: torch.device) -> None:
        self._smoothing = float(args.label_smoothing)
        num_classes = len(folder.classes)
        self._mixup = MixUp(alpha=args.mixup, num_classes=num_classes) if args.mixup else None
        self._weights: Tensor | None = None
        if args.class_weights:
            counts = Counter(picture.label for picture in folder.train)
            even = len(folder.train) / num_classes
            weights = [even / counts[label] for label in range(num_classes)]
            self._weights = torch.tensor(weights, device=device)

    def mix(
        self, images: Tensor, labels: Tensor, moment: tuple[int, int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The pictures to train on, their labels, and what loss() compares them with.

        Without --mixup that is what was given. With it, of pairs of pictures the second ones with
        some of the first in them, and as the last the mixed labels (N, classes). All ranks mix
        equally at one `moment`: seed, epoch and batch.
        """
        if self._mixup is None:
            return images, labels, labels
        drawn = random.Random("mixup {} {} {}".format(*moment)).getrandbits(63)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(drawn)
            # Each picture with the one before it: of a pair, the second with the first.
            images, targets = self._mixup(images, labels)
        return images[1::2], labels[1::2], targets[1::2]

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The sum over the pictures; `targets` are class numbers or mixed labels."""
        weights = None if self._weights is None else self._weights.to(logits.dtype)
        if targets.is_floating_point():
            targets = targets.to(logits.dtype)
        return F.cross_entropy(
            logits, targets, weights, label_smoothing=self._smoothing, reduction="sum"
        )


def average_of(
    args: argparse.Namespace, model: nn.Module, num_classes: int
) -> AveragedModel | None:
    """The moving average of the model's weights and statistics, if one is asked for; the same on
    all ranks without any exchange.
    """
    if not args.ema:
        return None
    like = next(model.parameters())
    network = build_network(args.model, num_classes, args.image_size)
    network = network.to(like.device, like.dtype, memory_format=torch.channels_last)
    network.requires_grad_(False)
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(args.ema), use_buffers=True)
