"""The training, to be read from top to bottom once.

main() is the story: options, ranks, data, model, resume, optimizer, then epochs of train, validate,
save. Everything above it is one act of that story. All functions here are called by all ranks; what
one of them prints, rank 0 prints.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.swa_utils import AveragedModel

import launcher
from train.checkpoint import Output, Progress, checkpoint_content, load_checkpoint
from train.command import ONNX_PACKAGES, require_packages
from train.data import Loader, step_of, to_network
from train.errors import EXIT_UNSAVED, EXIT_USAGE, TrainerError, together
from train.exporting import export_at_the_end
from train.folder import Folder, describe, open_folder
from train.metrics import Meter, MetricsFile, Result, progress_bar, require_finite
from train.model import (
    build_model,
    choose_precision,
    generators,
    gradients_stay_here,
    load_weights,
    parameters_to_train,
    require_compiler,
    set_training,
    wrap_model,
)
from train.model_file import model_content
from train.options import parse_args
from train.pictures import PictureCache
from train.plot import draw_at_the_end
from train.recipe import Objective, average_of, learning_rates
from train.validation import Predictions, evaluate


@dataclass
class Training:
    """Everything the acts below work with."""

    ctx: launcher.Context
    args: argparse.Namespace
    folder: Folder
    loader: Loader
    model: nn.Module
    """The wrapped model."""
    optimizer: torch.optim.Optimizer
    rates: list[float]
    """The learning rate of each epoch."""
    objective: Objective
    average: AveragedModel | None
    """Of the weights, if one is asked for: then this is what is validated and saved."""
    precision: torch.dtype
    output: Output
    progress: Progress

    @property
    def result(self) -> nn.Module:
        """The network that is validated."""
        return self.model if self.average is None else self.average.module


# -- data ------------------------------------------------------------------------------------------


def open_data(
    ctx: launcher.Context, args: argparse.Namespace, output: Output
) -> tuple[Folder, Loader]:
    """Check every picture of the folder, decode it once, and say what is left out."""
    with PictureCache(args.cache_mb * 10**6 // ctx.local_world_size) as cache:
        folder = open_folder(ctx, args.data, args.image_size, cache)
    ctx.print(describe(folder))
    output.note_skipped(folder.skipped)
    return folder, Loader(ctx, folder, cache, args.image_size, args.workers)


# -- resume ----------------------------------------------------------------------------------------


def restore(t: Training, state: dict[str, Any]) -> Tensor | None:
    """Continue from a checkpoint; returns the sums of the epoch at work, if it had begun."""
    t.ctx.unwrap(t.model).load_state_dict(state["model"])
    t.optimizer.load_state_dict(state["optimizer"])
    if t.average is not None:
        t.average.load_state_dict(state["average"])
    t.progress = Progress(**state["progress"])
    ranks = state["ranks"]
    if len(ranks) == t.ctx.world_size:
        for generator, rng in zip(generators(t.ctx.device), ranks[t.ctx.rank]["rng"], strict=False):
            generator.set_state(rng)
        sums = ranks[t.ctx.rank]["sums"]
    else:  # other ranks than before: the total is what counts
        total = torch.stack([rank["sums"] for rank in ranks]).sum(0)
        sums = total if t.ctx.is_main else torch.zeros_like(total)
    where = f"epoch {t.progress.epoch + 1}" + (
        f" after {t.progress.step} steps" if t.progress.step else ""
    )
    t.ctx.print(f"resuming: {t.output.checkpoint}: {where}")
    return sums if t.progress.step else None


# -- one epoch -------------------------------------------------------------------------------------


def forward(t: Training, network: nn.Module, images: Tensor) -> Tensor:
    """The logits of normalised pictures."""
    with torch.autocast(t.ctx.device.type, torch.bfloat16, enabled=t.precision is torch.bfloat16):
        logits: Tensor = network(images)
    return logits.float()


def train_epoch(t: Training, meter: Meter) -> bool:
    """Train the rest of the epoch at work; False if a stop was asked for on the way."""
    set_training(t.model, frozen=t.args.freeze_backbone)
    args, p, device = t.args, t.progress, t.ctx.device
    size, total = args.batch_size, len(t.folder.train)
    batches = t.loader.training(args.seed, p.epoch, size, first=p.step, pairs=args.mixup > 0)
    with progress_bar(t.ctx, f"epoch {p.epoch + 1}/{args.epochs}", total, p.step * size) as bar:
        for batch in batches:
            images, labels, targets = t.objective.mix(
                to_network(batch.images, device),
                batch.labels.to(device),
                moment=(args.seed, p.epoch, p.step),
            )
            pictures, is_whole = step_of(p.step, total, size, args.accumulate)
            with gradients_stay_here(t.model, wanted=not is_whole):
                logits = forward(t, t.model, images)
                loss_sum = t.objective.loss(logits, targets)
                # Gradients are averaged over ranks, the loss is a mean over all pictures of the
                # step: each counts alike, also where the ranks have different numbers of them.
                (loss_sum * (t.ctx.world_size / pictures)).backward()
            meter.add(loss_sum, logits, labels)
            p.step += 1
            bar.update(batch.whole)
            t.ctx.heartbeat()
            if not is_whole:
                continue
            t.optimizer.step()
            t.optimizer.zero_grad()
            if t.average is not None:
                t.average.update_parameters(t.ctx.unwrap(t.model))
            if t.ctx.stopping():
                return False
    return True


@torch.no_grad()  # type: ignore[untyped-decorator]
def validate(t: Training, predictions: Predictions) -> Result | None:
    """The figures of the validation pictures, each noted in `predictions`; None if a stop was asked
    for on the way.
    """
    network = t.result.eval()
    meter = Meter(t.ctx.device)
    with progress_bar(t.ctx, "validation", len(t.folder.val)) as bar:
        for batch in t.loader.validation():
            labels = batch.labels.to(t.ctx.device)
            logits = forward(t, network, to_network(batch.images, t.ctx.device))
            # The plain loss, so that recipes can be compared.
            meter.add(F.cross_entropy(logits, labels, reduction="sum"), logits, labels)
            predictions.add(batch.pictures, logits.softmax(1), labels)
            bar.update(batch.whole)
            t.ctx.heartbeat()
            if t.ctx.stopping():
                return None
    return meter.result(t.ctx)


def run_epoch(t: Training, sums: Tensor | None, metrics: MetricsFile) -> bool:
    """Train, validate, record and save one epoch; False if a stop was asked for, with a checkpoint
    of that moment.
    """
    lr = t.rates[t.progress.epoch]
    for group in t.optimizer.param_groups:
        group["lr"] = lr
    meter = Meter(t.ctx.device)
    if sums is not None:
        meter.restore(sums)
    finished = train_epoch(t, meter)
    trained = meter.result(t.ctx)
    predictions = Predictions()
    validated = validate(t, predictions) if finished else None
    if validated is None:
        save_checkpoint(t, meter.sums)
        return False
    p = t.progress
    number = p.epoch + 1
    metrics.add(number, "train", trained, lr)
    metrics.add(number, "val", validated, lr)
    t.ctx.print(
        f"epoch {number}/{t.args.epochs}: train loss {trained.loss:.4f} accuracy"
        f" {trained.accuracy:.1%}, val loss {validated.loss:.4f} accuracy {validated.accuracy:.1%},"
        f" {trained.images_per_s:.1f} images/s"
    )
    together(t.ctx, lambda: require_finite(trained, validated, number))
    if validated.accuracy > p.best_accuracy and save_model(t, validated.accuracy, number):
        p.best_accuracy, p.best_epoch = validated.accuracy, number
        path = t.output.predictions
        predictions.save(t.ctx, path, t.folder, epoch=number, image_size=t.args.image_size)
    p.epoch, p.step = number, 0
    save_checkpoint(t, torch.zeros_like(meter.sums))
    return True


def out_of_patience(t: Training) -> bool:
    """Whether so many epochs as --patience says have brought nothing better than model.pt."""
    since = t.progress.epoch - max(t.progress.best_epoch, 0)
    return 0 < t.args.patience <= since


# -- files -----------------------------------------------------------------------------------------


def save_checkpoint(t: Training, sums: Tensor) -> None:
    """Write checkpoint.pt; a failure is told and remembered by the output."""
    rng = [generator.get_state() for generator in generators(t.ctx.device)]
    ranks = t.ctx.gather_object({"rng": rng, "sums": sums.cpu()})
    model = t.ctx.unwrap(t.model)
    content = checkpoint_content(
        t.args,
        t.folder.classes,
        model,
        t.optimizer,
        t.average,
        t.progress,
        ranks,
        run_id=t.ctx.run_id,
    )
    t.output.write(t.output.checkpoint, content)


def save_model(t: Training, accuracy: float, epoch: int) -> bool:
    """Write model.pt; False if it could not be written."""
    model = t.ctx.unwrap(t.result)
    content = model_content(t.args, t.folder.classes, model, accuracy=accuracy, epoch=epoch)
    return t.output.write(t.output.model, content)


def open_metrics(t: Training) -> MetricsFile:
    """What the epochs that are still to come write their figures to; raises TrainerError."""
    events = t.output.events if t.args.tensorboard else None
    return MetricsFile(t.output.metrics, t.ctx, keep_epochs=t.progress.epoch, events=events)


def finish(t: Training, *, stopped: bool) -> int:
    """Say where everything is, and return the exit code."""
    p, output = t.progress, t.output
    if t.output.unsaved:
        t.ctx.print(
            "\n".join(
                f"train: error: {path} is not up to date: {why}"
                for path, why in output.unsaved.items()
            )
        )
        return EXIT_UNSAVED
    if stopped:
        t.ctx.print(
            f"stopped in epoch {p.epoch + 1} after {p.step} steps; the same command with --resume"
            " continues"
        )
    elif p.epoch < t.args.epochs:
        t.ctx.print(f"no better accuracy in {t.args.patience} epochs: ended after epoch {p.epoch}")
    if p.best_epoch > 0:
        t.ctx.print(f"best validation accuracy {p.best_accuracy:.1%} in epoch {p.best_epoch}")
        t.ctx.print(f"model       {output.model}")
    t.ctx.print(f"checkpoint  {output.checkpoint}")
    t.ctx.print(f"metrics     {output.metrics}")
    if t.args.tensorboard:
        t.ctx.print(f"tensorboard --logdir {output.events}")
    if not stopped:
        draw_at_the_end(t.ctx, output.folder)
        if t.args.export_onnx and not export_at_the_end(t.ctx, output, t.folder):
            return EXIT_UNSAVED
    if t.ctx.run_dir:
        t.ctx.print(f"logs        {os.path.join(t.ctx.run_dir, 'logs')}")
    return 0


# -- the story -------------------------------------------------------------------------------------


def require_possible(ctx: launcher.Context, args: argparse.Namespace) -> None:
    """Raise TrainerError for what this machine or backend does not have."""
    if args.export_onnx:
        require_packages(ONNX_PACKAGES, what="--export-onnx")
    if args.tensorboard:
        require_packages(("tensorboard",), what="--tensorboard")
    if args.compile != "off":
        require_compiler(args.compile, ctx.device)
    if args.accumulate > 1 and ctx.backend == "horovod":
        raise TrainerError("--accumulate does not work with Horovod; raise `--batch-size` instead.")


def prepare(
    ctx: launcher.Context, args: argparse.Namespace, output: Output
) -> tuple[Training, Tensor | None]:
    """Everything before the first step; whatever is wrong is said here, and then all ranks leave
    with code 2.
    """
    precision = together(ctx, lambda: choose_precision(args.precision, ctx.device))
    folder, loader = open_data(ctx, args, output)
    state = load_checkpoint(ctx, output, args, folder.classes)
    weights = load_weights(ctx, args.weights, args.model) if state is None else None
    model = together(ctx, lambda: build_model(ctx, args, weights, len(folder.classes)))
    trained = parameters_to_train(model)
    average = average_of(args, model, len(folder.classes))
    num_trained = sum(parameter.numel() for parameter in trained)
    output.require_space(model, num_trained, averaged=average is not None)
    model = wrap_model(ctx, args, model)
    optimizer = ctx.wrap_optimizer(
        torch.optim.SGD(trained, lr=args.lr, momentum=args.momentum), model
    )
    t = Training(
        ctx,
        args,
        folder,
        loader,
        model,
        optimizer,
        learning_rates(args),
        Objective(args, folder, ctx.device),
        average,
        precision,
        output,
        Progress(),
    )
    sums = restore(t, state) if state is not None else None
    ctx.print(
        f"{args.model}: {ctx.world_size} rank(s) on {ctx.device.type},"
        f" {str(precision).removeprefix('torch.')}, batches of {args.batch_size} over all ranks"
    )
    return t, sums


def train(ctx: launcher.Context, argv: Sequence[str] | None) -> int:
    """Train as the command line says, and return the exit code."""
    args = together(ctx, lambda: parse_args(argv))
    if args.evaluate_only:
        return evaluate(ctx, args)
    together(ctx, lambda: require_possible(ctx, args))
    ctx.stopping()  # from here on SIGTERM is a request, seen between two steps
    with Output(ctx, args.output_dir) as output:
        t, sums = prepare(ctx, args, output)
        stopped = False
        with together(ctx, lambda: open_metrics(t)) as metrics:
            while t.progress.epoch < args.epochs and not stopped and not out_of_patience(t):
                stopped = not run_epoch(t, sums, metrics)
                sums = None
        return finish(t, stopped=stopped)


def main(argv: Sequence[str] | None = None) -> int:
    """Join the run, train, and return the exit code: 0, 1 (not saved), 2 (wrong command or data),
    130 (Ctrl-C).
    """
    try:
        ctx = launcher.init()
        return train(ctx, argv)
    except (launcher.LauncherError, TrainerError) as error:
        print(f"train: error: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, launcher.LauncherError) else EXIT_USAGE
    except KeyboardInterrupt:
        print(
            "train: interrupted; `--resume` continues after the last whole epoch, if there was one",
            file=sys.stderr,
        )
        return 130
