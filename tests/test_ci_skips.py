"""The plugin that lets a skipped test fail the run in CI, see ci_skips.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SKIPPED = "import pytest\n@pytest.mark.skip(reason='no mpirun')\ndef test_it(): pass\n"
SKIPPED_MODULE = "import pytest\npytest.importorskip('no_such_module')\ndef test_it(): pass\n"
SKIPPED_FOR_GPU = (
    "import pytest\n@pytest.mark.gpu\n@pytest.mark.skip(reason='no GPU')\ndef test_it(): pass\n"
)
PASSING = "def test_something_else(): pass\n"


@pytest.mark.parametrize(
    ("text", "ci", "code"),
    [
        (SKIPPED, "true", 1),
        (SKIPPED + PASSING, "true", 1),
        (SKIPPED, None, 0),
        (SKIPPED_FOR_GPU, "true", 0),
        (PASSING, "true", 0),
    ],
    ids=["skipped", "one of two", "not in CI", "gpu", "none"],
)
def test_a_skipped_test_fails_the_run_in_ci_unless_it_needs_a_gpu(
    text: str, ci: str | None, code: int, run_command: Callable[..., object], tmp_path: Path
) -> None:
    done = run_pytest(text, ci, run_command, tmp_path)
    assert done.code == code, done.out
    assert ("which CI does not allow" in done.out) == (code == 1)


def test_a_module_that_is_skipped_as_a_whole_fails_the_run_too(
    run_command: Callable[..., object], tmp_path: Path
) -> None:
    done = run_pytest(PASSING, "true", run_command, tmp_path, test_other=SKIPPED_MODULE)
    assert done.code == 1
    assert "test_other.py" in done.out


def run_pytest(
    text: str, ci: str | None, run_command: Callable[..., object], tmp_path: Path, **others: str
) -> object:
    """Run pytest with the plugin on a file with this text."""
    for name, content in {"test_it": text, **others}.items():
        (tmp_path / f"{name}.py").write_text(content)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: needs a GPU\n")
    return run_command([sys.executable, "-m", "pytest", "-p", "tests.ci_skips"], env={"CI": ci})
