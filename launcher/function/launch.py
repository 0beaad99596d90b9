"""`launcher.launch()`: run a function or a command on several workers, from any program.

Owns the way there and back: the launcher runs as a child process of its own, so that nothing of the
caller (event loops, threads, a CUDA context, signal handlers) is forked or touched; the function
travels in a private folder, and the results come back in it. Must not know how workers are started.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from reprlib import repr as short_repr
from typing import Any, TypeVar, overload

from launcher.diagnosis.report import LaunchResult, WorkerFailed
from launcher.errors import LauncherError, UsageError
from launcher.function import child
from launcher.options.arguments import read_arguments
from launcher.options.spec import LaunchSpec
from launcher.system.machine import usable_cpus, visible_gpus
from launcher.worker import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType

T = TypeVar("T")
Command = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

# What a warm start imports once for all workers, if the function refers to it.
_HEAVY = ("numpy", "torch", "torchvision")

# What these modules read while they load: a function that sets one must import them itself.
_READ_WHILE_LOADING = ("OMP_", "MKL_", "OPENBLAS_", "TORCH_", "PYTORCH_")


@overload
def launch(
    function: Callable[..., T],
    args: Sequence[object] = ...,
    kwargs: Mapping[str, object] | None = ...,
    *,
    nproc_per_node: int | str = ...,
    start: str = ...,
    max_restarts: int = ...,
    devices: Sequence[int | str] | None = ...,
    backend: str = ...,
    run_dir: str | os.PathLike[str] | None = ...,
    env: Mapping[str, str] | None = ...,
    timeout_s: float | None = ...,
) -> dict[int, T]: ...


@overload
def launch(
    function: Command,
    args: Sequence[object] = ...,
    kwargs: None = ...,
    *,
    nproc_per_node: int | str = ...,
    start: str = ...,
    max_restarts: int = ...,
    devices: Sequence[int | str] | None = ...,
    backend: str = ...,
    run_dir: str | os.PathLike[str] | None = ...,
    env: Mapping[str, str] | None = ...,
    timeout_s: float | None = ...,
) -> dict[int, None]: ...


def launch(
    function: Callable[..., Any] | Command,
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    *,
    nproc_per_node: int | str = 1,
    start: str = "auto",
    max_restarts: int = 0,
    devices: Sequence[int | str] | None = None,
    backend: str = "auto",
    run_dir: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> dict[int, Any]:
    """Run a function or a command on workers of this machine; return their results by rank.

    It returns when all of them have ended.

    function: is called in every worker with `args` and `kwargs`; it may be defined in a notebook or
        in `__main__`, and calls launcher.init() itself if it needs the other ranks. It, its
        arguments and what it returns are sent by cloudpickle. Or a command: the path of a script,
        or a list of what would be typed behind `python -m launcher` (["train.py", "--lr", "0.1"],
        ["-m", "package.module"]); then each rank's result is None.
    args: a sequence: the positional arguments of the function, or more words of the command.
    kwargs: the keyword arguments of the function; none for a command.
    nproc_per_node, start, max_restarts, devices, backend, run_dir: as the options of the same
        names.
    env: variables for the workers besides those of this process.
    timeout_s: seconds after which the workers are stopped; None for no limit.

    What the workers print appears in sys.stdout and sys.stderr as they are now, also in a
    notebook's cell. Ctrl-C stops the workers, a second one at once. When the caller dies, they are
    stopped too.

    Raises WorkerFailed with the failure report when a worker fails, UsageError for a bad argument
    or a script that is not there, SpawnError when a command or interpreter cannot be started,
    TimeoutError after timeout_s, and LauncherError when the function or a result cannot be sent.
    """
    _check_call(function, args, kwargs)
    options = [
        *("--nproc-per-node", str(nproc_per_node)),
        *("--start", start),
        *("--max-restarts", str(max_restarts)),
        *("--backend", backend),
    ]
    if devices is not None:
        options += ["--devices", ",".join(map(str, devices))]
    if run_dir is not None:
        options += ["--run-dir", os.fspath(run_dir)]
    # A folder for us alone: its mode is 0700.
    with tempfile.TemporaryDirectory(prefix="launcher-", ignore_cleanup_errors=True) as folder:
        if callable(function):
            command = _send_call(folder, function, tuple(args), dict(kwargs or {}))
            options += make_preload_options(function) if start != "spawn" else []
        else:
            command = _as_command(function, args, kwargs)
        argv = [*options, *command]
        num_ranks = _check(argv, {**os.environ, **(env or {})})
        _run(argv, folder, dict(env or {}), timeout_s)
        if not callable(function):
            return dict.fromkeys(range(num_ranks))
        return {rank: _receive(folder, rank) for rank in range(num_ranks)}


def _check_call(function: object, args: object, kwargs: object) -> None:
    """Raise UsageError for what is no function and no command, and for arguments that are none."""
    if not (callable(function) or isinstance(function, os.PathLike) or _is_iterable(function)):
        raise UsageError(
            f"launch({short_repr(function)}): a function is needed, or a command: the path of a"
            " script, or a list of what would be typed behind `python -m launcher`.",
            hint='Use for example launch(["train.py", "--lr", "0.1"]).',
        )
    if isinstance(args, (str, bytes, bytearray)):
        problem = ", and not a text: each of its characters would be an argument"
    elif isinstance(args, Mapping):
        problem = ", and not a mapping: only its keys would be passed"
    elif not _is_iterable(args):
        problem = ""
    else:
        if callable(function):
            _check_kwargs(_name(function), kwargs)
        return
    if args is None:
        hint = "Leave it out."
    elif not callable(function):
        hint = f'Use for example launch({function!r}, ["--lr", "0.1"]).'
    elif isinstance(args, Mapping):
        hint = f"Type: launch({_name(function)}, kwargs={short_repr(args)})"
    else:
        hint = f"Type: launch({_name(function)}, ({short_repr(args)},))"
    raise UsageError(f"args={short_repr(args)} must be a list or a tuple{problem}.", hint=hint)


def _check_kwargs(name: str, kwargs: object) -> None:
    if kwargs is None:
        return
    if not isinstance(kwargs, Mapping):
        problem = "must be a mapping of names to values"
    elif not all(isinstance(key, str) for key in kwargs):
        problem = "must have texts as its keys: they are names of arguments"
    else:
        return
    hint = f"Use for example launch({name}, kwargs={{'lr': 0.1}})."
    raise UsageError(f"kwargs={short_repr(kwargs)} {problem}.", hint=hint)


def _is_iterable(value: object) -> bool:
    """Ask the value itself: an array without a dimension has the method, and refuses."""
    try:
        iter(value)  # type: ignore[call-overload]
    except TypeError:
        return False
    return True


def _as_command(
    command: Command, args: Sequence[object], kwargs: Mapping[str, object] | None
) -> list[str]:
    if kwargs:
        raise UsageError(
            f"kwargs={short_repr(kwargs)} go to a function; {command!r} is a command.",
            hint="Use args.",
        )
    words = [command] if isinstance(command, (str, os.PathLike)) else list(command)
    return [os.fspath(word) for word in words] + [str(arg) for arg in args]


def _check(argv: list[str], environ: Mapping[str, str]) -> int:
    """Raise for a bad argument here, not only in the child process; return the number of ranks."""
    given, command = read_arguments(LaunchSpec, argv)
    if not command:
        raise UsageError(
            "launch() was given no script.", hint='Use for example launch(["train.py"]).'
        )
    spec = LaunchSpec.from_sources(
        given, environ, script=command[0], script_args=tuple(command[1:])
    )
    return spec.local_world_size(usable_cpus, lambda: len(visible_gpus(environ)))


def _send_call(
    folder: str, function: Callable[..., Any], args: tuple[object, ...], kwargs: dict[str, object]
) -> list[str]:
    """Put the function and its arguments into the folder; return the command that calls it."""
    try:
        import cloudpickle
    except ModuleNotFoundError:
        hint = f"Type: {sys.executable} -m pip install cloudpickle"
        raise LauncherError(
            "launch() sends functions with cloudpickle, which is not installed.", hint=hint
        ) from None
    try:
        data = cloudpickle.dumps((function, args, kwargs))
    except Exception as error:  # whatever the objects' own code raises
        culprit = _find_culprit(cloudpickle.dumps, function, args, kwargs)
        raise LauncherError(
            f"{culprit} cannot be sent to the workers: {error}",
            hint="Make it inside the function, or pass what it is made of.",
        ) from error
    path = [os.path.abspath(entry) if entry else os.getcwd() for entry in sys.path]
    call.write_private(os.path.join(folder, call.PATH_FILE), pickle.dumps(path))
    call.write_private(os.path.join(folder, call.CALL_FILE), data)
    return ["-m", call.__name__, folder]


def _find_culprit(
    dumps: Callable[[object], bytes],
    function: Callable[..., Any],
    args: Sequence[object],
    kwargs: Mapping[str, object],
) -> str:
    """Name the one of them that cannot be pickled."""
    named = [*enumerate(args), *((f"{name}=", value) for name, value in kwargs.items())]
    for name, value in named:
        try:
            dumps(value)
        except Exception:
            return f"Argument {name} ({type(value).__qualname__})"
    return f"The function {_name(function)}, or a value that it refers to,"


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", function))


def make_preload_options(function: Callable[..., Any]) -> list[str]:
    """Return the option that names the heavy modules to which code and globals refer."""
    code: CodeType | None = getattr(function, "__code__", None)
    if code is None:
        return []
    words: set[str] = set()
    waiting = [code]
    while waiting:
        current = waiting.pop()
        words.update(current.co_names)
        for constant in current.co_consts:
            if isinstance(constant, str) and constant.startswith(_READ_WHILE_LOADING):
                return []
            if hasattr(constant, "co_names"):  # a function inside the function
                waiting.append(constant)
    values = getattr(function, "__globals__", {})
    for word in words & values.keys():  # `nn` of `from torch import nn`, say
        module = getattr(values[word], "__module__", None) or getattr(
            values[word], "__name__", None
        )
        words = words | {str(module).partition(".")[0]}
    if words >= {"launcher", "init"}:
        words = words | {"torch"}
    modules = [name for name in _HEAVY if name in words]
    return ["--preload", ",".join(modules)] if modules else []


def _run(argv: list[str], folder: str, env: dict[str, str], timeout_s: float | None) -> None:
    """Run the launcher as a child process; raise what it says of its end if that was a failure."""
    result_path = os.path.join(folder, "outcome.json")
    code = child.run(argv, {**env, "LAUNCHER_RESULT_FILE": result_path}, timeout_s)
    try:
        with open(result_path, encoding="utf-8") as file:
            result = LaunchResult.from_json(json.load(file))
    except FileNotFoundError:
        result = LaunchResult(code or 1)
    if result.exit_code == 0 and code == 0:
        return
    if result.report is not None:
        raise WorkerFailed(result.report)
    if result.error is not None:
        raise result.error
    raise LauncherError(
        f"The launcher ended with exit code {code} and no report.",
        hint="What it printed to stderr says why.",
    )


def _receive(folder: str, rank: int) -> Any:
    try:
        with open(call.result_file(folder, rank), "rb") as file:
            return pickle.load(file)
    except FileNotFoundError:
        raise LauncherError(
            f"Rank {rank} ended without a result: the function left by sys.exit() or os._exit().",
            hint="Let it return instead.",
        ) from None
    except Exception as error:
        raise LauncherError(f"The result of rank {rank} cannot be read here: {error}") from error
