"""Compare the trainer's defaults with the plain loop of PyTorch's transfer learning tutorial, on
the same pictures.

    python benchmarks/trainer_speed.py --data FOLDER [--repeat 5] [--only NAME ...]

ResNet-18, 224 pixels, batches of 4, one epoch, no pretrained weights. The variants take turns, so
that a slow minute of the machine hits all of them; each figure is a median. The decoding that the
trainer does before the first step is part of the whole command's time, not of images/s. One table
is printed and written to benchmarks/results/.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import machine

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
TRAIN = ["-m", "train", "--epochs", "1", "--weights", "none"]
RANKS = ["-m", "launcher", "--nproc-per-node", "2"]
TUTORIAL = "tutorial's loop, 1 process, 4 loader processes"
VARIANTS = {
    TUTORIAL: [os.path.join(HERE, "workloads", "tutorial_loop.py")],
    "trainer, 1 process": TRAIN,
    "trainer, 1 process, --precision fp32": [*TRAIN, "--precision", "fp32"],
    "trainer, 1 process, --cache-mb 0": [*TRAIN, "--cache-mb", "0"],
    "trainer, 2 ranks": [*RANKS, *TRAIN],
    "trainer, 2 ranks, --batch-norm local": [*RANKS, *TRAIN, "--batch-norm", "local"],
    "trainer, 2 ranks, --batch-size 32": [*RANKS, *TRAIN, "--batch-size", "32"],
    "trainer, 2 ranks, --freeze-backbone": [*RANKS, *TRAIN, "--freeze-backbone"],
}


def measure(name: str, data: str) -> tuple[float, float]:
    """Run one variant; return images/s of its training, and the seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "outputs")
        arguments = [data] if name == TUTORIAL else ["--data", data, "--output-dir", output]
        environ = {**os.environ, "PYTHONPATH": ROOT}
        began = time.monotonic()
        command = [sys.executable, *VARIANTS[name], *arguments]
        done = subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, check=False
        )
        took = time.monotonic() - began
        if done.returncode != 0:
            raise SystemExit(f"{name} failed with exit code {done.returncode}:\n{done.stderr}")
        if name == TUTORIAL:
            found = re.search(r"^train .*images/s ([\d.]+)", done.stdout, re.MULTILINE)
            assert found is not None, done.stdout
            return float(found[1]), took
        with open(os.path.join(output, "metrics.jsonl"), encoding="utf-8") as file:
            return float(json.loads(file.readline())["images_per_s"]), took


def main() -> None:
    """Measure all variants in turns, and print the table."""
    parser = machine.make_parser(__doc__, VARIANTS)
    parser.add_argument(
        "--data",
        required=True,
        help="folder with train/ and val/, photographs for figures that mean much",
    )
    args = parser.parse_args()
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in args.only}
    data = os.path.abspath(args.data)
    for turn in range(args.repeat):
        for name in args.only:
            samples[name].append(measure(name, data))
            print(
                f"{turn + 1}/{args.repeat} {name}: {samples[name][-1][0]:.1f} images/s",
                file=sys.stderr,
                flush=True,
            )
    base = statistics.median(speed for speed, _ in samples[args.only[0]])
    rows = []
    for name, values in samples.items():
        speed, seconds = (statistics.median(column) for column in zip(*values, strict=True))
        low, high = min(v[0] for v in values), max(v[0] for v in values)
        rows.append(
            [name, f"{speed:.1f}", f"{low:.1f}-{high:.1f}", f"{speed / base:.2f}", f"{seconds:.1f}"]
        )
    table = machine.table(
        ["variant", "images/s", "range", "of the first", "whole command, s"], rows
    )
    print(table)
    import torch
    import torchvision

    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    text = [
        "# The trainer against the tutorial's loop",
        "",
        *machine.describe(),
        versions,
        "",
        (
            f"ResNet-18, 224 pixels, batches of 4 unless named, one epoch, medians of {args.repeat}"
            " alternating runs:"
        ),
        "",
        table,
    ]
    machine.write(machine.results_path(args.results, "-trainer"), "\n".join(text) + "\n")


if __name__ == "__main__":
    main()
