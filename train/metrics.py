"""The figures of a run: sums over ranks, JSON lines, and the progress bar.

Owns what is counted and how it is shown. Every picture counts once: sums and counts are added over
the ranks, and divided at the end. Knows nothing of how the figures come about.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from train.errors import TrainerError
from train.events import Events
from train.files import whole_file

if TYPE_CHECKING:
    from launcher import Context

# Seconds between two states of the bar: on a terminal; under the launcher, which shows it as one
# live line; where nobody watches it live (a file, a pipe). Under the launcher and where nobody
# watches, there is none in the first seconds.
LIVE_BAR_S, LAUNCHER_BAR_S, SPARSE_BAR_S = 0.1, 1.0, 10.0


class Meter:
    """Sums of this rank since the start of an epoch: loss, right answers, pictures."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self._start = time.monotonic()
        self._seen_before = 0.0

    def add(self, loss_sum: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count one batch; waits for no GPU."""
        right = (logits.argmax(1) == labels).sum()
        count = torch.tensor(len(labels), device=self.sums.device)
        self.sums += torch.stack([loss_sum.detach().double(), right.double(), count.double()])

    def restore(self, sums: Tensor) -> None:
        """Go on from the sums of a checkpoint; the speed counts from now."""
        self.sums.copy_(sums)
        self._seen_before = float(sums[2])

    def result(self, ctx: Context) -> Result:
        """The figures over all ranks; a collective call."""
        local = torch.cat([self.sums, self.sums.new_tensor([self._seen_before])])
        loss, right, count, before = ctx.all_reduce(local, "sum").tolist()
        seconds = time.monotonic() - self._start
        pictures = max(count, 1.0)
        return Result(
            loss / pictures, right / pictures, int(count), (count - before) / max(seconds, 1e-9)
        )


@dataclass(frozen=True)
class Result:
    """The figures of one pass over a split; loss and accuracy are means per picture, accuracy is
    0..1.
    """

    loss: float
    accuracy: float
    images: int
    images_per_s: float


def _log_to_run(record: dict[str, Any]) -> None:
    """Log the figures of one epoch and split to the run that keeps this training, if one does."""
    if "LAUNCHER_JOBS_RUN" not in os.environ:
        return
    from launcher.jobs import Run  # only where it is wanted

    run, split = Run.get_context(), record["split"]
    for name in ("loss", "accuracy", "images_per_s", *(["lr"] if split == "train" else [])):
        if record[name] is not None:
            run.log(f"{split}_{name}", record[name], step=record["epoch"])


class MetricsFile:
    """metrics.jsonl: one line for each epoch and split, written by rank 0; and the same for
    TensorBoard, where that is asked for. A context.
    """

    def __init__(
        self, path: str, ctx: Context, *, keep_epochs: int, events: str | None = None
    ) -> None:
        """Open the file and keep its lines of the first `keep_epochs` epochs: those after them will
        be done again. `events` is the folder for TensorBoard.
        """
        self._path = path
        self._is_main = ctx.is_main
        self._events: Events | None = None
        if not self._is_main:
            return
        try:
            kept = [line for line in _lines(path) if _epoch(line) <= keep_epochs]
            with whole_file(path) as file:
                file.writelines(line.encode() for line in kept)
            if events is not None:
                self._events = Events(events, keep_epochs=keep_epochs)
        except OSError as error:
            raise TrainerError(
                f"the metrics file {path} cannot be written ({error.strerror or error})."
            ) from error

    def __enter__(self) -> MetricsFile:
        """Begin; the file was opened when this object was made."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what TensorBoard reads."""
        if self._events is not None:
            self._events.close()

    def add(self, epoch: int, split: str, result: Result, lr: float) -> None:
        """Append one line; a full disk is a warning, the figures are on the screen too.

        A figure that is no number any more is null, as JSON has no word for it.
        """
        if not self._is_main:
            return
        record = {
            "epoch": epoch,
            "split": split,
            **asdict(result),
            "lr": lr,
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        }
        if self._events is not None:
            self._events.add(record)
        record = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in record.items()
        }
        _log_to_run(record)
        try:
            _append(self._path, json.dumps(record, allow_nan=False).encode() + b"\n")
        except OSError as error:
            print(
                f"train: warning: {self._path} could not be written ({error.strerror or error})",
                file=sys.stderr,
            )


def _append(path: str, line: bytes) -> None:
    """Add the line, whole or not at all: half of one on a full disk would spoil the next line as
    well.
    """
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        if file.write(line) < len(line):
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _lines(path: str) -> list[str]:
    """The whole lines of the file; a last one that a crash cut short is left out."""
    try:
        with open(path, encoding="utf-8") as file:
            return [line for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []


def _epoch(line: str) -> float:
    """The epoch of a line; infinite, so not kept, for a line that is none of ours."""
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, TypeError, KeyError):
        return math.inf


def progress_bar(ctx: Context, title: str, total: int, done: int = 0) -> tqdm:
    """A bar over `total` pictures on rank 0, live on a terminal and sparse elsewhere; nothing on
    the other ranks.
    """
    live = sys.stderr.isatty()
    pause = LIVE_BAR_S if live else LAUNCHER_BAR_S if ctx.run_dir else SPARSE_BAR_S
    return tqdm(
        total=total,
        initial=done,
        desc=title,
        unit=" pictures",
        disable=not ctx.is_main,
        leave=False,
        mininterval=pause,
        delay=LIVE_BAR_S if live else SPARSE_BAR_S,
    )


def require_finite(trained: Result, validated: Result, epoch: int) -> None:
    """Raise TrainerError once a loss is infinite or no number: from there on nothing is learnt."""
    if not (math.isfinite(trained.loss) and math.isfinite(validated.loss)):
        raise TrainerError(
            f"the loss is no number any more in epoch {epoch}; try a smaller `--lr`."
        )
