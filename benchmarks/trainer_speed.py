"""Compare the trainer with the plain loop of PyTorch's transfer learning tutorial, its ranks with
one process, and its predictions with a plain loop over torchvision, on the same pictures.

    python benchmarks/trainer_speed.py --data FOLDER [--repeat 5] [--only NAME ...]

ResNet-18, 224 pixels, batches of 4, one epoch, no pretrained weights. The variants take turns, so
that a slow minute of the machine hits all of them; each figure is a median. The decoding that the
trainer does before the first step is part of the whole command's time, not of images/s; so is what
predictions need up to the end of their first batch. Two tables are printed and written to
benchmarks/results/.
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
from collections.abc import Mapping, Sequence

import machine

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
TRAIN = ["-m", "train", "--epochs", "1", "--weights", "none"]
RANKS = ["-m", "launcher", "--nproc-per-node", "2"]
PREDICT = ["-m", "train.predict"]
BATCH_OF_PREDICT = 32  # pictures per rank that train.predict answers at once
TUTORIAL = "tutorial's loop, 1 process, 4 loader processes"
LOOP = "plain loop of predictions over torchvision"
ONE, TWO = "trainer, 1 process", "trainer, 2 ranks"
PREDICT_TWO = "predict, 2 ranks"
PREDICT_TWO_AUTO = "predict, 2 ranks, --precision auto"
TRAININGS = {
    TUTORIAL: [os.path.join(HERE, "workloads", "tutorial_loop.py")],
    ONE: TRAIN,
    f"{ONE}, --precision fp32": [*TRAIN, "--precision", "fp32"],
    f"{ONE}, --cache-mb 0": [*TRAIN, "--cache-mb", "0"],
    f"{ONE}, --batch-size 32": [*TRAIN, "--batch-size", "32"],
    f"{ONE}, --freeze-backbone": [*TRAIN, "--freeze-backbone"],
    TWO: [*RANKS, *TRAIN],
    f"{TWO}, --batch-norm local": [*RANKS, *TRAIN, "--batch-norm", "local"],
    f"{TWO}, --batch-size 32": [*RANKS, *TRAIN, "--batch-size", "32"],
    f"{TWO}, --freeze-backbone": [*RANKS, *TRAIN, "--freeze-backbone"],
}
# With the number of pictures in the first batch, which is not counted.
PREDICTIONS = {
    LOOP: ([os.path.join(HERE, "workloads", "predict_loop.py")], 1),
    PREDICT_TWO: ([*RANKS, *PREDICT], 2 * BATCH_OF_PREDICT),
    PREDICT_TWO_AUTO: ([*RANKS, *PREDICT, "--precision", "auto"], 2 * BATCH_OF_PREDICT),
}
VARIANTS = (*TRAININGS, *PREDICTIONS)
# What the trainer is judged by: one variant against another, and the least that is wanted.
RATIOS = (
    (ONE, TUTORIAL, 2.2),
    (TWO, ONE, 0.70),
    (f"{TWO}, --batch-size 32", f"{ONE}, --batch-size 32", 1.0),
    (f"{TWO}, --freeze-backbone", f"{ONE}, --freeze-backbone", 1.6),
    (PREDICT_TWO, LOOP, 2.5),
    (PREDICT_TWO_AUTO, LOOP, 2.5),
)
Sample = tuple[float, float]
"""Pictures per second, and the seconds of the whole command."""


def _environ() -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": ROOT}


def measure_training(name: str, data: str, output: str) -> Sample:
    """Run one training, which leaves its files in `output`."""
    arguments = [data] if name == TUTORIAL else ["--data", data, "--output-dir", output]
    began = time.monotonic()
    command = [sys.executable, *TRAININGS[name], *arguments]
    done = subprocess.run(command, env=_environ(), capture_output=True, text=True, check=False)
    took = time.monotonic() - began
    if done.returncode != 0:
        raise SystemExit(f"{name} failed with exit code {done.returncode}:\n{done.stderr}")
    if name == TUTORIAL:
        found = re.search(r"^train .*images/s ([\d.]+)", done.stdout, re.MULTILINE)
        assert found is not None, done.stdout
        return float(found[1]), took
    with open(os.path.join(output, "metrics.jsonl"), encoding="utf-8") as file:
        return float(json.loads(file.readline())["images_per_s"]), took


def measure_prediction(name: str, data: str, model: str, folder: str) -> Sample:
    """Run one prediction of all pictures: one line says what one of them is."""
    arguments, first = PREDICTIONS[name]
    times = []
    began = time.monotonic()
    command = [sys.executable, *arguments, model, data]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if re.search(r": \S+ [\d.]+%", line):
                times.append(time.monotonic())
    if process.returncode != 0 or len(times) <= first:
        raise SystemExit(f"{name} failed with exit code {process.returncode}")
    speed = (len(times) - first) / (times[-1] - times[first - 1])
    return speed, time.monotonic() - began


def measure(name: str, data: str, model: str) -> Sample:
    """Run one variant."""
    with tempfile.TemporaryDirectory() as folder:
        if name in PREDICTIONS:
            return measure_prediction(name, data, model, folder)
        return measure_training(name, data, os.path.join(folder, "outputs"))


def speed_table(samples: Mapping[str, Sequence[Sample]]) -> str:
    """The figures of each variant."""
    base = statistics.median(speed for speed, _ in next(iter(samples.values())))
    rows = []
    for name, values in samples.items():
        speed, seconds = (statistics.median(column) for column in zip(*values, strict=True))
        low, high = min(v[0] for v in values), max(v[0] for v in values)
        rows.append(
            [name, f"{speed:.1f}", f"{low:.1f}-{high:.1f}", f"{speed / base:.2f}", f"{seconds:.1f}"]
        )
    return machine.table(["variant", "images/s", "range", "of the first", "whole command, s"], rows)


def ratio_table(samples: Mapping[str, Sequence[Sample]]) -> str:
    """One variant against another: medians of the turns' ratios, and their range."""
    rows = []
    for name, other, wanted in RATIOS:
        if name in samples and other in samples:
            turns = zip(samples[name], samples[other], strict=True)
            ratios = sorted(one[0] / two[0] for one, two in turns)
            shown = [f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f}-{ratios[-1]:.2f}"]
            rows.append([name, other, *shown, f"{wanted:.2f}"])
    return machine.table(["images/s of", "against", "ratio", "range", "wanted"], rows)


