"""The kernel's namespaces, entered by a thread that lives for one call: the tests themselves stay
where they are.

What such a thread starts is a child of the tests like any other, with its own number and exit
code; no program stands between that would keep signals from it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_FILE_SYSTEM = 0x00000200  # CLONE_FS: a thread shares its folder and root with the others
_MOUNT = 0x00020000
_UTS = 0x04000000
_IPC = 0x08000000
_PID = 0x20000000
_NET = 0x40000000
_ALL = _MOUNT | _UTS | _IPC | _PID | _NET

_libc = ctypes.CDLL(None, use_errno=True)


def find_obstacle() -> str:
    """Return why no namespaces can be made here, or ""."""
    if os.geteuid() != 0:
        return "hosts made of namespaces need root"
    try:
        os.close(make_network())
    except OSError as error:
        return f"hosts made of namespaces are not allowed here: {error}"
    return ""


def make_network() -> int:
    """Return a descriptor that keeps a new network alive, with nothing in it but a loopback."""

    def make() -> int:
        _call("unshare", _NET)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    return _in_thread(make)


def start_in_network(network: int, argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a command in a network, but else where the tests are."""

    def start() -> subprocess.Popen[bytes]:
        _call("setns", network, _NET)
        return subprocess.Popen(argv, **options)

    return _in_thread(start)


def start_beside(pidfd: int, argv: list[Any], **options: Any) -> subprocess.Popen[bytes]:
    """Start a command in all namespaces of another process."""

    def start() -> subprocess.Popen[bytes]:
        _call("unshare", _FILE_SYSTEM)
        _call("setns", pidfd, _ALL)
        return subprocess.Popen(argv, **options)

    return _in_thread(start)


def _call(name: str, *args: int) -> None:
    if getattr(_libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _in_thread(call: Callable[[], T]) -> T:
    """Return what `call` returns in a thread that ends with it, and its namespaces with that."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
