"""The program that workers are to run: its kind, whether a fork server helps it, what is wrong.

It is looked at before anything starts: eight workers that each print "No such file" help nobody.
Nothing is imported or run here: a module is searched for without importing its parents. Must not
know how workers are started.
"""

from __future__ import annotations

import os
import sys

from launcher.errors import SpawnError, UsageError
from launcher.options.option import PROG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.machinery import ModuleSpec

    from launcher.options.spec import LaunchSpec

# Exit codes, as shells use them.
_NOT_FOUND = 127
_CANNOT_EXECUTE = 126

# How many bytes of a script's first line the Linux kernel reads.
_LONGEST_INTERPRETER_LINE = 256

# How much of a script is searched for the name of Horovod, in bytes.
_SEARCHED_BYTES = 1 << 20

# Names of our stdin, which only the first worker could read.
_OUR_STDIN = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


def program_kind(spec: LaunchSpec) -> str:
    """Return how the target is run: command, module, run_path, package (folder, zip) or script."""
    if spec.no_python:
        return "command"
    if spec.module:
        return "module"
    if spec.run_path:
        return "run_path"
    return "package" if os.path.isdir(spec.script) or _is_archive(spec.script) else "script"


def _is_archive(path: str) -> bool:
    """Tell whether python would run a file as a zip archive, whatever its name."""
    if path.endswith((".py", ".pyc")) or not os.path.isfile(path):
        return False
    from zipimport import ZipImportError, zipimporter

    try:
        zipimporter(path)
    except ZipImportError:
        return False
    return True


def starts_warm(spec: LaunchSpec, num_workers: int | None = None) -> bool:
    """Tell whether to try a fork server.

    num_workers: where that is not what the spec says.

    It has nothing to offer to foreign commands, and to one worker that is started once. A wrapper
    around the interpreter must see each worker, unless a warm start is insisted on.
    """
    if program_kind(spec) == "command" or spec.start == "spawn":
        return False
    if spec.start == "warm":
        return True
    return ((num_workers or spec.nproc) != 1 or spec.max_restarts > 0) and not _is_python_wrapped()


def _is_python_wrapped() -> bool:
    """Tell whether PYTHON_EXEC names a script: it may bind each worker by its $LOCAL_RANK, say."""
    path = search_path(os.environ.get("PYTHON_EXEC", ""))
    if path is None:
        return False
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def horovod_use(spec: LaunchSpec, environ: Mapping[str, str]) -> str:
    """Return `elastic` for a program that uses hvd.elastic, `fixed` for Horovod without it, or "".

    It must be known before the ranks start: without Horovod's store, or MPI, each would train
    alone. Programs whose text does not name Horovod load nothing of its room.
    """
    if spec.backend not in ("auto", "horovod"):
        return ""
    has_script = not (spec.no_python or spec.module or spec.run_path)
    script = _read_beginning(spec.script) if has_script else b""
    if spec.backend == "auto" and b"horovod" not in script:
        return ""
    from launcher.horovod.use import find_use

    return find_use(script, environ, is_certain=spec.backend == "horovod")


def _read_beginning(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_SEARCHED_BYTES)
    except OSError:  # a folder, or a script that has gone
        return b""


def check_command(spec: LaunchSpec) -> None:
    """Raise UsageError or SpawnError when the workers could not even begin.

    The exit codes of both say which it is.
    """
    if spec.no_python:
        _check_executable(spec.script)
    elif not spec.module:
        _check_script(spec.script)
    elif not os.environ.get("PYTHON_EXEC"):  # another interpreter has modules of its own
        _check_module(spec.script)


def check_python(spec: LaunchSpec, environ: Mapping[str, str]) -> None:
    """Raise SpawnError when PYTHON_EXEC, which is to run the workers, cannot be executed."""
    python = environ.get("PYTHON_EXEC", "")
    if not python or spec.no_python:
        return
    path = search_path(python)
    if path is None:
        where = "" if os.path.dirname(python) else " in the folders of PATH"
        problem, code = f"was not found{where}", _NOT_FOUND
    elif not _is_executable(path):
        problem, code = "cannot be executed", _CANNOT_EXECUTE
    else:
        _check_interpreter(path)
        return
    raise SpawnError(
        f"The interpreter that PYTHON_EXEC={python} names {problem}.",
        exit_code=code,
        hint="To run the workers with the launcher's own interpreter, type: unset PYTHON_EXEC",
    )


