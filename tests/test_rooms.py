"""The rooms of the launcher: one table says which room may name which.

Counted is every import: at the top of a file, inside a function, and for type checkers only. What
only one module may name, and what the supervisor must never import, is checked here too.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.imports import Package, between_rooms, circles

ROOT = Path(__file__).resolve().parents[1]
LAUNCHER = Package(ROOT / "launcher")

# Room -> the rooms, and the files beside them, that it may name. These files name nobody, but that
# anybody may name `named`.
WORDS = {"errors", "events", "exits", "named", "ranks"}
ROOMS = {
    **dict.fromkeys(WORDS, ""),
    "contract": "ranks",
    "system": "errors events",
    "starters": "errors ranks",
    "options": "errors ranks",
    "stats": "contract diagnosis system",
    "runs": "contract system",
    "worker": "contract errors exits ranks starters system",
    "horovod": "events ranks system",
    "diagnosis": "contract errors exits ranks system",
    "plan": "contract errors horovod options ranks runs starters system",
    "output": "plan ranks system",
    "record": (
        "__init__ contract diagnosis errors events exits nodes options output plan runs system"
    ),
    "nodes": "contract diagnosis errors events exits horovod plan ranks system",
    "engines": "errors events exits nodes options output plan runs starters system",
    "function": "diagnosis errors options plan system worker",
    "attached": "contract errors events exits options plan ranks starters system worker",
    "start": "contract errors events exits output plan system",
    "attempt": (
        "attached contract diagnosis events exits horovod nodes output plan ranks record start"
        " stats system"
    ),
    "ctl": ("attempt diagnosis errors events nodes options output plan ranks runs stats system"),
    "jobs": "__init__ engines errors system",
}

# The entries, which may name anybody: what is run, the page that tells the story, the public names.
ENTRIES = {"__init__", "__main__", "cli", "supervisor"}

# Imported by the supervisor, each of these would cost memory, time, or threads.
NEVER_IN_THE_SUPERVISOR = {
    *("asyncio", "multiprocessing", "numpy", "torch", "torchvision", "horovod", "mpi4py")
}

# Third-party packages, and the modules that may name them.
THIRD_PARTY = {
    "torch": {
        f"launcher.worker.{name}" for name in ("dist", "exchange", "gradients", "reductions")
    },
    "horovod": {"launcher.worker.horovod_group"},
    "mpi4py": {
        *("launcher.attached.in_place", "launcher.worker.agreement", "launcher.worker.mpi_world")
    },
    "psutil": set(),
    "pynvml": {"launcher.stats.gpu"},
    "cloudpickle": {"launcher.function.launch", "launcher.worker.call"},
    "shtab": {"launcher.options.help"},
    "yaml": {"launcher.jobs.conda"},
    "pathspec": {"launcher.jobs.ignore"},
    "mlflow": {"launcher.jobs.cli.to_mlflow"},
}


def test_every_room_stands_in_the_table() -> None:
    rooms = {LAUNCHER.room_of(name) for name in LAUNCHER.sources}
    assert rooms == set(ROOMS) | ENTRIES


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_names_only_those_that_it_may(room: str) -> None:
    allowed = {room, "named", *ROOMS[room].split()}
    wrong = [
        f"{name}:{item.line} names {item.target}"
        for name in LAUNCHER.sources
        if LAUNCHER.room_of(name) == room
        for item in LAUNCHER.imports(name)
        if item.target in LAUNCHER.sources and LAUNCHER.room_of(item.target) not in allowed
    ]
    assert wrong == []


def test_the_table_allows_nothing_that_nobody_needs() -> None:
    needed = between_rooms(LAUNCHER)
    unused = {room: sorted(set(ROOMS[room].split()) - needed[room]) for room in ROOMS}
    assert {room: names for room, names in unused.items() if names} == {}


def test_there_are_no_circles() -> None:
    assert circles(between_rooms(LAUNCHER)) == []
    assert circles(LAUNCHER.arrows(lazy=False)) == []
    # The objects of the run layer lead to each other, a run to its experiment and an experiment to
    # its runs, as those of the SDK do whose shape they have: there, only loading has no circle.
    others = {name for name in LAUNCHER.sources if LAUNCHER.room_of(name) != "jobs"}
    assert (
        circles({name: to & others for name, to in LAUNCHER.arrows().items() if name in others})
        == []
    )


@pytest.mark.parametrize("room", sorted(set(ROOMS) - WORDS))
def test_the_init_file_of_a_room_holds_one_docstring(room: str) -> None:
    body = LAUNCHER.trees[f"launcher.{room}"].body
    if room in ("worker", "jobs"):  # the helpers for scripts that want no more than their rank
        return
    assert len(body) == 1 and isinstance(body[0], ast.Expr)


@pytest.mark.parametrize("name", LAUNCHER.sources)
def test_third_party_packages_are_named_only_where_they_may_be(name: str) -> None:
    roots = {item.target.partition(".")[0] for item in LAUNCHER.imports(name)}
    allowed = {package for package, where in THIRD_PARTY.items() if name in where}
    assert roots & set(THIRD_PARTY) <= allowed


def test_the_supervisor_never_imports_what_is_heavy() -> None:
    reached, waiting = set(), ["launcher.supervisor", "launcher.cli"]
    loaded = LAUNCHER.arrows(lazy=False)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(loaded[name])
    named = {item.target.partition(".")[0] for name in reached for item in LAUNCHER.imports(name)}
    assert named & NEVER_IN_THE_SUPERVISOR == set()
    assert {name for name in reached if LAUNCHER.room_of(name) == "worker"} == set()


@pytest.mark.parametrize("name", LAUNCHER.sources)
def test_only_commands_print_and_exit(name: str) -> None:
    calls = [node for node in ast.walk(LAUNCHER.trees[name]) if isinstance(node, ast.Call)]
    printed = [
        call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"
    ]
    exits = [call.lineno for call in calls if ast.unparse(call.func) == "sys.exit"]
    commands = {"launcher.__main__", "launcher.cli", "launcher.ctl.__main__"}
    commands.add("launcher.jobs.__main__")
    # What runs inside a worker talks to the worker's own terminal: ctx.print. Who waits for a run
    # in a notebook reads it there.
    speakers = {"launcher.worker.context", "launcher.jobs.screen"}
    assert not printed or name in commands | speakers, f"prints: {printed}"
    assert not exits or name in {*commands, "launcher.worker.entry"}, f"exits: {exits}"


def test_tuples_are_made_without_the_compiler() -> None:
    compiled = [
        name
        for name, path in LAUNCHER.sources.items()
        if LAUNCHER.room_of(name) not in ("jobs", "named")
        and re.search(r"^from typing import .*\bNamedTuple\b", path.read_text(), re.MULTILINE)
    ]
    assert compiled == []
