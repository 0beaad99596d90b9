"""Which module of a package names which, read from the sources.

The test of the rooms compares it with a table, `scripts/rooms` counts it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple


class Import(NamedTuple):
    """One module that a source names."""

    target: str
    line: int
    # Inside a function, or for type checkers only.
    is_lazy: bool


class Package:
    """All sources below one folder, by the names of their modules."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.sources = {
            _module_name(path, folder.parent): path for path in sorted(folder.rglob("*.py"))
        }
        self.trees = {name: ast.parse(path.read_text()) for name, path in self.sources.items()}

    def imports(self, name: str) -> list[Import]:
        """Return everything that a module imports, also inside functions and for type checkers."""
        found: list[Import] = []

        def visit(node: ast.AST, is_lazy: bool) -> None:
            if isinstance(node, ast.Import):
                found.extend(Import(alias.name, node.lineno, is_lazy) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}:{node.lineno}: no relative imports here"
                # `from launcher.worker import title` names a module, `from launcher.exits import
                # describe` does not.
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = {
                    target if target in self.sources else str(node.module) for target in whole
                }
                found.extend(Import(target, node.lineno, is_lazy) for target in targets)
            inside = is_lazy or isinstance(node, _FUNCTIONS) or _is_for_type_checkers(node)
            for child in ast.iter_child_nodes(node):
                visit(child, inside)

        visit(self.trees[name], False)
        return found

    def arrows(self, *, lazy: bool = True) -> dict[str, set[str]]:
        """Return module -> the others that it names; with `lazy=False`, when it is loaded."""
        return {
            name: {
                item.target
                for item in self.imports(name)
                if item.target in self.sources and (lazy or not item.is_lazy)
            }
            - {name}
            for name in self.sources
        }

    def room_of(self, name: str) -> str:
        """Return the room of a module: its folder below the package, or the file itself."""
        parts = name.split(".")
        return parts[1] if len(parts) > 1 else "__init__"


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def _module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def circles(arrows: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the groups of names that reach each other, in alphabetical order (Tarjan's way)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in arrows.get(name, ()):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            at = stack.index(name)
            members = stack[at:]
            del stack[at:]
            if len(members) > 1:
                found.append(sorted(members))

    for name in arrows:
        if name not in index:
            visit(name)
    return found


def floors(arrows: Mapping[str, Iterable[str]]) -> int:
    """Return how many floors the house has: the longest way down, with circles taken as one."""
    member_of = {name: members[0] for members in circles(arrows) for name in members}
    joined: dict[str, set[str]] = {}
    for name, targets in arrows.items():
        home = member_of.get(name, name)
        joined.setdefault(home, set()).update(member_of.get(target, target) for target in targets)
        joined[home].discard(home)
    heights: dict[str, int] = {}

    def height(name: str) -> int:
        if name not in heights:
            heights[name] = 1 + max((height(target) for target in joined.get(name, ())), default=0)
        return heights[name]

    return max(map(height, joined), default=0)


def between_rooms(package: Package, *, lazy: bool = True) -> dict[str, set[str]]:
    """Return room -> the other rooms that it names."""
    found: dict[str, set[str]] = {package.room_of(name): set() for name in package.sources}
    for name, targets in package.arrows(lazy=lazy).items():
        room = package.room_of(name)
        found[room] |= {package.room_of(target) for target in targets} - {room}
    return found