def _check_script(script: str) -> None:
    if os.path.isdir(script):
        if not os.path.isfile(os.path.join(script, "__main__.py")):
            inside = sorted(name for name in os.listdir(script) if name.endswith(".py"))
            hint = f"Did you mean {os.path.join(script, inside[0])}?" if inside else ""
            raise UsageError(f"The folder {script} has no file __main__.py to run.", hint=hint)
        return
    if not os.path.exists(script):
        raise UsageError(f"There is no file {script or repr(script)}.", hint=_make_hint(script))
    # A file under our stdin is not enough: the stdin of all workers but the first is empty.
    if not os.path.isfile(script) or os.path.abspath(script) in _OUR_STDIN:
        problem = (
            f"{script} is no regular file, and every worker must be able to read it from its"
            " beginning."
        )
        raise UsageError(problem, hint="Write it to a file first.")
    try:
        with open(script, "rb") as file:
            start = file.read(_LONGEST_INTERPRETER_LINE)
    except OSError as error:
        raise UsageError(
            f"The file {script} cannot be read: {error.strerror}.", hint=f"Type: chmod +r {script}"
        ) from None
    if start.startswith(b"\x7fELF") or _is_other_language(script, start):
        command = script if os.path.dirname(script) else f"./{script}"
        raise UsageError(
            f"The file {script} is no Python file.", hint=f"Type: {PROG} --no-python {command}"
        )


