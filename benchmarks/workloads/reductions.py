"""Ranks of one node that combine tensors in turns: by torch.distributed over Gloo, and by ctx.

Rank 0 prints one JSON object: for each number of bytes, the median seconds of both.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import distributed

import launcher

BYTES_AND_CALLS = ((8, 200), (8 << 10, 200), (1 << 20, 50), (45 << 20, 8))


def by_torch(tensor: torch.Tensor) -> None:
    """Sum a copy, as ctx.all_reduce does."""
    distributed.all_reduce(tensor.clone())


def seconds(way: Callable[[torch.Tensor], object], tensor: torch.Tensor) -> float:
    """How long a way takes from a moment when all ranks are there."""
    distributed.barrier()
    began = time.perf_counter()
    way(tensor)
    return time.perf_counter() - began


def main() -> None:
    """Measure, in the number of rounds that the command line gives."""
    rounds = int(sys.argv[1])
    ctx = launcher.init(backend="gloo")
    for _ in range(5):  # shared memory is opened on the way
        ctx.all_reduce(1.0)
    result: dict[int, list[float]] = {}
    for num_bytes, calls in BYTES_AND_CALLS:
        tensor = torch.ones(num_bytes // 4)
        samples: list[tuple[float, float]] = [
            (seconds(by_torch, tensor), seconds(partial(ctx.all_reduce, op="sum"), tensor))
            for _ in range(rounds * calls)
        ]
        result[num_bytes] = [statistics.median(found) for found in zip(*samples, strict=True)]
    ctx.print(json.dumps(result))


main()
