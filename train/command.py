"""How a command of this package begins: --help at once, and missing packages by name.

Owns what comes before torch is imported, which takes a second or more. Knows nothing of what the
commands do.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from importlib.util import find_spec

from train.errors import EXIT_USAGE, TrainerError

PACKAGES = ("torch", "torchvision", "tqdm")
# Names of malloc's options in glibc's malloc.h, and values that it never reaches.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER_BYTES = 2**31 - 1
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # to write a model.onnx and to prove it


def begin(parser: argparse.ArgumentParser, packages: tuple[str, ...] = PACKAGES) -> None:
    """Leave if help was asked for or a package is missing; let stdout take names of all kinds, and
    let freed memory be used again.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        parser.print_help()
        raise SystemExit(0)
    try:
        require_packages(packages)
    except TrainerError as error:
        print(f"train: error: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from error
    if sys.stdout is not None:  # closed by the caller
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a class named Krähe is no reason to crash on an ASCII terminal
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let malloc keep what is freed, for the next step, instead of giving it back to the kernel.

    Each step takes and frees the same large blocks. Given back and taken again, each of their pages
    is a fault and is filled with zeros first: 6000 faults, a tenth of a step. Whoever has set
    malloc by an environment variable knows better.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, NEVER_BYTES)
        mallopt(M_TRIM_THRESHOLD, NEVER_BYTES)


def require_packages(packages: tuple[str, ...], what: str = "the trainer") -> None:
    """Raise TrainerError with the command that installs them, if `what` lacks some of them."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise TrainerError(
            f"{what} needs {', '.join(missing)}, which this Python does not have. Type:"
            f" {sys.executable} -m pip install {' '.join(missing)}"
        )
