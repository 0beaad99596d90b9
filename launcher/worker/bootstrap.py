"""Runs the script as plain `python script.py` would, and leaves a note when it fails.

What a script can see is as under plain python: sys.argv, sys.path[0], __file__, __main__,
tracebacks, exit. Added to that: the death signal, faulthandler, and the error file that the failure
report is made of. Used by both start methods and by ranks in place; knows nothing of the
supervisor.
"""

from __future__ import annotations

import _frozen_importlib_external as loaders
import _imp
import atexit
import io
import os
import sys
import time

# Imported before the user's folder is on sys.path: its json.py must not become ours.
from launcher.contract.error_file import WorkerError, encode
from launcher.exits import exit_code_of
from launcher.system.files import write_whole
from launcher.worker.threads import wait_until_idle as _wait_until_idle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType, TracebackType
    from typing import Any
else:
    ModuleType = type(sys)  # what `types` calls so

_OUR_DIRECTORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PACKAGE_PARENT = os.path.dirname(_OUR_DIRECTORY)

# Modules that every program finds loaded; noted by a worker's entry before it imports any.
LOADED_BY_PYTHON: set[str] = set()

# Whether the program has ended with 0, as far as it depends on the program itself.
has_succeeded = False

# The exit code of a program that has failed.
_exit_code = 0

# A message or traceback longer than this is cut in the middle: the report is for people.
_MAX_TEXT = 256 << 10


def set_import_path(kind: str, target: str) -> None:
    """Make sys.path what python makes it for this kind of program.

    The kinds are those of plan/program.py.
    """
    if kind == "package":
        sys.path.insert(0, _absolute(target))
    elif not getattr(sys.flags, "safe_path", False) and not sys.flags.isolated:
        sys.path.insert(
            0,
            os.path.dirname(os.path.realpath(target))
            if kind in ("script", "run_path")
            else os.getcwd(),
        )
    # A script may import our helpers also when we run from a source tree that is not installed.
    if _PACKAGE_PARENT not in sys.path:
        sys.path.append(_PACKAGE_PARENT)


def _absolute(path: str) -> str:
    """Return what python makes of a program's path: absolute, otherwise as it was typed.

    `..` and symbolic links stay.
    """
    try:
        return os.getcwd() if path == "." else os.path.join(os.getcwd(), path)
    except OSError:  # somebody has removed the current folder
        return path


def run(kind: str, target: str, args: list[str], error_file: str | None) -> None:
    """Run the program; returns when it ends normally, lets its exceptions through."""
    global has_succeeded, _exit_code
    pid = os.getpid()
    own_options = sys.orig_argv[1 : -len(sys.argv)]
    # Registered before the script registers anything, so it runs after all of that.
    atexit.register(_settle)
    _plan_breakpoints()
    sys.argv = [target if kind != "module" else "-m", *args]
    sys.orig_argv = [
        sys.executable,
        *own_options,
        *(["-m"] if kind == "module" else []),
        target,
        *args,
    ]
    if kind != "package":
        _step_aside_for(sys.path[0] if sys.path else "")
    try:
        if kind == "script":
            _run_script(target)
        elif kind == "run_path":
            import runpy

            # As torchrun's --run-path: under the name __main__, in a module that lives as long as
            # the program runs.
            runpy.run_path(target, run_name="__main__")
        else:
            _run_with_runpy(kind, target)
        has_succeeded = True
    except BaseException as error:
        _exit_code = exit_code_of(error)
        has_succeeded = _exit_code == 0
        # A process that the script has forked comes here as well: its failure is not this worker's.
        _record(error, error_file if os.getpid() == pid else None)
        _hide_our_frames(error)
        raise


def _plan_breakpoints() -> None:
    """Let `breakpoint()` say how it is used where pdb could read nothing."""
    rank = os.environ.get("RANK")
    if os.environ.get("LAUNCHER_STDIN_RANK", rank) != rank:
        sys.breakpointhook = _break


def _break(*args: Any, **options: Any) -> Any:
    from launcher.worker.debugger import pass_by

    return pass_by(*args, **options)


def _settle() -> None:
    """Bring to rest what libraries still do when the script has done everything at its exit.

    Without this, a script that did all its work can still die in the last millisecond (see
    worker/threads.py).
    """
    if "torch.distributed" in sys.modules:
        _wait_until_idle()
    if "mpi4py.MPI" in sys.modules:
        _end_mpi(sys.modules["mpi4py.MPI"])


def _end_mpi(mpi: Any) -> None:
    """Let a rank of MPI end as its script has.

    mpi4py would finalise MPI at the very end of the interpreter, which a forked worker leaves out
    (worker/quick_exit.py). And after a failure that waits for ranks that wait for this one.
    """
    if not mpi.Is_initialized() or mpi.Is_finalized():
        return
    if has_succeeded and sys.modules["mpi4py"].rc.finalize is not False:
        mpi.Finalize()
    elif _exit_code and "LAUNCHER_RUN_MARK" in os.environ:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # it is closed, None, or something of the script's
                pass
        os._exit(_exit_code)


