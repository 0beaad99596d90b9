"""Which modules a fork server may import before it forks: the heavy ones of the script itself.

The script's source, and the source of the local modules that it imports, is parsed, never run. Only
modules that are known to be heavy and safe to share are preloaded, plus what --preload names. Also
finds the reason not to: a script that sets variables which libraries read while they load
(OMP_NUM_THREADS, say) must set them before that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from launcher.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Heavy to import, and fine to share between forked processes.
_SHARED_PACKAGES = frozenset(
    (
        "PIL",
        "einops",
        "ignite",
        "numpy",
        "pandas",
        "safetensors",
        "scipy",
        "torch",
        "torchaudio",
        "torchvision",
        "tqdm",
    )
)

# Not preloaded themselves, but whoever imports them will need torch. Lightning asks for its rank
# while it is loaded, and keeps it; accelerate, timm and transformers read variables then that
# scripts set, HF_HOME say.
_TORCH_USERS = frozenset(
    (
        "accelerate",
        "deepspeed",
        "diffusers",
        "horovod",
        "launcher",
        "lightning",
        "peft",
        "pytorch_lightning",
        "timm",
        "torchmetrics",
        "transformers",
    )
)

# Always wanted together with torch: every rank of a distributed script loads it.
_WITH_TORCH = ("torch", "torch.distributed")
# What these load in every rank once they are used, of what may be loaded before the fork: Horovod
# starts its threads in hvd.init(), and launcher.init() asks for the rank when it is called.
_LATER = {
    "horovod": ("horovod.torch",),
    "launcher": ("launcher.worker.context", "launcher.worker.dist"),
}

# The first optimizer that is made, or the first DistributedDataParallel, loads torch's compiler:
# 900 modules, a second or more. A script that mentions one of these names will do that in every
# rank, so it is loaded once as well.
_COMPILER = "torch._dynamo"
_COMPILER_USERS = frozenset(
    (
        "optim",
        "DistributedDataParallel",
        "DDP",
        "FullyShardedDataParallel",
        "FSDP",
        "fully_shard",
        "compile",
        "wrap_optimizer",
    )
)

# Read when a library is loaded, by their beginnings; a script that sets them must come first.
_READ_WHILE_LOADING = (
    *(
        "OMP_",
        "GOMP_",
        "KMP_",
        "MKL_",
        "OPENBLAS_",
        "NUMEXPR_",
        "DNNL_",
        "ONEDNN_",
        "TORCH_",
        "PYTORCH_",
    ),
    *("NPY_", "NUMPY_", "SCIPY_", "TQDM_"),
)

_MAX_FILES = 300
_MAX_SOURCE_BYTES = 2 << 20

# This is ast.PyCF_ONLY_AST, without importing ast.
_PARSE_ONLY = 0x400


class ScanResult(NamedTuple):
    """What the source says."""

    modules: tuple[str, ...]
    # "train.py sets OMP_NUM_THREADS before it imports torch", or "".
    obstacle: str


class _Import(NamedTuple):
    module: str  # absolute dotted name
    names: tuple[str, ...]  # of `from module import names`
    line: int


class _Setting(NamedTuple):
    mapping: str  # last name of what the item is set in: "environ" of `os.environ`
    variable: str
    line: int


class _Source(NamedTuple):
    """What one file says."""

    imports: list[_Import]
    # Items that it sets in mappings, and the names that it has for the environment.
    settings: list[_Setting]
    environs: set[str]
    # All names and attributes that occur.
    words: set[str]


def scan(kind: str, target: str) -> ScanResult:
    """Find what the program imports. `sys.path` must be the program's own."""
    first = _find_source(kind, target)
    if first is None:
        return ScanResult((), "")
    modules: dict[str, None] = {}
    words: set[str] = set()
    waiting = [first]
    seen = {first[0]}
    while waiting and len(seen) <= _MAX_FILES:
        path, package = waiting.pop(0)
        source = _read_source(path, package)
        words |= source.words
        shared = [
            item for item in source.imports if _root(item.module) in _SHARED_PACKAGES | _TORCH_USERS
        ]
        obstacle = _find_obstacle(path, source, shared)
        if obstacle:
            return ScanResult((), obstacle)
        for item in shared:
            modules.update(dict.fromkeys(_to_preload(item)))
        for found in _local_sources(source.imports, first[1]):
            if found[0] not in seen:
                seen.add(found[0])
                waiting.append(found)
    if "torch" in modules and words & _COMPILER_USERS:
        modules[_COMPILER] = None
    return ScanResult(tuple(modules), "")


