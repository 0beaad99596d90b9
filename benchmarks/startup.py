"""Compare the start, the idle costs and the restart of this launcher with torchrun and, where
installed, others.

    python benchmarks/startup.py [--repeat 5] [--idle-seconds 60] [--only NAME ...]
                                 [--before FOLDER]

The launchers take turns, so that a slow minute of the machine hits all of them; each figure is a
median. One table is printed and written to benchmarks/results/. Run it on a machine that does
nothing else.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import machine
import measure
from launchers import BEFORE, OURS, TORCHRUN, before, find_installed, shown, version
from turns import take_turns

MIB = 1 << 20

# Of one CPU, for a look at what 8 ranks use every two seconds.
_MOST_IDLE_SHARE = 0.005


class Row(NamedTuple):
    """One line of the table: medians by launcher, and the target."""

    title: str
    unit: str
    values: dict[str, float]
    # Either a share of torchrun's value, or a value of our own.
    target_share: float | None = None
    target_value: float | None = None
    note: str = ""


class Bench:
    """The launchers under comparison, and how often each is measured."""

    def __init__(
        self, python: str, repeat: int, idle_s: float, others_ranks: int, older: str | None = None
    ) -> None:
        """`older` is the folder of another checkout of ours, to be compared with this one."""
        self.python = python
        # Others than torchrun take minutes with many ranks.
        self.others_ranks = others_ranks
        self.repeat = repeat
        self.idle_s = idle_s
        self.installed, self.missing = find_installed(python)
        if older is not None:
            self.installed[BEFORE] = before(older)
        # Those that every row compares.
        self.always = tuple(name for name in (OURS, TORCHRUN, BEFORE) if name in self.installed)
        self.commands: list[str] = []

    def alternate(
        self, ranks: int, script: str, one: Callable[[list[str]], float]
    ) -> dict[str, float]:
        """Measure each launcher `repeat` times in turns, after one run that does not count; return
        the medians.
        """
        few = script == "hello" or ranks <= self.others_ranks
        wanted = {name: make for name, make in self.installed.items() if few or name in self.always}
        commands = {name: make(self.python, ranks, 0) for name, make in wanted.items()}
        for command in commands.values():
            self.note_command(command, f"{script}.py")
        samples = take_turns(commands, self.repeat, lambda name: one(commands[name]), tell=False)
        return {name: statistics.median(values) for name, values in samples.items()}

    def note_command(self, command: list[str], script: str) -> None:
        """Remember a command for the results file."""
        self.commands.append(f"{shown(command)} benchmarks/workloads/{script}")


def whole_command(bench: Bench, script: str, ranks: int, target: float) -> Row:
    """Time a command from start to end."""
    values = bench.alternate(ranks, script, lambda command: measure.wall_time(command, script))
    return Row(f"{script}, {ranks} ranks, whole command", "s", values, target_share=target)


def supervisor_rows(bench: Bench) -> list[Row]:
    """Measure the process that supervises: its memory, and what it uses while nothing happens."""
    ranks = 8
    peaks: dict[str, list[float]] = {name: [] for name in bench.always}
    used: dict[str, list[float]] = {name: [] for name in bench.always}
    commands = {name: bench.installed[name](bench.python, ranks, 0) for name in peaks}
    for command in commands.values():
        bench.note_command(command, "wait.py FIFO")
    for _ in range(bench.repeat):
        for name, command in commands.items():
            peak, cpu = measure.idle_supervisor(command, ranks, bench.idle_s)
            peaks[name].append(peak / MIB)
            used[name].append(cpu)
    idle = f"CPU time of the supervisor, {bench.idle_s:g} idle s"
    return [
        Row(
            f"peak memory of the supervisor, {ranks} ranks", "MiB", _medians(peaks), target_value=25
        ),
        Row(idle, "s", _medians(used), target_value=_MOST_IDLE_SHARE * bench.idle_s),
    ]


def restart_row(bench: Bench) -> Row:
    """Time from a rank's death to the first all-reduce of all ranks of the next attempt.

    torchrun's store survives the restart, with the addresses of dead ranks in it, so its restarts
    often fail. To get a figure at all, the timed script keeps each attempt's keys apart by itself;
    the restarts of a plain script are counted.
    """
    ranks = 8
    timed: dict[str, list[float]] = {name: [] for name in bench.always}
    worked = dict.fromkeys(timed, 0)
    commands = {name: bench.installed[name](bench.python, ranks, 1) for name in timed}
    for command in commands.values():
        bench.note_command(command, "restart.py FIFO prefix (and plain)")
    for _ in range(bench.repeat):
        for name, command in commands.items():
            try:
                measure.restart_time(command, ranks, "plain")
                worked[name] += 1
            except measure.Failed:
                pass
            try:
                timed[name].append(measure.restart_time(command, ranks, "prefix"))
            except measure.Failed as error:
                print(f"  {name} failed: {error}", flush=True)
    counts = ", ".join(f"{name} {count} of {bench.repeat}" for name, count in worked.items())
    note = (
        "with a script that keeps the keys of each attempt apart; restarts of a plain script that"
        f" worked: {counts}"
    )
    return Row(
        "rank killed, until all ranks have reduced again", "s", _medians(timed), 0.10, note=note
    )


def memory_row(bench: Bench) -> Row:
    """Compare the memory of warm ranks with that of spawned ones."""
    ranks = 8
    base = bench.installed[OURS](bench.python, ranks, 0)
    commands = {"warm": [*base, "--start", "warm"], "spawn": [*base, "--start", "spawn"]}
    for command in commands.values():
        bench.note_command(command, "wait.py FIFO")
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(bench.repeat):
        for name, command in commands.items():
            samples[name].append(measure.proportional_memory(command, ranks) / MIB)
    values = _medians(samples)
    note = (
        f"{values['spawn']:.0f} MiB with --start spawn; PSS of all processes below the supervisor"
    )
    return Row(f"memory of {ranks} ranks that hold torch", "MiB", {OURS: values["warm"]}, note=note)


def _medians(samples: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in samples.items() if values}


MEASUREMENTS: dict[str, Callable[[Bench], list[Row]]] = {
    "hello": lambda bench: [whole_command(bench, "hello", 8, 0.06)],
    "all_reduce_2": lambda bench: [whole_command(bench, "all_reduce", 2, 0.40)],
    "all_reduce_8": lambda bench: [whole_command(bench, "all_reduce", 8, 0.16)],
    "all_reduce_16": lambda bench: [whole_command(bench, "all_reduce", 16, 0.09)],
    "supervisor": supervisor_rows,
    "restart": lambda bench: [restart_row(bench)],
    "memory": lambda bench: [memory_row(bench)],
}


def render_rows(rows: list[Row], others: list[str]) -> str:
    """Return the table: ours, torchrun, their ratio, the target, then the others, then notes."""
    header = ["", "ours", "torchrun", "ratio", "target", "reached", *others]
    cells = []
    notes = [f"{row.title}: {row.note}." for row in rows if row.note]
    for row in rows:
        ours, theirs = row.values.get(OURS), row.values.get(TORCHRUN)
        ratio = ours / theirs if ours is not None and theirs else None
        share = "" if ratio is None else f"{ratio:.3f}"
        line = [
            row.title,
            _show(ours, row.unit),
            _show(theirs, row.unit),
            share,
            *_verdict(row, ours, ratio),
        ]
        cells.append([*line, *(_show(row.values.get(name), row.unit) for name in others)])
    return "\n\n".join([machine.table(header, cells), *notes])


def _verdict(row: Row, ours: float | None, ratio: float | None) -> list[str]:
    """Return the cells `target` and `reached`."""
    if row.target_share is not None:
        reached = "" if ratio is None else ("yes" if ratio <= row.target_share else "no")
        return [f"{row.target_share:.2f} of torchrun", reached]
    if row.target_value is not None:
        reached = "" if ours is None else ("yes" if ours <= row.target_value else "no")
        return [f"{row.target_value:g} {row.unit}", reached]
    return ["on record", ""]


def _show(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def render_page(bench: Bench, rows: list[Row]) -> str:
    """Return the whole results file."""
    others = [name for name in bench.installed if name not in (OURS, TORCHRUN)]
    versions = [f"- {name}: {version(bench.python, name)}" for name in bench.installed]
    versions += [f"- {name}: not installed here, not measured" for name in bench.missing]
    parts = [
        "# Start, idle costs and restart",
        "\n".join(machine.describe()),
        f"Medians of {bench.repeat}, launchers in turns. Written by `benchmarks/startup.py`.",
        "\n".join(versions),
        render_rows(rows, others),
        "Commands, each in an empty folder with its output going nowhere:",
        "\n".join(f"    {command}" for command in bench.commands),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = machine.make_parser(__doc__, MEASUREMENTS)
    parser.add_argument(
        "--idle-seconds", type=float, default=60.0, help="how long the idle supervisor is watched"
    )
    parser.add_argument(
        "--others-ranks",
        type=int,
        default=2,
        help="the all-reduce is measured with up to so many ranks for others than torchrun",
    )
    parser.add_argument(
        "--before", metavar="FOLDER", help="another checkout of ours, measured in the same turns"
    )
    options = parser.parse_args()
    bench = Bench(
        sys.executable, options.repeat, options.idle_seconds, options.others_ranks, options.before
    )
    for name in bench.missing:
        print(f"{name} is not installed here: not measured")
    rows: list[Row] = []
    for name in options.only:
        print(f"measuring {name} ...", flush=True)
        measured = MEASUREMENTS[name](bench)
        # What is known is not lost when a later row is stopped.
        print(render_rows(measured, [BEFORE] if options.before else []), flush=True)
        rows += measured
    page = render_page(bench, rows)
    print("\n" + page, end="")
    machine.write(machine.results_path(options.results), page)


if __name__ == "__main__":
    main()