def _is_other_language(script: str, start: bytes) -> bool:
    """Tell whether the first line names another interpreter and the text is no Python either."""
    first_line = start.split(b"\n", 1)[0]
    if not first_line.startswith(b"#!") or b"py" in first_line:
        return False
    # Some Python files begin as a shell script that starts Python on itself.
    try:
        with open(script, "rb") as file:
            compile(file.read(), script, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return True
    return False


def _make_hint(script: str) -> str:
    """Return what the user may have meant instead of a script that is not there."""
    if not script:
        return f"Type for example: {PROG} train.py"
    folder, name = os.path.split(script)
    if os.path.isfile(f"{script}.py"):
        return f"Did you mean {script}.py?"
    is_module_name = not folder and all(part.isidentifier() for part in name.split("."))
    if is_module_name and _find_module_problem(name) is None:
        return f"Did you mean the module? Type: {PROG} -m {name}"
    near = _find_near_file(folder or ".", name)
    if near:
        return f"Did you mean {os.path.join(folder, near)}?"
    if not folder and name.rstrip("0123456789.") == "python":
        return f"Python is started anyway: leave {name} out."
    if not folder and search_path(name):
        return f"Did you mean the command? Type: {PROG} --no-python {name}"
    if folder and not os.path.isdir(folder):
        return f"There is no folder {folder} either; the current folder is {os.getcwd()}."
    return f"The current folder is {os.getcwd()}."


def _find_near_file(folder: str, name: str) -> str | None:
    import difflib

    try:
        names = os.listdir(folder)
    except OSError:
        return None
    scripts = [n for n in names if n.endswith(".py")] if not name.startswith(".") else names
    near = difflib.get_close_matches(name, scripts, n=1) or difflib.get_close_matches(
        name, names, n=1
    )
    return near[0] if near and near[0] != name else None


def _check_module(name: str) -> None:
    problem = _find_module_problem(name)
    if problem is None:
        return
    if os.path.isfile(name):
        raise UsageError(
            f"-m needs the name of a module, and {name} is a file.", hint=f"Type: {PROG} {name}"
        )
    raise UsageError(problem, hint=f"To see what Python says: {sys.executable} -m {name}")


def _find_module_problem(name: str) -> str | None:
    """Return why `python -m name` would find nothing; None when it would, or only it can tell."""
    parts = name.split(".")
    if not all(parts):
        return f"{name!r} is no name of a module."
    found: ModuleSpec | None = None
    for depth, part in enumerate(parts):
        path = None if found is None else list(found.submodule_search_locations or [])
        parent, found = found, _find_module(part, path)
        if found is None:
            if parent is not None and _changes_its_path(parent):
                return None
            package = ".".join(parts[:depth])
            return f"{f'The package {package} has' if package else 'There is'} no module {part}."
    if found is not None and found.submodule_search_locations is not None:
        main = _find_module("__main__", list(found.submodule_search_locations))
        if main is None and not _changes_its_path(found):
            return f"The package {name} has no module __main__ and cannot be run by itself."
    return None


def _find_module(name: str, path: list[str] | None) -> ModuleSpec | None:
    """Ask the import system for a module, importing nothing.

    `path` is its package's, None on top level.
    """
    from importlib.machinery import PathFinder

    if path is not None:
        return PathFinder.find_spec(name, path)
    # Workers run with the current folder first, as under `python -m`; the supervisor does not.
    here = PathFinder.find_spec(name, [os.getcwd()])
    if here is not None and here.loader is not None:
        return here
    for finder in sys.meta_path:
        spec = finder.find_spec(name, None) if hasattr(finder, "find_spec") else None
        if spec is not None:
            return spec
    # A folder without __init__.py is a package where there is no other of its name.
    return here


def _changes_its_path(package: ModuleSpec) -> bool:
    """Tell whether a package may find modules in places that only its own code knows."""
    try:
        with open(package.origin or "", "rb") as file:
            return b"__path__" in file.read()
    except OSError:
        return False


def _check_executable(command: str) -> None:
    path = search_path(command)
    if path is None:
        problem, hint = f"The command {command or repr(command)} was not found", ""
        if os.path.isfile(command):
            hint = f"Type: {PROG} --no-python ./{command}"
        elif not os.path.dirname(command):
            problem += " in the folders of PATH"
        hint = hint or "Look for a typing error in its name."
        raise SpawnError(f"{problem}.", exit_code=_NOT_FOUND, hint=hint)
    if os.path.isdir(path):
        raise SpawnError(f"{path} is a folder, not a command.", exit_code=_CANNOT_EXECUTE)
    if not os.access(path, os.X_OK):
        raise SpawnError(
            f"The file {path} is not executable.",
            exit_code=_CANNOT_EXECUTE,
            hint=f"Type: chmod +x {path}",
        )
    _check_interpreter(path)


def search_path(command: str) -> str | None:
    """Return the file that would be executed, as execvp searches it; None when there is none."""
    if os.path.dirname(command):
        return command if os.path.exists(command) else None
    found = [os.path.join(folder, command) for folder in os.get_exec_path() if command]
    files = [path for path in found if os.path.isfile(path)]
    return next((path for path in files if _is_executable(path)), files[0] if files else None)


def _is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _check_interpreter(path: str) -> None:
    """Raise SpawnError when a script's first line names an interpreter that cannot start."""
    try:
        with open(path, "rb") as file:
            first_line = file.read(_LONGEST_INTERPRETER_LINE).split(b"\n", 1)[0]
    except OSError:  # a file that may be executed but not read: the kernel can, we cannot
        return
    words = first_line[2:].strip(b" \t").split(None if not first_line.endswith(b"\r") else b" ")
    if not first_line.startswith(b"#!") or not words:
        return
    interpreter = os.fsdecode(words[0])
    if _is_executable(interpreter):
        return
    message = (
        f"The first line of {path} names the interpreter {interpreter}, which cannot be executed."
    )
    hint = f"Correct the first line of {path}, for example to: #!/usr/bin/env bash"
    if interpreter.endswith("\r"):
        message = (
            f"The lines of {path} end as on Windows: the interpreter {interpreter!r} is not found."
        )
        hint = f"Type: sed -i 's/\\r$//' {path}"
    raise SpawnError(message, exit_code=_CANNOT_EXECUTE, hint=hint)