def _root(module: str) -> str:
    return module.partition(".")[0]


def _find_obstacle(path: str, source: _Source, shared: list[_Import]) -> str:
    first_import = min((item.line for item in shared), default=sys.maxsize)
    early = next(
        (
            setting.variable
            for setting in source.settings
            if setting.mapping in source.environs and setting.line < first_import
        ),
        None,
    )
    name = os.path.basename(path)
    return f"{name} sets {early}, which must happen before imports" if early else ""


def _to_preload(item: _Import) -> list[str]:
    root = _root(item.module)
    if item.module.startswith("launcher.jobs") or (root, *item.names) == ("launcher", "jobs"):
        return []  # what logs to the history of runs need not use torch
    if root in _TORCH_USERS:
        return [*_WITH_TORCH, *_LATER.get(root, ())]
    # `from torchvision import models`: the name may be a module; import_modules tries, and ignores
    # what is none.
    names = [item.module, *(f"{item.module}.{name}" for name in item.names if name != "*")]
    return [*_WITH_TORCH, *names] if root in ("torch", "ignite") else names


def _find_source(kind: str, target: str) -> tuple[str, str] | None:
    """Return (source file, package name for relative imports) of the program."""
    if kind in ("script", "run_path"):
        return target, ""
    if kind == "package":
        main = os.path.join(target, "__main__.py")
        return (main, "") if os.path.isfile(main) else None
    found = _find_module(target)
    if found is not None and found[0].endswith("__init__.py"):
        return os.path.join(os.path.dirname(found[0]), "__main__.py"), target
    return found


def _find_module(name: str) -> tuple[str, str] | None:
    """Find a module's source by looking at files only.

    Importing parents would run user code in the fork server.
    """
    relative = name.replace(".", os.sep)
    for entry in sys.path:
        base = os.path.join(entry or os.getcwd(), relative)
        if os.path.isfile(os.path.join(base, "__init__.py")):
            return os.path.join(base, "__init__.py"), name
        if os.path.isfile(base + ".py"):
            return base + ".py", name.rpartition(".")[0]
    return None


def _is_installed(path: str) -> bool:
    return (
        "site-packages" in path
        or "dist-packages" in path
        or path.startswith(os.path.dirname(os.__file__) + os.sep)
    )


def _local_sources(imports: list[_Import], own_package: str) -> Iterator[tuple[str, str]]:
    """Yield the sources of imported modules that are the user's own, parents included.

    Also of an installed `-m` package.
    """
    for item in imports:
        if (
            _root(item.module) in sys.stdlib_module_names
            or _root(item.module) in _SHARED_PACKAGES | _TORCH_USERS
        ):
            continue
        parts = item.module.split(".")
        names = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
        names.extend(f"{item.module}.{name}" for name in item.names)
        for name in names:
            found = _find_module(name)
            if found is not None and (
                _root(name) == _root(own_package) or not _is_installed(found[0])
            ):
                yield found


def _read_source(path: str, package: str) -> _Source:
    source = _Source([], [], {"environ"}, set())
    try:
        with open(path, "rb") as file:
            tree = compile(
                file.read(_MAX_SOURCE_BYTES), path, "exec", _PARSE_ONLY, dont_inherit=True
            )
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return source  # the script will tell its user
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        _note(node, package, source)
        for field in node._fields:
            value = getattr(node, field, None)
            children = value if isinstance(value, list) else [value]
            waiting.extend(child for child in children if hasattr(child, "_fields"))
    return source


