"""Measure what transfer brings: the same short training from nothing, and from weights that were
trained on other pictures.

    python benchmarks/transfer.py [--repeat 5] [--data FOLDER]

For each seed: draw pictures of 8 kinds of shapes and train a ResNet-18 on them; then train twice on
few pictures of 4 other kinds (or on FOLDER), with and without these weights, everything else alike.
What counts is the validation accuracy after the last epoch, not the best one. One table is printed
and written to benchmarks/results/.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import machine
import shapes

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KINDS = list(shapes.KINDS)
SOURCE, TARGET = KINDS[:8], KINDS[8:]
RECIPE = ["--lr-schedule", "cosine", "--warmup-epochs", "1", "--batch-size", "8", "--lr", "0.01"]
SOURCE_SIDE = 40  # pixels


@dataclass(frozen=True)
class Sizes:
    """How much is trained; the pictures are of each kind."""

    source_kinds: int = 8
    source_pictures: int = 50
    source_epochs: int = 12
    pictures: int = 8
    epochs: int = 6
    image_size: int = 40


def compare(
    folder: str, seed: int, sizes: Sizes, train: Callable[..., None], data: str | None = None
) -> tuple[float, float]:
    """Return the accuracies of one seed: from nothing, and from the weights of other pictures.

    `train` is called with options of the trainer; everything is written to `folder`.
    """
    options = [*RECIPE, "--seed", str(seed)]
    source, weights = os.path.join(folder, "source"), os.path.join(folder, "weights")
    kinds = SOURCE[: sizes.source_kinds]
    shapes.draw_folder(source, kinds, train=sizes.source_pictures, val=5, seed=seed)
    begin = ["--data", source, "--weights", "none", "--epochs", str(sizes.source_epochs)]
    train(*options, *begin, "--image-size", str(SOURCE_SIDE), "--output-dir", weights)
    if data is None:
        data = os.path.join(folder, "target")
        shapes.draw_folder(data, TARGET, train=sizes.pictures, val=25, seed=seed)
    found = []
    for name, start in (("nothing", "none"), ("transfer", os.path.join(weights, "model.pt"))):
        output = os.path.join(folder, name)
        begin = ["--data", data, "--weights", start, "--epochs", str(sizes.epochs)]
        train(*options, *begin, "--image-size", str(sizes.image_size), "--output-dir", output)
        with open(os.path.join(output, "metrics.jsonl"), encoding="utf-8") as file:
            found.append(float(json.loads(file.readlines()[-1])["accuracy"]))
    return found[0], found[1]


def run_trainer(*options: str) -> None:
    """Train as a user does; SystemExit if that fails."""
    command = [sys.executable, "-m", "train", *options]
    # One thread: these pictures are small, and the figures do not depend on the machine's cores.
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")


def spread(values: list[float]) -> str:
    """Return mean, standard deviation and range, as percentages."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return (
        f"{statistics.mean(values):.1%} ± {deviation:.1%} ({min(values):.1%} to {max(values):.1%})"
    )


def main() -> None:
    """Measure all seeds, and print the table."""
    parser = machine.make_parser(__doc__)
    parser.add_argument("--data", help="folder with train/ and val/, instead of drawn shapes")
    parser.add_argument(
        "--image-size",
        type=int,
        default=Sizes.image_size,
        metavar="PIXELS",
        help="of the second training",
    )
    args = parser.parse_args()
    sizes = Sizes(image_size=args.image_size)
    data = os.path.abspath(args.data) if args.data else None
    results = []
    for seed in range(args.repeat):
        with tempfile.TemporaryDirectory() as folder:
            results.append(compare(folder, seed, sizes, run_trainer, data))
        nothing, transfer = results[-1]
        said = f"seed {seed}: from nothing {nothing:.1%}, with the weights {transfer:.1%}"
        print(said, file=sys.stderr, flush=True)
    nothing, transfer = (list(column) for column in zip(*results, strict=True))
    gains = [after - before for before, after in results]
    rows = [
        ["from nothing", spread(nothing)],
        ["from the weights", spread(transfer)],
        ["difference", spread(gains)],
    ]
    name = os.path.basename(data) if data else "shapes"
    what = name if data else f"{sizes.pictures} pictures of each of {len(TARGET)} other shapes"
    heading = f"accuracy, {args.repeat} seeds: mean ± standard deviation (range)"
    table = machine.table([what, heading], rows)
    print(table)
    text = [
        "# What transfer brings",
        "",
        *machine.describe(),
        "",
        f"Weights: ResNet-18, {sizes.source_epochs} epochs on {sizes.source_pictures} pictures of"
        f" each of {len(SOURCE)} drawn shapes.",
        f"Then {sizes.epochs} epochs at {sizes.image_size} pixels.",
        "",
        table,
    ]
    machine.write(machine.results_path(args.results, f"-transfer-{name}"), "\n".join(text) + "\n")


if __name__ == "__main__":
    main()
