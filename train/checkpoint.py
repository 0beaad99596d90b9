"""What a run leaves in its output folder, and how it goes on from there.

Owns the file names, the atomic writing and the format of checkpoint.pt. Rank 0 writes; a file
appears whole or not at all. Knows nothing of pictures; what a checkpoint must agree on with
the command is listed here.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from train.errors import TrainerError, one_line, together
from train.files import whole_file
from train.model_file import load_whole

if TYPE_CHECKING:
    from launcher import Context

FORMAT = 2
# Options that a continued run must share with its checkpoint, or the result is that of neither
# command.
SAME_RECIPE = (
    "model",
    "freeze_backbone",
    "image_size",
    "batch_size",
    "lr",
    "momentum",
    "lr_step",
    "lr_gamma",
    "lr_schedule",
    "warmup_epochs",
    "label_smoothing",
    "mixup",
    "class_weights",
    "accumulate",
    "ema",
    "seed",
)


@dataclass
class Progress:
    """How far the training is: everything besides weights and momentum that the next step depends
    on.
    """

    epoch: int = 0
    """Index of the epoch at work."""
    step: int = 0
    """Batches of that epoch that are done."""
    best_accuracy: float = -1.0
    """Of the model in model.pt, 0..1; -1 before there is one."""
    best_epoch: int = -1


class Output:
    """The output folder: its files, and whether they could be written. A context: inside, it is
    this run's alone.
    """

    def __init__(self, ctx: Context, folder: str) -> None:
        """Make the folder and prove that it can be written to; a collective call, SystemExit on all
        ranks if not.
        """
        self._ctx = ctx
        self.folder = folder
        self.unsaved: dict[str, str] = {}
        """Why the latest write of a file failed, by path."""
        self._lock: int | None = None
        together(ctx, self._prove_writable)

    def __enter__(self) -> Output:
        """Begin; the folder was taken when this object was made."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let another run have the folder."""
        if self._lock is not None:
            os.close(self._lock)

    @property
    def checkpoint(self) -> str:
        """The state to continue from."""
        return os.path.join(self.folder, "checkpoint.pt")

    @property
    def model(self) -> str:
        """The best model so far."""
        return os.path.join(self.folder, "model.pt")

    @property
    def onnx(self) -> str:
        """The best model as an ONNX file, after the training and only if that is asked for."""
        return os.path.join(self.folder, "model.onnx")

    @property
    def metrics(self) -> str:
        """One JSON line per epoch and split."""
        return os.path.join(self.folder, "metrics.jsonl")

    @property
    def events(self) -> str:
        """The folder that TensorBoard reads, only if that is asked for."""
        return os.path.join(self.folder, "tensorboard")

    @property
    def predictions(self) -> str:
        """What that model said about each validation picture."""
        return os.path.join(self.folder, "predictions.json")

    @property
    def skipped(self) -> str:
        """Files of the data folder that were left out, with the reason."""
        return os.path.join(self.folder, "skipped.txt")

    def _prove_writable(self) -> None:
        if not self._ctx.is_main:
            return
        try:
            os.makedirs(self.folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as file:
                file.write(b"\0" * 4096)
            self._lock = _lock_folder(self.folder)
            for path in (self.checkpoint, self.model, self.onnx, self.predictions):
                if os.path.exists(f"{path}.tmp"):  # of a run that was killed while it wrote
                    os.unlink(f"{path}.tmp")
        except OSError as error:
            raise TrainerError(
                f"the output folder {self.folder} cannot be written to ({error.strerror or error})."
                " Name another one with `--output-dir`."
            ) from error

    def require_space(self, model: nn.Module, num_trained: int, *, averaged: bool) -> None:
        """Refuse a disk without room for the files of this run; a collective call, SystemExit on
        all ranks.

        `num_trained` is the number of trained values: each has a momentum. The average of the
        weights, where there is one, is in the checkpoint, too. The old and the new checkpoint exist
        together for a moment, and model.pt beside them; files of an earlier run are replaced only
        after that.
        """
        weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
        needed = 2 * (weights * (1 + averaged) + 4 * num_trained) + weights

        def check() -> None:
            if not self._ctx.is_main:
                return
            there = sum(
                os.path.getsize(p) for p in (self.checkpoint, self.model) if os.path.exists(p)
            )
            free = shutil.disk_usage(self.folder).free
            if free + there < needed:
                raise TrainerError(
                    f"the disk of the output folder {self.folder} has {free / 1e6:.0f} MB free, and"
                    f" the checkpoints need {needed / 1e6:.0f} MB. Make room, or name another"
                    " folder with `--output-dir`."
                )

        together(self._ctx, check)

    def note_skipped(self, skipped: Sequence[tuple[str, str]]) -> None:
        """Write the names of the files that are left out, on rank 0; the screen has the first of
        them anyway.
        """
        if self._ctx.is_main and (
            skipped or os.path.exists(self.skipped)
        ):  # an earlier run's list is not to stay
            try:
                with open(self.skipped, "w", encoding="utf-8", errors="surrogateescape") as file:
                    file.writelines(f"{path}: {reason}\n" for path, reason in skipped)
            except OSError as error:
                self._ctx.print(
                    f"train: warning: {self.skipped} could not be written"
                    f" ({error.strerror or error})"
                )

    def write(self, path: str, content: Mapping[str, Any]) -> bool:
        """Save `content` on rank 0, atomically; a collective call, False on all ranks if it could
        not be written.

        A full disk in the middle of a run is no reason to lose the run: the caller goes on, the
        file before this one is still there, and `unsaved` keeps the reason until a later write
        succeeds.
        """
        problem = None
        if self._ctx.is_main:
            try:
                save_atomically(path, content)
            except OSError as error:
                problem = error.strerror or str(error)
        problem = self._ctx.broadcast_object(problem)
        if problem is None:
            self.unsaved.pop(path, None)
        else:
            self.unsaved[path] = problem
            self._ctx.print(
                f"train: warning: {path} could not be written ({problem}); going on without it"
            )
        return problem is None


def _lock_folder(folder: str) -> int:
    """Take the folder for this process and return the lock's descriptor; raises TrainerError if
    another run has it.

    Two runs would write to the same temporary files and mix their metrics. The kernel ends the lock
    with the process.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise TrainerError(
            f"another training is writing to the output folder {folder}. Wait for its end, or name"
            " another one with `--output-dir`."
        ) from error
    except OSError:
        pass  # a file system that knows no locks
    return lock


def save_atomically(path: str, content: Mapping[str, Any]) -> None:
    """torch.save to a temporary file beside `path`, then rename it; raises OSError, and leaves the
    old file then.
    """
    try:
        with whole_file(path) as file:
            torch.save(content, file)
    except BaseException as error:
        # torch's zip writer covers it with an error of its own.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def checkpoint_content(
    args: argparse.Namespace,
    classes: tuple[str, ...],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
    progress: Progress,
    ranks: list[dict[str, Any]] | None,
    *,
    run_id: str | None,
) -> dict[str, Any]:
    """Everything an exact continuation needs; `model` is the unwrapped one, `average` that of its
    weights, `ranks` what differs between ranks.
    """
    return {
        "format": FORMAT,
        "run_id": run_id,
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state_dict() if average is not None else None,
        "progress": asdict(progress),
        "ranks": ranks,
        "classes": list(classes),
        "args": vars(args),
    }


def load_checkpoint(
    ctx: Context, output: Output, args: argparse.Namespace, classes: tuple[str, ...]
) -> dict[str, Any] | None:
    """Return the checkpoint to continue from, or None to start; a collective call, SystemExit if it
    does not fit.

    Rank 0 reads it and sends it to the others, so that the nodes need no common folder.
    """

    def read() -> dict[str, Any] | None:
        if not ctx.is_main or args.resume == "no":
            return None
        if not os.path.exists(output.checkpoint):
            if args.resume == "yes":
                ctx.print(
                    f"note: {output.checkpoint} does not exist; there is nothing to resume,"
                    " starting with epoch 1"
                )
            return None
        is_again = ctx.restart_count > 0 or _is_requeued()
        state = _read(output.checkpoint) if is_again or args.resume == "yes" else {}
        if args.resume == "auto" and not (is_again and _is_same_run(state, ctx)):
            ctx.print(
                f"note: starting anew over the earlier run in {output.folder}; `--resume` would"
                " continue it"
            )
            return None
        _require_same_recipe(state, args, classes, output.checkpoint)
        return state

    return ctx.broadcast_object(together(ctx, read))


def _is_requeued() -> bool:
    """Whether Slurm has started this job again."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def _is_same_run(state: Mapping[str, Any], ctx: Context) -> bool:
    """Whether the run that wrote this checkpoint is the one that was started again here.

    Another one was started anew, and crashed before it had saved anything: it must not go on with
    the run before it.
    """
    if _is_requeued():
        return state.get("slurm_job") == os.environ.get("SLURM_JOB_ID")
    return state.get("run_id") == ctx.run_id


def _read(path: str) -> dict[str, Any]:
    try:
        state = load_whole(path)
    except Exception as error:
        raise TrainerError(
            f"the checkpoint {path} cannot be read ({one_line(error)}). "
            "Start anew with `--resume no`, or name another folder with `--output-dir`."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainerError(
            f"{path} is no checkpoint of this version of the trainer. Start anew with `--resume"
            " no`."
        )
    return state


def _require_same_recipe(
    state: Mapping[str, Any], args: argparse.Namespace, classes: tuple[str, ...], path: str
) -> None:
    then = {**state["args"], "classes": ", ".join(state["classes"])}
    now = {**vars(args), "classes": ", ".join(classes)}
    # The cosine ends with the last epoch; steps of the rate come whenever they come.
    epochs = ("epochs",) if args.lr_schedule == "cosine" else ()
    for name in (*SAME_RECIPE, *epochs, "classes"):
        if then.get(name) != now[name]:
            option = f"--{name.replace('_', '-')}" if name != "classes" else "the class folders"
            raise TrainerError(
                f"the checkpoint {path} was made with {option} {then.get(name)}, this command says"
                f" {now[name]}. Give the same, start anew with `--resume no`, or name another"
                " folder with `--output-dir`."
            )
