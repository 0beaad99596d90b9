"""Launcher and runtime library for distributed PyTorch training: the public names.

Owns the list of public names and where each of them lives, nothing else. Every worker process
imports this package, so all names are resolved at first use (PEP 562): `import launcher` loads no
other module.
"""

# A constant that type checkers know; importing it from typing would cost every worker 5 ms.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.diagnosis.report import LaunchResult, WorkerFailed
    from launcher.errors import LauncherError, SpawnError, UsageError
    from launcher.function.launch import launch
    from launcher.options.spec import LaunchSpec
    from launcher.worker.context import Context, init

__version__ = "0.1.0"

__all__ = [
    "Context",
    "LaunchResult",
    "LaunchSpec",
    "LauncherError",
    "SpawnError",
    "UsageError",
    "WorkerFailed",
    "__version__",
    "init",
    "launch",
]

_HOME = {
    "Context": "launcher.worker.context",
    "LaunchResult": "launcher.diagnosis.report",
    "LaunchSpec": "launcher.options.spec",
    "LauncherError": "launcher.errors",
    "SpawnError": "launcher.errors",
    "UsageError": "launcher.errors",
    "WorkerFailed": "launcher.diagnosis.report",
    "init": "launcher.worker.context",
    "launch": "launcher.function.launch",
}


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(home), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
