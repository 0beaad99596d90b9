"""The trainer's command line: every option once, with its default and the reason for it.

The defaults are the recipe of PyTorch's transfer learning tutorial. Knows nothing of ranks, data or
models.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from train.errors import TrainerError

MODELS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "vit_b_16",
)
PATCH = 16  # side of the squares that vit_b_16 cuts a picture into
# Most networks shrink a picture 32 times; batch normalisation needs more than one value at the end.
SMALLEST_IMAGE = 33
# Spellings of the articles that describe this workload: the same options, which help and messages
# show under one name.
ALIASES = {"--num_epochs": "--epochs", "--learning_rate": "--lr", "--output_dir": "--output-dir"}


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Show each default, and keep the lines of the epilog."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


class Parser(argparse.ArgumentParser):
    """Raises instead of leaving, so that all ranks leave together and one of them says why."""

    def error(self, message: str) -> NoReturn:
        raise TrainerError(f"{message}. `python -m {self.prog} --help` shows the options.")

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """What an abbreviation can mean; Python 3.11 and others take two spellings of one option
        for two options, and `--output` for ambiguous.
        """
        found = super()._get_option_tuples(option_string)
        return found[:1] if len({id(action) for action, *_ in found}) == 1 else found


def number(
    kind: type[int] | type[float], low: float, high: float = float("inf"), *, above: bool = False
) -> Callable[[str], float]:
    """An argparse type: a number from `low` (or above it) to `high`."""

    def parse(text: str) -> float:
        value = kind(text)
        if not (low < value if above else low <= value) or not value <= high:
            raise ValueError(text)
        return value

    parse.__name__ = {int: "whole number", float: "number"}[
        kind
    ]  # argparse: "invalid <name> value: 'x'"
    return parse


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = Parser(
        prog="train",
        formatter_class=Help,
        description="Train a network on a folder of pictures (transfer learning).",
        epilog=(
            "DIR holds train/<class>/*.jpg and val/<class>/*.jpg. The defaults are the recipe of"
            " PyTorch's transfer\nlearning tutorial. --num_epochs, --learning_rate and --output_dir"
            " are understood, too. Exit codes: 0 trained,\nor stopped by a signal with a checkpoint"
            " saved; 1 the result could not be written; 2 wrong options or\ndata, said before the"
            " first step. `python -m train.predict` uses the model."
        ),
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, metavar="DIR", help="folder with train/ and val/")
    data.add_argument(
        "--image-size",
        type=number(int, SMALLEST_IMAGE),
        default=224,
        metavar="PIXELS",
        help="side of the square the network sees",
    )
    data.add_argument(
        "--cache-mb",
        type=number(int, 0),
        default=2048,
        metavar="MB",
        help=(
            "decoded pictures kept per node, in page cache that the kernel can take back; 0 keeps"
            " none"
        ),
    )
    data.add_argument(
        "--workers",
        type=workers,
        default="auto",
        metavar="N",
        help="threads per rank that prepare pictures ahead; auto: none on a CPU, up to 8 for a GPU",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", choices=MODELS, default="resnet18", help="which network")
    model.add_argument(
        "--weights",
        default="imagenet",
        metavar="imagenet|none|FILE",
        help="start from torchvision's ImageNet weights, from nothing, or from a local file",
    )
    model.add_argument(
        "--freeze-backbone",
        action="store_true",
        help="train the new last layer only; everything before it stays exactly as loaded",
    )
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument(
        "--epochs", type=number(int, 1), default=25, help="times through the training pictures"
    )
    recipe.add_argument(
        "--batch-size",
        type=number(int, 1),
        default=4,
        help="pictures per step of the WHOLE run, shared among the ranks: more ranks, same numbers",
    )
    recipe.add_argument(
        "--lr", type=number(float, 0, above=True), default=0.001, help="learning rate of SGD"
    )
    recipe.add_argument("--momentum", type=number(float, 0, 1), default=0.9, help="momentum of SGD")
    recipe.add_argument(
        "--lr-step",
        type=number(int, 1),
        default=7,
        metavar="EPOCHS",
        help="decay the rate so often",
    )
    recipe.add_argument(
        "--lr-gamma", type=number(float, 0, 1, above=True), default=0.1, help="by this factor"
    )
    recipe.add_argument(
        "--lr-schedule",
        choices=("step", "cosine"),
        default="step",
        help="step: as --lr-step and --lr-gamma say; cosine: down to nothing after the last epoch",
    )
    recipe.add_argument(
        "--warmup-epochs",
        type=number(int, 0),
        default=0,
        metavar="EPOCHS",
        help="before that, raise the rate in equal steps for so long",
    )
    recipe.add_argument(
        "--patience",
        type=number(int, 0),
        default=0,
        metavar="EPOCHS",
        help="end after so many epochs without a better validation accuracy; 0: never",
    )
    recipe.add_argument(
        "--accumulate",
        type=number(int, 1),
        default=1,
        metavar="BATCHES",
        help="take one step of the optimizer for so many batches, as if they were one",
    )
    recipe.add_argument(
        "--label-smoothing",
        type=number(float, 0, 1),
        default=0.0,
        metavar="PART",
        help="part of each label that is spread over all classes; in training only",
    )
    recipe.add_argument(
        "--mixup",
        type=number(float, 0),
        default=0.0,
        metavar="ALPHA",
        help="train on mixtures of two pictures, the parts drawn from Beta(ALPHA, ALPHA); 0: off",
    )
    recipe.add_argument(
        "--class-weights",
        action="store_true",
        help="in training, count pictures of rare classes more, so that all classes count alike",
    )
    recipe.add_argument(
        "--ema",
        type=number(float, 0, 0.999999),
        default=0.0,
        metavar="DECAY",
        help="validate and save a moving average of the weights, say 0.99 per step; 0: off",
    )
    recipe.add_argument(
        "--batch-norm",
        choices=("sync", "local"),
        default="sync",
        help=(
            "statistics over the whole batch (the same numbers with 1 and N ranks), or over each "
            "rank's part (a little faster, the numbers depend on the number of ranks)"
        ),
    )
    recipe.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="auto: bfloat16 where the processor computes in it, else float32",
    )
    recipe.add_argument(
        "--compile",
        nargs="?",
        const="inductor",
        default="off",
        metavar="BACKEND",
        help=(
            "let torch.compile make the network faster, with the backend inductor unless another"
            " is named; that takes a minute first"
        ),
    )
    recipe.add_argument(
        "--seed",
        type=number(int, 0, 2**63 - 1),
        default=0,
        help="of the order, the crops and the new weights",
    )
    run = parser.add_argument_group("run")
    run.add_argument(
        "--output-dir",
        default="outputs",
        metavar="DIR",
        help="model, checkpoint and metrics go here",
    )
    run.add_argument(
        "--resume",
        nargs="?",
        choices=("auto", "yes", "no"),
        const="yes",
        default="auto",
        help=(
            "continue from the checkpoint in the output folder; auto: only if the launcher"
            " restarted the job"
        ),
    )
    run.add_argument(
        "--evaluate-only",
        action="store_true",
        help=(
            "train nothing: loss and accuracy of val/ with model.pt of the output folder, or"
            " `--weights FILE`"
        ),
    )
    run.add_argument(
        "--export-onnx",
        action="store_true",
        help="after the training, write the best model as model.onnx, too",
    )
    run.add_argument(
        "--tensorboard",
        action="store_true",
        help="write the metrics as TensorBoard reads them, too",
    )
    flags = parser._option_string_actions
    flags.update({alias: flags[flag] for alias, flag in ALIASES.items()})
    return parser


def workers(text: str) -> int | str:
    """An argparse type: a number of threads, or "auto"."""
    return text if text == "auto" else int(number(int, 0)(text))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; raises TrainerError on a mistake."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.warmup_epochs >= args.epochs:
        parser.error(
            f"--warmup-epochs {args.warmup_epochs} leaves nothing of --epochs {args.epochs}"
        )
    if args.model == "vit_b_16" and args.image_size % PATCH:
        parser.error(f"--image-size {args.image_size}: {args.model} needs a multiple of {PATCH}")
    return args
