"""The documentation: links lead somewhere, blocks that are marked to run do run, and tables are
those of the code.

A block is marked in its first line: ```python file=NAME is saved under that name, ```sh run is run
by bash in the same folder, from top to bottom of the page; `exit=1` says that it must end with 1.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import pytest

import launcher
import launcher.worker
from launcher import errors
from launcher.diagnosis.report import FailureReport, WorkerFailed

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("benchmarks/*.md")),
]

_BLOCK = re.compile(r"^```(\w+)(?: ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Return (language, rest of the first line, text) of the page's blocks."""
    return _BLOCK.findall(page.read_text())


def runnable(page: Path) -> bool:
    return any(language == "sh" and rest.startswith("run") for language, rest, _ in blocks(page))


def anchors(page: Path) -> set[str]:
    """Return what a link may name behind `#`: the headings, as they are turned into anchors."""
    text = _BLOCK.sub("", page.read_text())
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(_BLOCK.sub("", page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{name_of(page)} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{name_of(page)} links to {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        targets = _LINK.findall(_BLOCK.sub("", page.read_text()))
        waiting += [
            (page.parent / target.partition("#")[0]).resolve()
            for target in targets
            if "://" not in target
        ]
    assert set(PAGES) - reached == set()


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=name_of)
def test_the_blocks_of_a_page_run(
    page: Path, run_command: Callable[..., object], tmp_path: Path
) -> None:
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    for language, rest, text in blocks(page):
        words = rest.split()
        for word in words:
            if word.startswith("file="):
                (tmp_path / word.removeprefix("file=")).write_text(text)
        if language == "sh" and "run" in words:
            done = run_command(["bash", "-euo", "pipefail", "-c", text], env={"PATH": path})
            wanted = 1 if "exit=1" in words else 0
            assert done.code == wanted, f"{text}\n{done.out}\n{done.err}"


# What a test types elsewhere: on hosts of the lab, which have these names, and under the engines.
# Of Kubernetes there is only what its commands are for.
PLACES = {
    "several-nodes.md": {"on=node0,node1", "on=node0", "on=node1"},
    "services.md": {"on=node0,node1"},
    "ssh.md": {"on=node1"},
    "slurm.md": {"on=slurm"},
    "mpi.md": {"on=mpirun"},
    "kubernetes.md": {"on=kubernetes"},
    "resources.md": {"run"},
}


@pytest.mark.parametrize("name", PLACES)
def test_every_command_of_a_page_about_several_nodes_is_typed_by_a_test(name: str) -> None:
    found = blocks(ROOT / "docs" / "how-to" / name)
    where = [rest for language, rest, _ in found if language == "sh" and "file=" not in rest]
    assert where and set(where) <= PLACES[name]


@pytest.mark.parametrize("page", ["option", "environment", "python"])
def test_the_generated_pages_are_current(page: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / f"make_{page}_reference"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_python_page_has_every_public_name_and_is_made_without_torch() -> None:
    code = (
        "import runpy, sys; sys.argv = ['scripts/make_python_reference', '--check']\n"
        "try: runpy.run_path(sys.argv[0])\n"
        "finally: print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr
    text = (ROOT / "docs" / "reference" / "python.md").read_text()
    documented = set(re.findall(r"^#+ (\S+)$", text, re.MULTILINE))
    documented |= set(re.findall(r"^\| `([\w.]+)(?:\(\))?` \|", text, re.MULTILINE))
    methods = {f"ctx.{name}" for name in vars(launcher.Context) if not name.startswith("_")}
    names = {f"launcher.{name}" for name in launcher.__all__ if name != "__version__"}
    helpers = {
        f"worker.{name}"
        for name, value in vars(launcher.worker).items()
        if isinstance(value, FunctionType)
    }
    assert methods | names | helpers <= documented


def test_every_field_of_the_report_is_documented() -> None:
    text = (ROOT / "docs" / "reference" / "report.md").read_text()
    table = text.partition("## Fields of `report.json`")[2].partition("\n#")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert documented == {"version", *FailureReport._fields}


def paths_named_on(page: Path) -> set[str]:
    """Return the files and folders of this repository that a page names as code."""
    text = page.read_text()
    code = [block for _, _, block in blocks(page)]
    code += re.findall("`([^`]+)`", _BLOCK.sub("", text))
    words = {word.removeprefix("./") for piece in code for word in re.split(r"[\s>]+", piece)}
    # A demo or a run leaves folders in the checkout that are none of its own.
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    own = {path.name for path in ROOT.iterdir() if path.is_dir()} - ignored
    folders = "|".join(map(re.escape, sorted(own)))
    return {word for word in words if re.fullmatch(rf"({folders})/[\w/-]*(\.\w+)?", word)}


# These tell of the past, too.
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in ("CHANGELOG.md", "LOG.md")], ids=name_of
)
def test_every_file_of_the_repository_that_a_page_names_is_there(page: Path) -> None:
    assert {name for name in paths_named_on(page) if not (ROOT / name).exists()} == set()


def test_the_map_for_contributors_has_every_room() -> None:
    page = ROOT / "CONTRIBUTING.md"
    assert len(paths_named_on(page)) > 40
    rooms = {f"launcher/{path.parent.name}/" for path in ROOT.glob("launcher/*/__init__.py")}
    assert set(re.findall(r"^\| `([^`]+)` \|", page.read_text(), re.MULTILINE)) == rooms


def said_by_the_source() -> list[str]:
    """Return the texts in launcher/ that are no docstrings; what is filled in later is left out."""
    texts = []
    for path in sorted((ROOT / "launcher").rglob("*.py")):
        waiting: list[ast.AST] = [ast.parse(path.read_text())]
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue
            if isinstance(node, ast.JoinedStr):
                parts = [
                    part.value if isinstance(part, ast.Constant) else "\0" for part in node.values
                ]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            waiting.extend(ast.iter_child_nodes(node))
    return texts


def test_every_message_on_the_troubleshooting_page_is_one_of_the_source() -> None:
    text = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text()
    cells = re.findall(r"^\| (.*?) \| ", text, re.MULTILINE)
    cells = [cell for cell in cells if cell != "message"]
    messages = [message for cell in cells for message in re.findall("`([^`]+)`", cell)]
    assert len(cells) > 50 and len(messages) >= len(cells)
    source = said_by_the_source()
    unknown = []
    for message in messages:
        parts = [part.strip() for part in message.split("...")]
        pattern = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
        if max(map(len, parts)) < 8 or not any(map(pattern.search, source)):
            unknown.append(message)
    assert unknown == []


def test_every_exception_stands_with_its_exit_code() -> None:
    text = (ROOT / "docs" / "reference" / "exit-codes.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|$", text, re.MULTILINE))
    classes = [WorkerFailed, *(kind for kind in vars(errors).values() if isinstance(kind, type))]
    exceptions = {kind.__name__: kind for kind in classes if issubclass(kind, errors.LauncherError)}
    assert set(rows) == set(exceptions)
    for name in set(rows) - {
        "SpawnError",
        "WorkerFailed",
    }:  # theirs are known only when they are raised
        assert rows[name].split(",")[0] == str(exceptions[name].exit_code)
