"""Compare what happens after a failure under this launcher, torchrun and, where installed, mpirun.

    python benchmarks/failure.py [--repeat 5] [--slow-repeat 2] [--only NAME ...]

The launchers take turns; each figure is a median. Rows in which torchrun waits for half a minute
are repeated less often. One table is printed and written to benchmarks/results/.
"""

from __future__ import annotations

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
from launchers import OURS, TORCHRUN, environment, find_installed, version

RANKS = 8
HANG_TIMEOUT_S = 2

# By what the report is known: the first line of ours, torchrun's table, mpirun's paragraph that
# names the process.
_REPORT = re.compile(rb"FAILED: |Root Cause|Exit code: ")

# (name of the launcher) -> one value, or an exception when it cannot do this.
Measurement = Callable[[list[str], str], float]


class Screen:
    """What a command prints, and when it named the failure."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.text = b""
        self.reported_ns: int | None = None
        self.reported = threading.Event()
        self._process = process
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while data := self._process.stdout.read1(1 << 16):
            self.text += data
            if self.reported_ns is None and _REPORT.search(self.text):
                self.reported_ns = time.monotonic_ns()
                self.reported.set()

    def finish(self) -> None:
        self._thread.join(5)


@contextmanager
def running(
    command: Sequence[str], what: str
) -> Iterator[tuple[subprocess.Popen[bytes], Screen, str, Iterator[list[str]]]]:
    """Run the workload until all its ranks are ready; give the process, its screen, the FIFO's name
    and its lines.
    """
    with measure._fifo() as (fifo, lines), tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*command, measure.workload("fail"), fifo, what],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process, Screen(process), fifo, lines
        finally:
            below = measure._descendants(process.pid)
            measure._end(process)
            for pid in below:
                _kill(pid)


def time_from_failure(what: str, until: str, *options: str) -> Measurement:
    """Return a measurement of the seconds from a rank's failure until the report or the end of the
    command.
    """

    def one(command: list[str], name: str) -> float:
        with running([*command, *(options if name in (OURS, TORCHRUN) else ())], what) as (
            process,
            screen,
            fifo,
            lines,
        ):
            measure._expect(lines, "ready", RANKS, process)
            with open(f"{fifo}.go", "w", encoding="ascii"):
                pass
            failed = int(measure._expect(lines, "failed", 1, process)[0][1])
            if until == "end":
                measure.wait_for_end(process)
                return (time.monotonic_ns() - failed) / 1e9
            screen.reported.wait(120)
            if screen.reported_ns is None:
                raise measure.Failed("no report")
            return (screen.reported_ns - failed) / 1e9

    return one


def left_after_kill(victim: str) -> Measurement:
    """Return a measurement of how many processes are left 2 s after SIGKILL of the launcher, or of
    a rank.
    """

    def one(command: list[str], name: str) -> float:
        with running(command, "wait") as (process, _, _, lines):
            words = _take(lines, process, 2 * RANKS)
            ranks = {int(rank): int(pid) for kind, pid, rank in words if kind == "ready"}
            children = {int(rank): int(pid) for kind, pid, rank in words if kind == "child"}
            _kill(process.pid if victim == "launcher" else ranks[3])
            time.sleep(2.0)
            watched = (
                [*ranks.values(), *children.values()] if victim == "launcher" else [children[3]]
            )
            left = [pid for pid in watched if _is_alive(pid)]
            for pid in (*ranks.values(), *children.values()):
                _kill(pid)
            return len(left)

    return one


def _take(
    lines: Iterator[list[str]], process: subprocess.Popen[bytes], count: int
) -> list[list[str]]:
    found: list[list[str]] = []
    for words in lines:
        found += [words] if words else []
        if len(found) == count:
            return found
        if not words and process.poll() is not None:
            break
    raise measure.Failed(f"{len(found)} of {count} processes came up")


def restart_works(command: list[str], name: str) -> float:
    """Return 1 when a second attempt gets through after a first that had reduced, else 0."""
    try:
        measure.restart_time([*command, "--max-restarts", "1"], RANKS, "plain")
    except measure.Failed:
        return 0.0
    return 1.0


def hang_named(command: list[str], name: str) -> float:
    """Return the seconds between the end of the hang timeout and the report that names the rank."""
    took = time_from_failure("hang", "report", "--hang-timeout", str(HANG_TIMEOUT_S))(command, name)
    return took - HANG_TIMEOUT_S


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        pass


class Row:
    """One line of the table: what is measured, under which launchers, and what ours is to reach."""

    def __init__(
        self,
        title: str,
        measurement: Measurement,
        target: float,
        unit: str = "s",
        *,
        only: tuple[str, ...] = (),
        slow: bool = False,
    ) -> None:
        self.title, self.measurement, self.target, self.unit = title, measurement, target, unit
        self.only, self.slow = only, slow

    def run(self, commands: dict[str, list[str]], repeat: int) -> dict[str, list[float]]:
        """Measure each launcher `repeat` times, in turns."""
        samples: dict[str, list[float]] = {
            name: [] for name in commands if not self.only or name in self.only
        }
        for _ in range(repeat):
            for name, values in samples.items():
                try:
                    values.append(self.measurement(commands[name], name))
                except (measure.Failed, subprocess.TimeoutExpired) as error:
                    print(f"  {name} failed: {error}", flush=True)
        return samples


STUBBORN = ("--shutdown-timeout", "3")
ROWS = {
    "end": Row(
        f"rank exits 3, {RANKS} ranks waiting: until the command has ended",
        time_from_failure("exit", "end"),
        0.15,
    ),
    "report": Row(
        "the same, until the report is on the screen", time_from_failure("exit", "report"), 0.10
    ),
    "stubborn": Row(
        "one rank ignores SIGTERM: until the report is on the screen",
        time_from_failure("stubborn", "report"),
        1.0,
        slow=True,
    ),
    "timeout": Row(
        "`--shutdown-timeout 3` with a stubborn rank: until the end",
        time_from_failure("stubborn", "end", *STUBBORN),
        3.5,
        slow=True,
    ),
    "left": Row(
        "processes left 2 s after SIGKILL of the launcher",
        left_after_kill("launcher"),
        0,
        f"of {2 * RANKS}",
    ),
    "children": Row("children of a killed rank left after 2 s", left_after_kill("rank"), 0, "of 1"),
    "restart": Row(
        "restarts that work after a first attempt that had reduced",
        restart_works,
        1,
        "of all",
        only=(OURS, TORCHRUN),
        slow=True,
    ),
    "hang": Row(
        "hang of one rank: named so long after --hang-timeout ran out",
        hang_named,
        2.0,
        only=(OURS,),
    ),
}


def show(row: Row, values: list[float] | None) -> str:
    """Return one cell: the median, or for restarts how many worked."""
    if not values:
        return ""
    if row.unit == "of all":
        return f"{sum(values):.0f} of {len(values)}"
    return (
        f"{statistics.median(values):.2f} s"
        if row.unit == "s"
        else f"{statistics.median(values):.0f} {row.unit}"
    )


def reached(row: Row, values: list[float] | None) -> str:
    if not values:
        return "not measured"
    middle = statistics.median(values)
    good = min(values) >= row.target if row.unit == "of all" else middle <= row.target
    return "yes" if good else "no"


def main() -> None:
    parser = machine.make_parser(__doc__, ROWS)
    parser.add_argument(
        "--slow-repeat",
        type=int,
        default=2,
        help="the same for rows in which torchrun takes half a minute",
    )
    parser.add_argument(
        "--restarts", type=int, default=20, help="how often our own restart is tried"
    )
    options = parser.parse_args()
    installed, _ = find_installed(sys.executable)
    names = [name for name in (OURS, TORCHRUN, "mpirun") if name in installed]
    commands = {name: installed[name](sys.executable, RANKS, 0) for name in names}
    cells = []
    for key in options.only:
        row = ROWS[key]
        print(f"measuring {key} ...", flush=True)
        samples = row.run(commands, options.slow_repeat if row.slow else options.repeat)
        if key == "restart":
            more = options.restarts - len(samples[OURS])
            samples[OURS] += row.run({OURS: commands[OURS]}, more)[OURS]
        target = (
            "all"
            if row.unit == "of all"
            else (f"{row.target:g} s" if row.unit == "s" else f"{row.target:g}")
        )
        cells.append(
            [
                row.title,
                *(show(row, samples.get(name)) for name in names),
                target,
                reached(row, samples[OURS]),
            ]
        )
        print("  " + "  ".join(cells[-1]), flush=True)
    page = "\n\n".join(
        [
            "# After a failure",
            "\n".join(machine.describe()),
            (
                f"Medians of {options.repeat} ({options.slow_repeat} where torchrun takes half a"
                " minute), launchers in turns. Written by `benchmarks/failure.py`. The report is"
                " ours, torchrun's table of failures (a log line comes before it), and mpirun's"
                " paragraph that names the process."
            ),
            "\n".join(f"- {name}: {version(sys.executable, name)}" for name in names),
            machine.table(["", *names, "to reach", "reached"], cells),
        ]
    )
    print("\n" + page)
    machine.write(machine.results_path(options.results, "-failure"), page + "\n")


if __name__ == "__main__":
    main()
