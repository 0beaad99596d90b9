"""Compare Horovod scripts under this launcher with the same scripts under horovodrun --gloo and
mpirun.

    python benchmarks/horovod.py [--repeat 5] [--only NAME ...]

Two things are measured: how long a whole command takes that does one allreduce, and how many
training steps of a ResNet-18 2 ranks make in a second, once they run. The launchers take turns, so
that a slow minute of the machine hits all of them; each figure is a median. All get the same
OMP_NUM_THREADS. One table is printed and written to benchmarks/results/. Needs Horovod
(scripts/build_horovod) and torchvision; run it on a machine that does nothing else.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import launchers
import machine
import measure
from turns import take_turns

OURS, HOROVODRUN, MPIRUN, DDP = "launcher", "horovodrun --gloo", "mpirun", "launcher, DDP over Gloo"


class Row(NamedTuple):
    """One line of the table: what was measured, by launcher, and the target against the others."""

    title: str
    unit: str
    samples: dict[str, list[float]]
    # Largest share of horovodrun's time, or smallest share of every other launcher's steps per
    # second.
    most: float | None = None
    least: float | None = None

    def median(self, name: str) -> float | None:
        values = self.samples.get(name)
        return statistics.median(values) if values else None

    def ratio(self, name: str) -> float | None:
        """Return our median divided by that of another launcher."""
        ours, theirs = self.median(OURS), self.median(name)
        return ours / theirs if ours is not None and theirs else None


def commands(ranks: int) -> dict[str, list[str]]:
    """Return the command in front of the script, for each launcher."""
    python = sys.executable
    mpirun = launchers.mpirun(python, ranks)
    return {
        OURS: [*launchers.ours(python, ranks), "--backend", "horovod"],
        HOROVODRUN: launchers.horovodrun(python, ranks),
        # As Horovod's documentation has it: a rank that is bound to one core shares it with its
        # background thread.
        MPIRUN: [*mpirun[:-1], "--bind-to", "none", python],
    }


class Bench:
    """How often everything is measured, and what was run."""

    def __init__(self, repeat: int) -> None:
        self.repeat = repeat
        self.shown: list[str] = []

    def alternate(
        self, variants: dict[str, list[str]], script: str, one: Callable[[str, list[str]], float]
    ) -> dict[str, list[float]]:
        """Measure each variant `repeat` times in turns, after one run that does not count."""
        self.shown += [
            f"{launchers.shown(command)} benchmarks/workloads/{script}"
            for command in variants.values()
        ]
        return take_turns(variants, self.repeat, lambda name: one(name, variants[name]))


def whole_command(bench: Bench, ranks: int, most: float) -> Row:
    """Time a command from start to end."""
    script = "horovod_all_reduce"
    samples = bench.alternate(
        commands(ranks), f"{script}.py", lambda _, command: measure.wall_time(command, script)
    )
    return Row(f"one allreduce, {ranks} ranks, whole command", "s", samples, most=most)


def training(bench: Bench) -> Row:
    """Count the steps per second of 2 ranks in training, and for the record those of DDP in place
    of Horovod.
    """
    variants = commands(2)
    variants[DDP] = [*launchers.ours(sys.executable, 2), "--backend", "gloo"]

    def one(name: str, command: list[str]) -> float:
        return measure.training_speed(command, "resnet_steps", "ddp" if name == DDP else "horovod")

    samples = bench.alternate(variants, "resnet_steps.py FIFO horovod (or ddp)", one)
    return Row("ResNet-18 training, 2 ranks", "steps/s", samples, least=1.0)


MEASUREMENTS: dict[str, Callable[[Bench], Row]] = {
    "all_reduce_2": lambda bench: whole_command(bench, 2, 0.50),
    "all_reduce_8": lambda bench: whole_command(bench, 8, 0.35),
    "training": training,
}


def render_rows(rows: list[Row]) -> str:
    """Return the table: medians with their ranges, ours against the others, the target."""
    header = ["", OURS, HOROVODRUN, MPIRUN, DDP, "of horovodrun", "of mpirun", "target", "reached"]
    cells = []
    for row in rows:
        figures = [_show(row, name) for name in (OURS, HOROVODRUN, MPIRUN, DDP)]
        ratios = [_show_ratio(row.ratio(name)) for name in (HOROVODRUN, MPIRUN)]
        cells.append([row.title, *figures, *ratios, *_verdict(row)])
    return machine.table(header, cells)


def _verdict(row: Row) -> list[str]:
    """Return the cells `target` and `reached`."""
    if row.most is not None:
        ratio = row.ratio(HOROVODRUN)
        return [
            f"at most {row.most:.2f} of horovodrun",
            "" if ratio is None else _yes(ratio <= row.most),
        ]
    assert row.least is not None
    ratios = [ratio for name in (HOROVODRUN, MPIRUN) if (ratio := row.ratio(name)) is not None]
    return [f"at least {row.least:.2f} of each", _yes(min(ratios) >= row.least) if ratios else ""]


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"


def _show(row: Row, name: str) -> str:
    values, median = row.samples.get(name), row.median(name)
    if not values or median is None:
        return ""
    return f"{median:.3g} {row.unit} ({min(values):.3g}-{max(values):.3g})"


def _show_ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}"


def render_page(bench: Bench, rows: list[Row]) -> str:
    """Return the whole results file."""
    import importlib.metadata

    versions = [
        f"- {name} {importlib.metadata.version(name)}"
        for name in ("torch", "torchvision", "horovod")
    ]
    versions += [
        f"- {launchers.version(sys.executable, name)}" for name in (launchers.OURS, "mpirun")
    ]
    parts = [
        "# Horovod scripts under this launcher, horovodrun and mpirun",
        "\n".join(machine.describe()),
        (
            f"Medians of {bench.repeat} with ranges, launchers in turns,"
            f" OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} for all. Under mpirun Horovod uses"
            " MPI, under the others Gloo. Training: synthetic pictures of 224 pixels, batches of 2"
            " per rank, float32 on the CPU, 20 steps after 5 that are not timed. Written by"
            " `benchmarks/horovod.py`."
        ),
        "\n".join(versions),
        render_rows(rows),
        "Commands, each in an empty folder with its output going nowhere:",
        "\n".join(f"    {command}" for command in bench.shown),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    options = machine.make_parser(__doc__, MEASUREMENTS).parse_args()
    # Launchers differ in what they set by themselves; with one thread for each of 2 ranks nobody is
    # helped or hurt.
    os.environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // 2))
    bench = Bench(options.repeat)
    rows: list[Row] = []
    for name in options.only:
        print(f"measuring {name} ...", flush=True)
        rows.append(MEASUREMENTS[name](bench))
    page = render_page(bench, rows)
    print("\n" + page, end="")
    machine.write(machine.results_path(options.results, "-horovod"), page)


if __name__ == "__main__":
    main()
