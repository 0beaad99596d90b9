"""Compare how the launchers pass on what the workers write: prefixed on stdout and, where they can,
in log files.

    python benchmarks/output.py [--repeat 5] [--megabytes 300] [--only NAME ...]

Launchers take turns, and each figure is a median. The time of a run that writes nothing is taken
off the rates. The tables are printed and written to benchmarks/results/. 7 minutes, 2 cores.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import machine
import measure
from launchers import OURS, TORCHRUN, environment, find_installed, shown, version
from turns import take_turns

RANKS = 2
# Of rows that ask for more.
MANY_RANKS = 8
LINES_EACH = 100_000
# One process that writes as much as all ranks: what the terminal itself takes.
ALONE = "no launcher"

_WHOLE_LINE = re.compile(rb"[^<>]*(?:<std\w+>: ?)?<rank (\d) line (\d+) x{70}>")

# The command of each launcher.
Commands = dict[str, list[str]]


def make_commands(python: str, ranks: int) -> Commands:
    """Return the command of each installed launcher, with prefixes and log files switched on where
    it has them.
    """
    installed, _ = find_installed(python)
    commands = {
        OURS: installed[OURS](python, ranks, 0),
        TORCHRUN: [*installed[TORCHRUN](python, ranks, 0), "--tee", "3", "--log-dir", "logs"],
    }
    if "mpirun" in installed:
        program, *rest = installed["mpirun"](python, ranks, 0)
        commands["mpirun"] = [program, "--tag-output", *rest]
    return commands


@contextmanager
def terminal(*, is_read: bool) -> Iterator[int]:
    """Make a terminal that is read at once, or never; yield its descriptor."""
    ours, theirs = os.openpty()
    reader = None
    if is_read:
        null = subprocess.DEVNULL
        reader = subprocess.Popen(["cat"], stdin=ours, stdout=null, stderr=null)
        os.close(ours)
    try:
        yield theirs
    finally:
        os.close(theirs)  # which ends its reader
        if reader is not None:
            reader.wait()
        else:
            os.close(ours)


@contextmanager
def new_file() -> Iterator[int]:
    """Make a file for the time of one run; yield its descriptor."""
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


def run(command: Sequence[str], stdout: int, *, with_stderr: bool = False) -> tuple[float, int]:
    """Return (seconds, peak bytes of the supervisor) of one run in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stdout if with_stderr else subprocess.DEVNULL,
        )
        peaks: list[int] = [0]
        watcher = threading.Thread(target=_watch_peak, args=(process, peaks))
        watcher.start()
        code = measure.wait_for_end(process)
        took = time.perf_counter() - began
        watcher.join()
        if code != 0:
            raise measure.Failed(f"{shown(command)}: exit code {code}")
        return took, max(peaks)


def _watch_peak(process: subprocess.Popen[bytes], peaks: list[int]) -> None:
    while process.returncode is None:
        try:
            peaks.append(measure.peak_bytes(process.pid))
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.02)


def compare_rates(
    commands: Commands, what: str, repeat: int, megabytes: int, *, both: bool = False
) -> list[list[str]]:
    """Return a table row for each launcher. what: `file` or `terminal`."""
    whole: dict[str, list[float]] = {name: [] for name in commands}
    peaks: dict[str, list[int]] = {name: [] for name in commands}

    def run_lines(name: str, size: int) -> tuple[float, int]:
        size *= RANKS if name == ALONE else 1
        script = [measure.workload("lines"), str(size), *(["both"] if both else [])]
        with new_file() if what == "file" else terminal(is_read=True) as stdout:
            return run([*commands[name], *script], stdout, with_stderr=both)

    def one(name: str) -> float:
        start, _ = run_lines(name, 0)
        seconds, peak = run_lines(name, megabytes)
        whole[name].append(seconds)
        peaks[name].append(peak)
        return seconds - start

    print(f"{what}, {RANKS} times {megabytes} MB, without the start:", flush=True)
    took = {
        name: statistics.median(found) for name, found in take_turns(commands, repeat, one).items()
    }
    rates = {name: RANKS * megabytes / max(took[name], 1e-3) for name in took}
    return [
        [
            name,
            f"{what}, both streams" if both else what,
            f"{RANKS} x {megabytes} MB",
            f"{statistics.median(whole[name]):.2f} s",
            f"{rates[name]:.0f} MB/s",
            f"{rates[name] / rates[TORCHRUN]:.2f}" if TORCHRUN in rates else "-",
            _mib(statistics.median(peaks[name])),
        ]
        for name in took
    ]