def _note(node: Any, package: str, source: _Source) -> None:
    """Keep what one node of the syntax tree says, if it says anything that matters here."""
    kind = type(node).__name__
    if kind == "Name":
        source.words.add(node.id)
    elif kind == "Attribute":
        source.words.add(node.attr)
    elif kind == "alias":
        source.words.update(node.name.split("."))
    elif kind == "Import":
        source.imports.extend(_Import(alias.name, (), node.lineno) for alias in node.names)
    elif kind == "ImportFrom":
        module = _absolute(node.module or "", node.level, package)
        source.words.update(module.split("."))
        source.environs.update(
            alias.asname for alias in node.names if alias.name == "environ" and alias.asname
        )
        if module:
            source.imports.append(
                _Import(module, tuple(alias.name for alias in node.names), node.lineno)
            )
    elif kind in ("Assign", "AugAssign", "Call"):
        if kind == "Assign" and _last_name(node.value) == "environ":
            source.environs.update(map(_last_name, node.targets))
        source.settings.extend(_find_settings(kind, node))


def _last_name(node: Any) -> str:
    """Return `b` of the expression `a.b`, a name itself, and "" of anything else."""
    return str(getattr(node, "attr", "") or getattr(node, "id", ""))


def _absolute(module: str, level: int, package: str) -> str:
    if level == 0:
        return module
    parts = package.split(".") if package else []
    kept = parts[: len(parts) - level + 1]
    return ".".join([*kept, module] if module else kept)


def _find_settings(kind: str, node: Any) -> list[_Setting]:
    """Return the variables that a statement sets, if its mapping should be the environment.

    Known are `environ["X"] = ...`, `environ.setdefault("X", ...)`, `putenv("X", ...)`,
    `environ.update({"X": ...})`, `environ.update(X=...)` and `environ |= {"X": ...}`.
    """
    # Mapping and key as nodes of the syntax tree; no mapping where it can only be the environment.
    found: list[tuple[Any, Any]] = []
    if kind == "Assign":
        found = [
            (target.value, target.slice)
            for target in node.targets
            if type(target).__name__ == "Subscript"
        ]
    elif kind == "AugAssign":
        found = [(node.target, key) for key in getattr(node.value, "keys", [])]
    elif _last_name(node.func) == "putenv":
        found = [(None, key) for key in node.args[:1]]
    elif getattr(node.func, "attr", "") == "setdefault":
        found = [(node.func.value, key) for key in node.args[:1]]
    elif getattr(node.func, "attr", "") == "update":
        keys = [key for mapping in node.args for key in getattr(mapping, "keys", [])]
        found = [(node.func.value, key) for key in (*keys, *node.keywords)]
    return [
        _Setting(_last_name(mapping) if mapping else "environ", name, node.lineno)
        for mapping, key in found
        if (name := _read_key(key)).startswith(_READ_WHILE_LOADING)
    ]


def _read_key(key: Any) -> str:
    """Return a key that is written as a text or as a keyword; "" for any other."""
    name = key.arg if type(key).__name__ == "keyword" else getattr(key, "value", None)
    return name if isinstance(name, str) else ""


def import_modules(names: list[str], forced: list[str]) -> list[str]:
    """Import what can be imported, and return what was.

    A module that fails will fail again, in the script, and be seen.

    A name in the script's own folder is left alone, unless --preload asks for it: it is the user's
    code, and runs in each rank.
    """
    import importlib

    done: list[str] = []
    for name in [*names, *forced]:
        if name not in forced and (_is_users_own(_root(name)) or not _may_be_module(name)):
            continue
        try:
            importlib.import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException:
            continue
        done.append(name)
    return done


def _is_users_own(root: str) -> bool:
    """Tell whether the script's folder, where python looks first, has a module of this name."""
    found = _find_module(root)
    return (
        found is not None
        and bool(sys.path)
        and found[0].startswith(os.path.join(sys.path[0], root))
    )


def _may_be_module(name: str) -> bool:
    """Tell whether `a.b` may be a module: not when the loaded `a` has another kind of `b`."""
    parent, _, leaf = name.rpartition(".")
    value = getattr(sys.modules.get(parent), leaf, None)
    return value is None or type(value).__name__ == "module"
