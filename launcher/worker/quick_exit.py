"""Lets a forked worker leave without taking apart the modules that it shares with all others.

A normal exit touches every object of every module, which first copies the pages that were shared,
and then runs the static destructors of torch's libraries: 0.5 s of CPU for each rank. Everything
that a script can see happens as always (atexit, threads, flushing, destructors of the script's own
objects); only then, instead of taking the shared modules apart, the process ends. Prepared by the
fork server around its imports; nothing here knows of workers or of how they are started.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from types import ModuleType

from launcher.worker import bootstrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Programs that watch a process through its libraries write their results in destructors, which
# `_leave_quickly` leaves out.
_WATCHERS = ("LD_PRELOAD", "LD_AUDIT", "CUDA_INJECTION64_PATH", "NVTX_INJECTION64_PATH")


def plan_quick_exit() -> None:
    """Let workers skip the tear-down of the modules that they share.

    To be called before these are imported: then it happens after all other atexit functions.
    """
    if any(os.environ.get(name) for name in _WATCHERS):
        return
    import ctypes  # now: a script may leave sys.modules in any state

    server_pid = os.getpid()
    # Its entries hold a folder's file names each; sys lets go of it at exit.
    importers = sys.path_importer_cache

    def keep_shared_modules() -> None:
        if os.getpid() == server_pid:
            return
        kept = _take_shared_modules()
        if kept:
            for held in (kept, importers):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))
            _leave_quickly(ctypes.CDLL(None))

    atexit.register(keep_shared_modules)


def mark_shared_modules() -> None:
    """Let the modules that all workers share end with this one.

    What the interpreter treats in its own way comes behind.
    """
    for name in (__name__, "sys", "builtins", "__main__"):
        sys.modules[name] = sys.modules.pop(name)


def keep_operators() -> None:
    """Let no worker take back, at its exit, what torch's own modules have registered.

    That would copy 5000 pages for nothing.
    """
    weakref = sys.modules.get("weakref")
    for finalizer in list(getattr(getattr(weakref, "finalize", None), "_registry", ())):
        found = finalizer.peek()
        if found is not None and getattr(found[1], "__module__", "") == "torch.library":
            finalizer.atexit = False


def _take_shared_modules() -> list[tuple[str, ModuleType]]:
    """Take the modules that all workers share out of sys.modules.

    There are none when the script has removed the mark among them.

    As pairs, which alone leaves names and modules untouched: to look at a thousand of them copies a
    thousand pages.
    """
    sys.setswitchinterval(1000.0)  # a daemon thread that imports must not find half of them
    own: list[tuple[str, ModuleType]] = []
    kept: list[tuple[str, ModuleType]] = []
    while sys.modules and not kept:
        pair = sys.modules.popitem()
        (kept if pair[0] == __name__ else own).append(pair)
    while sys.modules:
        kept.append(sys.modules.popitem())
    sys.modules.update(reversed(own))
    return kept


class _LastObject:
    """Ends the process when the interpreter, having destroyed all else, lets go of it.

    What it would still do is to go through every interned string and every type: 2000 copied pages.
    """

    def __init__(self, libc: Any) -> None:
        self._exit = libc.exit
        self._collect = gc.collect
        self._streams = [
            stream for stream in (sys.__stdout__, sys.__stderr__) if stream is not None
        ]

    def __del__(self) -> None:
        self._collect()  # what of the script's objects was held by `sys` only, in circles
        for stream in self._streams:
            if not stream.closed:
                stream.flush()  # where that fails, the interpreter goes on to its end, and says so
        self._exit(0)


def _leave_quickly(libc: Any) -> None:
    # Exit handlers run in reverse order: C streams are flushed first, then the process ends with
    # its true status.
    try:
        libc.on_exit(libc._exit, None)
        libc.on_exit(libc.fcloseall, None)
    except AttributeError:
        return  # not glibc: the full exit is slower, and right
    if bootstrap.has_succeeded:
        # The interpreter empties `sys` last, and in the order in which it was filled.
        sys.launcher_last_object = _LastObject(libc)  # type: ignore[attr-defined]
