"""The figures of a run as TensorBoard shows them: event files, written by rank 0.

Owns their names. Needs the package tensorboard, and only where they are asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

FIGURES = ("loss", "accuracy", "images_per_s")


class Events:
    """The event files of one output folder."""

    def __init__(self, folder: str, *, keep_epochs: int) -> None:
        """Begin another file in `folder`; of those before it, TensorBoard shows the first
        `keep_epochs` epochs only.
        """
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

        self._folder = folder
        self._writer = SummaryWriter(folder, purge_step=keep_epochs + 1)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the figures of one epoch and split; a full disk is a warning."""
        epoch, split = record["epoch"], record["split"]
        try:
            for name in FIGURES:
                self._writer.add_scalar(f"{name}/{split}", record[name], epoch)
            if split == "train":
                self._writer.add_scalar("lr", record["lr"], epoch)
            self._writer.flush()
        except OSError as error:
            print(
                f"train: warning: {self._folder} could not be written ({error.strerror or error})",
                file=sys.stderr,
            )

    def close(self) -> None:
        """End the file."""
        self._writer.close()