def _step_aside_for(first_path: str) -> None:
    """Forget what we have imported where the user's folder has a module of that name.

    Theirs must win, as under python.
    """
    if os.path.abspath(first_path) == _PACKAGE_PARENT:
        return
    try:
        names = {name.removesuffix(".py") for name in os.listdir(first_path or ".")}
    except OSError:
        return
    # Asked name by name: to go through sys.modules copies, in a forked worker, its pages.
    for root in [name for name in names - LOADED_BY_PYTHON if name in sys.modules]:
        is_theirs = any(
            os.path.isfile(os.path.join(first_path, *path))
            for path in ((f"{root}.py",), (root, "__init__.py"))
        )
        # What is built in or frozen comes before any folder.
        if is_theirs and root not in sys.builtin_module_names and not _imp.is_frozen(root):
            for module in [
                name for name in sys.modules if name == root or name.startswith(f"{root}.")
            ]:
                del sys.modules[module]


def _run_script(path: str) -> None:
    absolute = _absolute(path)
    code, is_compiled = _load_code(absolute)
    main = ModuleType("__main__")
    namespace: dict[str, Any] = main.__dict__
    loader = loaders.SourcelessFileLoader if is_compiled else loaders.SourceFileLoader
    namespace.update(
        __file__=absolute,
        __loader__=loader("__main__", absolute),
        __builtins__=sys.modules["builtins"],
        __cached__=None,
    )
    if sys.version_info < (3, 14):
        namespace["__annotations__"] = {}
    sys.modules["__main__"] = main
    exec(code, namespace)


def _load_code(path: str) -> tuple[Any, bool]:
    """Return the program's code, and whether it was compiled before.

    Python knows that by name or by content.
    """
    with io.open_code(path) as file:
        data = file.read()
    magic = loaders.MAGIC_NUMBER
    if not path.endswith(".pyc") and data[:2] != magic[:2]:
        return compile(data, path, "exec", dont_inherit=True), False
    if data[:4] != magic:
        raise RuntimeError("Bad magic number in .pyc file")
    import marshal

    return marshal.loads(data[16:]), True


def _run_with_runpy(kind: str, target: str) -> None:
    # The very function that the interpreter calls for `python -m`; it fills today's `__main__`.
    import runpy

    sys.modules["__main__"] = ModuleType("__main__")
    sys.modules["__main__"].__dict__["__builtins__"] = sys.modules["builtins"]
    if kind == "module":
        runpy._run_module_as_main(target)  # type: ignore[attr-defined]
    else:
        runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined]


def _is_ours(filename: str) -> bool:
    ours = (_OUR_DIRECTORY + os.sep, "<frozen runpy>")
    return filename.startswith(ours) or filename.endswith(os.sep + "runpy.py")


def _without_our_frames(trace: TracebackType | None) -> TracebackType | None:
    first = trace
    while first is not None and _is_ours(first.tb_frame.f_code.co_filename):
        first = first.tb_next
    return first


def _hide_our_frames(error: BaseException) -> None:
    """Let the traceback that python prints at the end begin with the user's code."""
    hook = sys.excepthook

    def print_without_our_frames(
        kind: type[BaseException], value: BaseException, trace: TracebackType | None
    ) -> None:
        trimmed = _without_our_frames(trace)
        hook(kind, value.with_traceback(trimmed), trimmed)

    sys.excepthook = print_without_our_frames


def _record(error: BaseException, error_file: str | None) -> None:
    """Write the error file. Never raises: the user's exception is what matters."""
    if error_file is None or exit_code_of(error) == 0:
        return
    try:
        write_whole(error_file, encode(make_worker_error(error)))
    except Exception:  # too deep a recursion, say: the report does without
        return


def make_worker_error(error: BaseException) -> WorkerError:
    """Return what there is to say of an exception that has come through `run`, at this moment."""
    moment = time.monotonic_ns()
    return WorkerError(
        type=_class_name(type(error)),
        message=_cut(_read_message(error)),
        traceback="" if isinstance(error, SystemExit) else _cut(_format(error)),
        monotonic_ns=moment,
        used_mpi="mpi4py.MPI" in sys.modules,
        exit_code=exit_code_of(error),
    )


def _read_message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"


def _class_name(kind: type[BaseException]) -> str:
    return (
        kind.__qualname__
        if kind.__module__ in ("builtins", "__main__")
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _format(error: BaseException) -> str:
    """Return the traceback as python prints it, and by python itself.

    `traceback` may be a module of the user's.
    """
    trimmed = _without_our_frames(error.__traceback__)
    old_trace, old_stderr = error.__traceback__, sys.stderr
    sys.stderr = text = io.StringIO()
    try:
        sys.__excepthook__(type(error), error.with_traceback(trimmed), trimmed)
    finally:
        sys.stderr = old_stderr
        error.__traceback__ = old_trace
    return text.getvalue()


def _cut(text: str) -> str:
    if len(text) <= _MAX_TEXT:
        return text
    half = _MAX_TEXT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
