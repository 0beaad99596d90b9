"""What all benchmarks share around their measurements: the options, what a results file says about
the machine, and the writing of that file. No measurement happens here.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
from collections.abc import Iterable, Sequence

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")


def make_parser(description: str | None, rows: Iterable[str] = ()) -> argparse.ArgumentParser:
    """Return a parser of the options that all benchmarks have: --repeat, --results and, where rows
    have names, --only.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repeat", type=int, default=5, help="runs per figure, of which the median is taken"
    )
    parser.add_argument("--results", default=RESULTS, help="folder for the results file")
    if names := list(rows):
        shown = ", ".join(f'"{name}"' if " " in name else name for name in names)
        help_text = f"measure only some of: {shown}"
        parser.add_argument(
            "--only", nargs="+", choices=names, default=names, metavar="NAME", help=help_text
        )
    return parser


def cpu_model() -> str:
    """Return the processor's name as the kernel gives it."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.machine()


def describe() -> list[str]:
    """Return lines that name the machine and the software under everything else."""
    with open("/proc/meminfo", encoding="utf-8") as file:
        memory_gib = int(file.readline().split()[1]) / (1 << 20)
    cores = len(os.sched_getaffinity(0))
    return [
        f"{cpu_model()}, {cores} usable cores, {memory_gib:.0f} GiB of memory",
        (
            f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}, Python"
            f" {platform.python_version()}"
        ),
    ]


def results_path(folder: str, suffix: str = "") -> str:
    """Return the dated name of a results file for this machine."""
    cpu = re.sub(r"\(r\)|\(tm\)|@.*|processor", "", cpu_model().lower())
    slug = re.sub(r"[^a-z0-9]+", "-", cpu).strip("-")
    return os.path.join(folder, f"{datetime.date.today().isoformat()}-{slug}{suffix}.md")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns line up."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def write(path: str, text: str) -> None:
    """Write a results file, and say where."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    print(f"\nwritten to {path}")
