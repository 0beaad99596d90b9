"""Compare how fast the launchers pass on what the workers write: prefixed on stdout and, where they
can, in log files.

    python benchmarks/output.py [--repeat 5] [--megabytes 100]

Two ranks write lines of 100 bytes into the launcher, whose own stdout is a file, or a pipe or a
terminal that is read at once. On a terminal, our ranks have terminals, too. The time of a run that
writes nothing is taken off. One table is printed and written to benchmarks/results/.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import machine
import measure
from launchers import OURS, TORCHRUN, environment, find_installed, shown, version

RANKS = 2
# Ranks that hold torch and wait, while the supervisor looks at what they use.
SAMPLED_RANKS = 8
# What the launcher's stdout is.
SINKS = ("file", "pipe", "terminal")
# One process that writes as much as all ranks: what the terminal itself takes.
ALONE = "no launcher"


def make_commands(python: str) -> dict[str, list[str]]:
    """Return the command of each installed launcher, with prefixes and log files switched on where
    it has them.
    """
    installed, _ = find_installed(python)
    commands = {
        OURS: installed[OURS](python, RANKS, 0),
        TORCHRUN: [*installed[TORCHRUN](python, RANKS, 0), "--tee", "3", "--log-dir", "logs"],
    }
    if "mpirun" in installed:
        program, *rest = installed["mpirun"](python, RANKS, 0)
        commands["mpirun"] = [program, "--tag-output", *rest]
    return commands


def run_once(command: list[str], megabytes: int, sink: str) -> tuple[float, int]:
    """Return (seconds, peak bytes of the supervisor) of one run; `sink`: see SINKS."""
    with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "out"), "wb") as file:
        sinks: dict[str, int] = {"file": file.fileno(), "pipe": subprocess.PIPE}
        if sink == "terminal":
            ours, sinks["terminal"] = os.openpty()
            reader = subprocess.Popen(
                ["cat"], stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            os.close(ours)
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, measure.workload("lines"), str(megabytes)],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=sinks[sink],
            stderr=subprocess.DEVNULL,
        )
        peaks: list[int] = [0]
        watcher = threading.Thread(target=_watch_peak, args=(process, peaks))
        watcher.start()
        if process.stdout is not None:
            while process.stdout.read1(1 << 20):
                pass
            process.stdout.close()
        code = process.wait()
        took = time.perf_counter() - began
        watcher.join()
        if sink == "terminal":
            os.close(sinks["terminal"])  # which ends its reader
            reader.wait()
        if code != 0:
            raise measure.Failed(f"{command[0]}: exit code {code}")
        return took, max(peaks)


def _watch_peak(process: subprocess.Popen[bytes], peaks: list[int]) -> None:
    while process.returncode is None:
        try:
            peaks.append(measure.peak_bytes(process.pid))
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.02)


def measure_all(
    commands: dict[str, list[str]], repeat: int, megabytes: int, sink: str
) -> list[list[str]]:
    """Return a table row for each launcher, which take turns."""
    empty: dict[str, list[float]] = {name: [] for name in commands}
    full: dict[str, list[float]] = {name: [] for name in commands}
    peaks: dict[str, list[int]] = {name: [] for name in commands}
    for _ in range(repeat):
        for name, command in commands.items():
            empty[name].append(run_once(command, 0, sink)[0])
            size = megabytes * RANKS if name == ALONE else megabytes
            seconds, peak = run_once(command, size, sink)
            full[name].append(seconds)
            peaks[name].append(peak)
    rows = []
    for name in commands:
        seconds = statistics.median(full[name]) - statistics.median(empty[name])
        rate = RANKS * megabytes / max(seconds, 1e-3)
        peak_mib = statistics.median(peaks[name]) / (1 << 20)
        rows.append(
            [
                name,
                sink,
                f"{statistics.median(full[name]):.2f} s",
                f"{rate:.0f} MB/s",
                f"{peak_mib:.0f} MiB",
            ]
        )
    return rows


def measure_choices(python: str, repeat: int, megabytes: int) -> list[list[str]]:
    """Return rows for the options of ours that look at each line."""
    program = find_installed(python)[0][OURS]
    choices = ([], ["--timestamps"], ["--fold"])
    commands = {
        " ".join([OURS, *choice]): [*program(python, RANKS, 0), *choice] for choice in choices
    }
    return measure_all(commands, repeat, megabytes, "file")


def measure_sampling(python: str, repeat: int, idle_s: float) -> list[list[str]]:
    """Return rows for the supervisor while its ranks wait, and it looks at what they use."""
    program = find_installed(python)[0][OURS]
    rows = []
    for ranks in (2, SAMPLED_RANKS):
        command = program(python, ranks, 0)
        found = [measure.idle_supervisor(command, ranks, idle_s) for _ in range(repeat)]
        peak_mib = statistics.median(peak for peak, _ in found) / (1 << 20)
        share = statistics.median(used for _, used in found) / idle_s
        rows.append([f"{OURS}, {ranks} ranks", f"{100 * share:.2f} %", f"{peak_mib:.1f} MiB"])
    return rows


def main() -> None:
    parser = machine.make_parser(__doc__)
    parser.add_argument("--megabytes", type=int, default=100, help="how much each rank writes")
    parser.add_argument(
        "--idle-seconds", type=float, default=30.0, help="how long an idle supervisor is watched"
    )
    parser.add_argument(
        "--only-stats", action="store_true", help="leave out the comparison with others"
    )
    options = parser.parse_args()
    commands = make_commands(sys.executable)
    rows = []
    for sink in () if options.only_stats else SINKS:
        alone = {ALONE: [sys.executable]} if sink == "terminal" else {}
        rows += measure_all({**commands, **alone}, options.repeat, options.megabytes, sink)
    choices = measure_choices(sys.executable, options.repeat, options.megabytes)
    sampling = measure_sampling(sys.executable, options.repeat, options.idle_seconds)
    header = [
        "",
        "stdout is a",
        "whole command",
        "rate without the start",
        "peak memory of the supervisor",
    ]
    names = [f"- {name}: {version(sys.executable, name)}" for name in commands]
    page = "\n\n".join(
        [
            "# Passing on output",
            "\n".join(machine.describe()),
            (
                f"{RANKS} ranks write {options.megabytes} MB each, in lines of 100 bytes. Medians"
                f" of {options.repeat}, launchers in turns. Written by `benchmarks/output.py`."
            ),
            "\n".join(names),
            *([machine.table(header, rows)] if rows else []),
            "Options of ours that look at each line:",
            machine.table(header, choices),
            (
                "While ranks that hold torch wait, the supervisor looks every 2 s at what they use:"
                f" share of one CPU over {options.idle_seconds:g} s, and its peak memory."
            ),
            machine.table(["", "CPU", "peak memory"], sampling),
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