def compare_order(python: str, repeat: int) -> list[list[str]]:
    """Return what each launcher has done to lines that say whose they are: the worst of all runs.

    torchrun without --tee, too: its ranks then write into the file themselves.
    """
    commands = make_commands(python, MANY_RANKS)
    commands[f"{TORCHRUN} without --tee"] = commands[TORCHRUN][:-4]
    found: dict[str, list[tuple[int, int, int]]] = {name: [] for name in commands}

    def one(name: str) -> float:
        with tempfile.TemporaryFile() as file:
            script = [measure.workload("numbered"), str(LINES_EACH)]
            seconds, _ = run([*commands[name], *script], file.fileno())
            file.seek(0)
            found[name].append(_count_faults(file))
        return seconds

    print(f"{MANY_RANKS} ranks, {LINES_EACH} lines each:", flush=True)
    take_turns(commands, repeat, one)
    return [
        [name, *(str(max(faults)) for faults in zip(*counts, strict=True))]
        for name, counts in found.items()
        if counts
    ]


def _count_faults(lines: Iterator[bytes]) -> tuple[int, int, int]:
    """Return how many lines are torn or run into others, are missing, or come too late."""
    torn = late = 0
    newest = [-1] * MANY_RANKS
    seen: set[tuple[int, int]] = set()
    for line in lines:
        whole = _WHOLE_LINE.fullmatch(line.rstrip(b"\n"))
        if whole is None:
            torn += 1
            continue
        rank, number = int(whole[1]), int(whole[2])
        late += number < newest[rank]
        newest[rank] = max(newest[rank], number)
        seen.add((rank, number))
    return torn, MANY_RANKS * LINES_EACH - len(seen), late


