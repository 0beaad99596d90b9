"""Compare ranks that mpirun starts: a script by itself, and the same script under this launcher.

    python benchmarks/engines.py [--repeat 5] [--only NAME ...] [--before FOLDER]

The two take turns, so that a slow minute of the machine hits both; each figure is a median. One
table is printed and written to benchmarks/results/. Needs mpirun, and for one row Horovod
(scripts/build_horovod). Run it on a machine that does nothing else.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import failure
import launchers
import machine
import measure
from turns import take_turns

ALONE, OURS = "mpirun", "mpirun, launcher"
BEFORE = "mpirun, launcher before"


class Row(NamedTuple):
    """One line of the table: what was measured, by who ran the script."""

    title: str
    samples: dict[str, list[float]]

    def show(self, name: str) -> str:
        """Return one cell: the median, and the range, which tells how quiet the machine was."""
        values = self.samples.get(name)
        if not values:
            return ""
        return f"{statistics.median(values):.3g} s ({min(values):.3g}-{max(values):.3g})"

    def ratio(self) -> str:
        """Return our median divided by that of the script by itself."""
        ours, alone = self.samples.get(OURS), self.samples.get(ALONE)
        if not ours or not alone:
            return ""
        return f"{statistics.median(ours) / statistics.median(alone):.2f}"


class Bench:
    """Who is compared, and how often each is measured."""

    def __init__(self, repeat: int, older: str | None) -> None:
        """`older` is the folder of another checkout of ours, to be compared with this one."""
        self.repeat = repeat
        self.variants = {ALONE: launchers.mpirun, OURS: launchers.ours_under_mpirun}
        if older is not None:
            self.variants[BEFORE] = launchers.before(older, launchers.ours_under_mpirun)
        self.shown: list[str] = []

    def alternate(
        self, ranks: int, script: str, one: Callable[[list[str]], float]
    ) -> dict[str, list[float]]:
        """Measure each variant `repeat` times in turns, after one run that does not count."""
        commands = {name: make(sys.executable, ranks, 0) for name, make in self.variants.items()}
        self.shown += [
            f"{launchers.shown(command)} benchmarks/workloads/{script}"
            for command in commands.values()
        ]
        return take_turns(commands, self.repeat, lambda name: one(commands[name]))


def whole_command(script: str, ranks: int) -> Callable[[Bench], Row]:
    """Return what times mpirun from its start to its end."""

    def measured(bench: Bench) -> Row:
        samples = bench.alternate(
            ranks, f"{script}.py", lambda command: measure.wall_time(command, script)
        )
        return Row(f"{script}, {ranks} ranks, whole command", samples)

    return measured


def after_failure(until: str, what: str) -> Callable[[Bench], Row]:
    """Return what times how long after a rank's exit something has happened: see failure.py."""
    one = failure.time_from_failure("exit", until)

    def measured(bench: Bench) -> Row:
        samples = bench.alternate(failure.RANKS, "fail.py FIFO exit", lambda words: one(words, ""))
        return Row(f"rank exits 3, {failure.RANKS} ranks: until {what}", samples)

    return measured


MEASUREMENTS: dict[str, Callable[[Bench], Row]] = {
    "hello_4": whole_command("hello", 4),
    "all_reduce_4": whole_command("all_reduce", 4),
    "all_reduce_8": whole_command("all_reduce", 8),
    "horovod_8": whole_command("horovod_all_reduce", 8),
    "end": after_failure("end", "mpirun has ended"),
    "report": after_failure("report", "the report is on the screen"),
}


def render_rows(rows: list[Row], names: list[str]) -> str:
    """Return the table: a column for each variant, and ours as a multiple of the script alone."""
    cells = [[row.title, *(row.show(name) for name in names), row.ratio()] for row in rows]
    return machine.table(["", *names, "launcher / mpirun"], cells)


def render_page(bench: Bench, rows: list[Row]) -> str:
    """Return the whole results file."""
    versions = [launchers.version(sys.executable, name) for name in (launchers.OURS, "mpirun")]
    parts = [
        "# Ranks that mpirun starts, with and without this launcher",
        "\n".join(machine.describe()),
        (
            f"Medians of {bench.repeat} with ranges, in turns. Written by `benchmarks/engines.py`."
            " The report is ours, or mpirun's paragraph that names the process."
        ),
        "\n".join(f"- {line}" for line in versions),
        render_rows(rows, list(bench.variants)),
        "Commands, each in an empty folder with its output going nowhere:",
        "\n".join(f"    {command}" for command in bench.shown),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = machine.make_parser(__doc__, MEASUREMENTS)
    parser.add_argument(
        "--before", metavar="FOLDER", help="another checkout of ours, measured in the same turns"
    )
    options = parser.parse_args()
    bench = Bench(options.repeat, options.before)
    rows: list[Row] = []
    for name in options.only:
        print(f"measuring {name} ...", flush=True)
        rows.append(MEASUREMENTS[name](bench))
        # What is known is not lost when a later row is stopped.
        print(render_rows(rows[-1:], list(bench.variants)), flush=True)
    page = render_page(bench, rows)
    print("\n" + page, end="")
    machine.write(machine.results_path(options.results, "-engines"), page)


if __name__ == "__main__":
    main()
