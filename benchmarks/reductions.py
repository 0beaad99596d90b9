"""Compare sums over the ranks of one node through shared memory with torch's own over Gloo.

    python benchmarks/reductions.py [--repeat 3] [--ranks 2 4 8]

Both take turns within the same ranks, each call from a moment when all of them are there; a figure
is the median of all calls of rank 0. A table is printed and written to benchmarks/results/.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import machine

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
UNITS = ((1 << 20, "MB"), (1 << 10, "KB"), (1, "bytes"))


def measure(ranks: int, repeat: int) -> dict[int, tuple[float, float]]:
    """Return by number of bytes the seconds of torch's all-reduce and of ours."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "launcher", "--nproc-per-node", str(ranks)),
                *("--run-dir", folder, "--log-line-prefix-template", ""),
                *(os.path.join(HERE, "workloads", "reductions.py"), str(repeat)),
            ],
            env={**os.environ, "PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise SystemExit(f"{ranks} ranks ended with {done.returncode}:\n{done.stderr}")
    return {int(size): (gloo, ours) for size, (gloo, ours) in json.loads(done.stdout).items()}


def in_words(num_bytes: int) -> str:
    """Return a size as `8 KB`."""
    unit, name = next((unit, name) for unit, name in UNITS if num_bytes >= unit)
    return f"{num_bytes // unit} {name}"


def main() -> None:
    """Measure and write the table."""
    parser = machine.make_parser(__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8])
    options = parser.parse_args()
    rows = [
        [
            str(ranks),
            in_words(num_bytes),
            f"{gloo * 1e3:.2f} ms",
            f"{ours * 1e3:.2f} ms",
            f"{ours / gloo:.2f}",
        ]
        for ranks in options.ranks
        for num_bytes, (gloo, ours) in measure(ranks, options.repeat).items()
    ]
    header = ("ranks", "sum of", "torch, Gloo", "ctx.all_reduce", "ratio")
    text = f"{machine.table(header, rows)}\n"
    print(text)
    lines = "\n".join(f"- {line}" for line in machine.describe())
    machine.write(
        machine.results_path(options.results, "-reductions"),
        f"# Sums over the ranks of one node\n\n{lines}\n\n{text}",
    )


if __name__ == "__main__":
    main()
