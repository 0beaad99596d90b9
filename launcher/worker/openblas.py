"""Keeps OpenBLAS, which numpy and scipy bring along, from starting threads in the fork server.

OpenBLAS starts its threads while it is loaded. A fork server must have one thread, so it loads
OpenBLAS for one thread, and each forked worker raises the number again to what it would have been.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "OPENBLAS_NUM_THREADS"

# OpenBLAS looks at these, in this order.
_SOURCES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")

# Names under which builds export the function: plain, 64-bit integers, and the builds inside
# numpy's and scipy's wheels.
_SETTERS = (
    "openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "scipy_openblas_set_num_threads64_",
)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let libraries that are loaded inside this block use one OpenBLAS thread."""
    old = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = "1"
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE, None)
        if old is not None:
            os.environ[_VARIABLE] = old


def _choose_threads() -> int:
    usable = len(os.sched_getaffinity(0))
    for name in _SOURCES:
        try:
            number = int(os.environ.get(name, ""))
        except ValueError:
            continue
        if number > 0:
            return min(number, usable)  # as OpenBLAS itself limits it
    return usable


def _find_libraries() -> list[str]:
    """Return the paths of the OpenBLAS libraries that this process has loaded."""
    with open("/proc/self/maps") as maps:
        paths = {"/" + line.rstrip("\n").partition("/")[2] for line in maps if "openblas" in line}
    return [path for path in paths if "openblas" in path.rpartition("/")[2]]


def restore_threads() -> None:
    """Set, in a forked worker, the number of threads that OpenBLAS would have chosen itself."""
    wanted = _choose_threads()
    if wanted == 1:
        return
    for path in _find_libraries():
        library = ctypes.CDLL(path)
        for name in _SETTERS:
            setter = getattr(library, name, None)
            if setter is not None:
                setter(ctypes.c_int(wanted))
                break
