"""The parts of the launcher and the arrows between them: read from the sources, compared with what the docstrings say.

Every module states its layer. A module may import only from lower layers when it is loaded; there are no circles. What only
one module may name, and what the supervisor must never import, is checked here too.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "launcher"

# Imported by the supervisor, each of these would cost memory, time, or threads.
NEVER_IN_THE_SUPERVISOR = {"asyncio", "multiprocessing", "numpy", "torch", "torchvision", "horovod", "mpi4py"}

# Third-party packages, and the modules that may name them.
THIRD_PARTY = {
    "torch": {"launcher.worker.dist"},
    "horovod": {"launcher.worker.horovod_group"},
    "mpi4py": {"launcher.attached.agreement", "launcher.attached.script", "launcher.worker.mpi_world"},
    "psutil": set(),
    "cloudpickle": {"launcher.function.launch", "launcher.worker.call"},
    "shtab": {"launcher.options.completion"},
}

# The entries: what is run, and the package itself, whose names are resolved when they are used.
TOP = {
    "launcher",
    "launcher.__main__",
    "launcher.cli",
    "launcher.ctl.__main__",
    "launcher.worker.__main__",
    "launcher.worker.exec_command",
    *(f"launcher.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")),
}


class Import(NamedTuple):
    target: str
    line: int
    is_lazy: bool  # inside a function, or for type checkers only


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports_of(name: str) -> list[Import]:
    found: list[Import] = []

    def visit(node: ast.AST, is_lazy: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, is_lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # `from launcher import exits` names a module, `from launcher.exits import describe` does not.
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = {target if target in SOURCES else node.module for target in whole}
            found.extend(Import(target, node.lineno, is_lazy) for target in targets)
        else:
            assert not isinstance(node, ast.ImportFrom), "no relative imports here"
        inside = (
            is_lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or is_for_type_checkers(node)
        )
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(TREES[name], False)
    return found


def layer_of(name: str) -> int:
    docstring = ast.get_docstring(TREES[name]) or ""
    numbers = re.findall(r"\bLayer (\d+)\b", docstring)
    assert len(numbers) == 1 or name in TOP, f"the docstring of {name} must say `Layer N` once"
    return int(numbers[0]) if numbers else 99


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in TOP])
def test_a_module_imports_only_from_lower_layers(name: str) -> None:
    layer = layer_of(name)
    wrong = [
        f"{name}:{item.line} (layer {layer}) imports {item.target} (layer {layer_of(item.target)})"
        for item in imports_of(name)
        if item.target in SOURCES and item.target not in TOP and not item.is_lazy and layer_of(item.target) >= layer
    ]
    assert wrong == []


def test_there_are_no_circles() -> None:
    arrows = {
        name: {item.target for item in imports_of(name) if item.target in SOURCES and not item.is_lazy} for name in SOURCES
    }
    while arrows:
        leaves = {name for name, targets in arrows.items() if not targets}
        assert leaves, f"these import each other in a circle: {sorted(arrows)}"
        arrows = {name: targets - leaves for name, targets in arrows.items() if name not in leaves}


@pytest.mark.parametrize("name", SOURCES)
def test_third_party_packages_are_named_only_where_they_may_be(name: str) -> None:
    roots = {item.target.partition(".")[0] for item in imports_of(name)}
    allowed_everywhere = {package for package, where in THIRD_PARTY.items() if name in where}
    assert roots & set(THIRD_PARTY) <= allowed_everywhere


def test_the_supervisor_never_imports_what_is_heavy() -> None:
    reached, waiting = set(), ["launcher.supervisor", "launcher.cli"]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        waiting.extend(item.target for item in imports_of(name) if item.target in SOURCES and not item.is_lazy)
    named = {item.target.partition(".")[0] for name in reached for item in imports_of(name)}
    assert named & NEVER_IN_THE_SUPERVISOR == set()
    assert not {name for name in reached if name.startswith("launcher.worker.")} - {
        "launcher.worker.diagnose",
        "launcher.contract.messages",
        "launcher.worker.title",
    }, "of the worker's modules, the supervisor may know the wire format and a few names"


@pytest.mark.parametrize("name", SOURCES)
def test_only_commands_print_and_exit(name: str) -> None:
    calls = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    printed = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    exits = [call.lineno for call in calls if ast.unparse(call.func) == "sys.exit"]
    may_exit = {"launcher.__main__", "launcher.worker.__main__", "launcher.ctl.__main__", "launcher.cli"}
    # What runs inside a worker talks to the worker's own terminal: ctx.print.
    may_print = {"launcher.worker.context", "launcher.ctl.__main__"}
    assert not printed or name in may_print, f"{name} prints in line {printed}"
    assert not exits or name in may_exit, f"{name} exits in line {exits}"