def measure_blocked(python: str, repeat: int) -> list[list[str]]:
    """Return the supervisor's memory while its ranks write 1 GB into a terminal nobody reads."""
    command = find_installed(python)[0][OURS](python, MANY_RANKS, 0)
    script = [measure.workload("lines"), str(1000 // MANY_RANKS)]
    peaks = []
    for _ in range(repeat):
        with terminal(is_read=False) as stdout:
            seconds, peak = run([*command, *script], stdout)
        print(f"  1 GB into a blocked terminal: {seconds:.3g} s, {_mib(peak)}", flush=True)
        peaks.append(peak)
    return [[f"{OURS}, {MANY_RANKS} ranks", _mib(statistics.median(peaks))]]


def measure_sampling(python: str, repeat: int, idle_s: float) -> list[list[str]]:
    """Return what the supervisor uses while its ranks wait, and it looks at what they use."""
    command = find_installed(python)[0][OURS](python, MANY_RANKS, 0)
    found = []
    for _ in range(repeat):
        peak, used_s = measure.idle_supervisor(command, MANY_RANKS, idle_s)
        print(f"  looking at {MANY_RANKS} ranks: {used_s:.3g} s, {_mib(peak)}", flush=True)
        found.append((peak, used_s))
    share = statistics.median(used_s for _, used_s in found) / idle_s
    peak_memory = _mib(statistics.median(peak for peak, _ in found))
    return [[f"{OURS}, {MANY_RANKS} ranks", f"{100 * share:.2f} %", peak_memory]]


def compare_bars(python: str, repeat: int) -> list[list[str]]:
    """Return how many lines two progress bars of 200 steps become in a pipe."""
    commands = make_commands(python, RANKS)
    counts: dict[str, list[int]] = {name: [] for name in commands}

    def one(name: str) -> float:
        with tempfile.TemporaryFile() as file:
            command = [*commands[name], measure.workload("bar")]
            seconds, _ = run(command, file.fileno(), with_stderr=True)
            file.seek(0)
            counts[name].append(len(file.read().splitlines()))  # what a bar rewrites is a line, too
        return seconds

    print(f"{RANKS} bars of 200 steps:", flush=True)
    take_turns(commands, repeat, one)
    return [[name, f"{statistics.median(found):.0f}"] for name, found in counts.items() if found]


def _mib(size: float) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def make_sections(options: argparse.Namespace, python: str) -> dict[str, Callable[[], str]]:
    """Return, by name, what each part of the page is made by."""
    repeat, megabytes, idle_s = options.repeat, options.megabytes, options.idle_seconds
    few = min(repeat, 3)
    commands = make_commands(python, RANKS)
    ours = commands[OURS]
    with_options = {" ".join([OURS, more]): [*ours, more] for more in ("--timestamps", "--fold")}
    on_terminals = {**commands, f"{OURS} --no-tty": [*ours, "--no-tty"], ALONE: [python]}

    def show(commands: Commands, what: str, part: int, *, both: bool = False) -> str:
        rows = compare_rates(commands, what, repeat, max(1, megabytes // part), both=both)
        header = ["", "stdout is a", "", "whole command", "rate", "to torchrun's", "peak memory"]
        return machine.table(header, rows)

    return {
        "file": lambda: show(commands, "file", 1),
        "both": lambda: show(commands, "file", 5, both=True),
        "terminal": lambda: show(on_terminals, "terminal", 10),
        "options": lambda: show({OURS: ours, **with_options}, "file", 10),
        "lines": lambda: machine.table(
            [f"{MANY_RANKS} ranks, {LINES_EACH} lines each: worst run", "torn", "missing", "late"],
            compare_order(python, few),
        ),
        "bars": lambda: machine.table(
            [f"{RANKS} bars of 200 steps into a file", "lines"], compare_bars(python, 1)
        ),
        "blocked": lambda: machine.table(
            [f"1 GB into a terminal that nobody reads, median of {few}", "peak memory"],
            measure_blocked(python, few),
        ),
        "sampling": lambda: machine.table(
            [f"waiting ranks that hold torch, {idle_s:g} s", "of one CPU", "peak memory"],
            measure_sampling(python, repeat, idle_s),
        ),
    }


NAMES = ("file", "both", "terminal", "options", "lines", "bars", "blocked", "sampling")


def main() -> None:
    parser = machine.make_parser(__doc__, NAMES)
    parser.add_argument("--megabytes", type=int, default=300, help="how much each rank writes")
    parser.add_argument(
        "--idle-seconds", type=float, default=12.0, help="how long an idle supervisor is watched"
    )
    options = parser.parse_args()
    python = sys.executable
    sections = make_sections(options, python)
    tables = [sections[name]() for name in NAMES if name in options.only]
    commands = make_commands(python, RANKS)
    page = "\n\n".join(
        [
            "# Passing on output",
            "\n".join(machine.describe()),
            (
                "Rates are of lines of 100 bytes, without the start. Peak memory is that of the"
                f" supervisor. Medians of {options.repeat}, launchers in turns. Written by"
                " `benchmarks/output.py`."
            ),
            "\n".join(f"- {name}: {version(python, name)}" for name in commands),
            *tables,
            "\n".join(
                f"    {shown(command)} benchmarks/workloads/lines.py {options.megabytes}"
                for command in commands.values()
            ),
        ]
    )
    print(page)
    machine.write(machine.results_path(options.results, "-output"), page + "\n")


if __name__ == "__main__":
    main()
