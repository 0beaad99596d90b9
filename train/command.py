"""How a command of this package begins: --help at once, and missing packages by name.

Owns what comes before torch is imported, which takes a second or more. Knows nothing of what the
commands do.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec


def begin(parser: argparse.ArgumentParser) -> None:
    """Leave if help was asked for or a package is missing; let stdout take names of all kinds."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        parser.print_help()
        raise SystemExit(0)
    missing = [name for name in ("torch", "torchvision", "tqdm") if find_spec(name) is None]
    if missing:
        print(
            f"train: error: the trainer needs {', '.join(missing)}, which this Python does not"
            f" have. Type: {sys.executable} -m pip install {' '.join(missing)}",
            file=sys.stderr,
        )
        raise SystemExit(2)
    if sys.stdout is not None:  # closed by the caller
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a class named Krähe is no reason to crash on an ASCII terminal
