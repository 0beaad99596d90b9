"""Docstring of the script."""

number: int = 3
_names = sorted(name for name in globals())

# ruff: noqa: E402  (the names come first, while they are still those that python made)

import json
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import threading
import types


class Thing:
    def __eq__(self, other):
        return type(other) is Thing


def square(x):
    return x * x


def link_of(fd):
    """What a descriptor is; the stack file that diagnosis keeps open is known by its name."""
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ".stacks"  # the descriptor with which the folder was read
    return target if target.endswith(".stacks") else fd


def spec_of(spec):
    return (
        None
        if spec is None
        else [spec.name, spec.origin, str(spec.parent), type(spec.loader).__name__]
    )


def observe():
    main = sys.modules["__main__"]
    return {
        "argv": [os.fsencode(arg).hex() for arg in sys.argv],
        "orig_argv": [os.fsencode(arg).hex() for arg in sys.orig_argv[1:]],
        "path": sys.path,
        "file": os.fsencode(__file__).hex(),
        "names": _names,
        "name": __name__,
        "spec": spec_of(__spec__),
        "package": __package__,
        "loader": type(__loader__).__name__,
        "loader_path": str(getattr(__loader__, "path", getattr(__loader__, "archive", None))),
        "cached": globals().get("__cached__"),
        "doc": __doc__,
        "annotations": str(globals().get("__annotations__")),
        "builtins": str(type(__builtins__)),
        "main_is_us": main.__dict__ is globals(),
        "main_repr": repr(main),
        "cwd": os.getcwd(),
        "flags": {
            name: getattr(sys.flags, name)
            for name in dir(sys.flags)
            if name[0] != "_" and name not in ("index", "count")
        },
        "dont_write_bytecode": sys.dont_write_bytecode,
        "stdin": [
            sys.stdin.isatty(),
            sys.stdin.seekable(),
            sys.stdin.encoding,
            sys.stdin.errors,
            sys.stdin.name,
            sys.stdin.mode,
        ],
        "stdin_text": sys.stdin.read(),
        "stdout": [
            sys.stdout.encoding,
            sys.stdout.errors,
            sys.stdout.isatty(),
            sys.stdout.name,
            sys.stdout.line_buffering,
        ],
        "stderr": [
            sys.stderr.encoding,
            sys.stderr.errors,
            sys.stderr.isatty(),
            sys.stderr.name,
            sys.stderr.line_buffering,
        ],
        "same_streams": [
            sys.stdin is sys.__stdin__,
            sys.stdout is sys.__stdout__,
            sys.stderr is sys.__stderr__,
        ],
        "handlers": {
            s.name: str(signal.getsignal(s)).partition(" at ")[0]
            for s in signal.valid_signals()
            if isinstance(s, signal.Signals)
        },
        "mask": sorted(int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "umask": os.umask(0o22),
        "nice": os.nice(0),
        "limits": {
            name: resource.getrlimit(getattr(resource, name))
            for name in dir(resource)
            if name.startswith("RLIMIT")
        },
        "warnoptions": sys.warnoptions,
        "xoptions": str(sys._xoptions),
        "fds": sorted(
            link
            for fd in os.listdir("/proc/self/fd")
            if not (link := link_of(fd)).endswith(".stacks")
        ),
        "threads": [
            threading.active_count(),
            len(os.listdir("/proc/self/task")),
            threading.current_thread().name,
        ],
        "main_thread": threading.current_thread() is threading.main_thread(),
        "gc": __import__("gc").isenabled(),
        "gc_threshold": __import__("gc").get_threshold(),
        "process": [multiprocessing.current_process().name, str(multiprocessing.parent_process())],
        "recursion": sys.getrecursionlimit(),
        "switch": sys.getswitchinterval(),
        "hooks": [
            sys.excepthook is sys.__excepthook__,
            threading.excepthook is threading.__excepthook__,
        ],
        "pickle": pickle.loads(pickle.dumps(Thing())) == Thing(),
        "locale": __import__("locale").setlocale(__import__("locale").LC_CTYPE),
        "affinity": sorted(os.sched_getaffinity(0)),
        "types": types.__file__,
        "executable": sys.executable,
        "prefix": [sys.prefix, sys.exec_prefix],
        "interactive": hasattr(sys, "ps1"),
        "meta_path": [
            getattr(finder, "__name__", type(finder).__name__) for finder in sys.meta_path
        ],
        "trace": [str(sys.gettrace()), str(sys.getprofile())],
    }


if __name__ == "__main__":
    seen = observe()
    for start_method in ("spawn", "fork", "forkserver") if "pools" in sys.argv else ():
        with multiprocessing.get_context(start_method).Pool(1) as pool:
            seen[start_method] = [pool.map(square, [2, 3]), pool.apply(type, (Thing(),)) is Thing]
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(seen))
