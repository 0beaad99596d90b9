"""The documentation: links lead somewhere, blocks that are marked to run do run, and tables are
those of the code.

A block is marked in its first line: ```python file=NAME is saved under that name, ```sh run is run
by bash in the same folder, from top to bottom of the page; `exit=1` says that it must end with 1.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("page", ["option", "environment"])
def test_the_generated_pages_are_current(page: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / f"make_{page}_reference"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_field_of_the_report_is_documented() -> None:
    text = (ROOT / "docs" / "reference" / "report.md").read_text()
    table = text.partition("## Fields of `report.json`")[2].partition("\n#")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert documented == {"version", *FailureReport._fields}


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