def main() -> None:
    """Measure all variants in turns, and print the tables."""
    parser = machine.make_parser(__doc__, VARIANTS)
    parser.add_argument(
        "--data",
        required=True,
        help="folder with train/ and val/, photographs for figures that mean much",
    )
    args = parser.parse_args()
    samples: dict[str, list[Sample]] = {name: [] for name in args.only}
    data = os.path.abspath(args.data)
    with tempfile.TemporaryDirectory() as folder:
        if set(args.only) & set(PREDICTIONS):
            measure_training(ONE, data, folder)  # for its model.pt
        for turn in range(args.repeat):
            for name in args.only:
                samples[name].append(measure(name, data, os.path.join(folder, "model.pt")))
                print(
                    f"{turn + 1}/{args.repeat} {name}: {samples[name][-1][0]:.1f} images/s",
                    file=sys.stderr,
                    flush=True,
                )
    tables = [speed_table(samples), "", ratio_table(samples)]
    print("\n".join(tables))
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
            f"ResNet-18, 224 pixels, batches of 4 unless named, one epoch, {args.repeat}"
            " alternating runs; medians, and below them medians of the turns' ratios:"
        ),
        "",
        *tables,
    ]
    machine.write(machine.results_path(args.results, "-trainer"), "\n".join(text) + "\n")


if __name__ == "__main__":
    main()
