"""Scripts of other libraries, which know nothing of the launcher: their ranks train together."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TIMEOUT_S = 180.0  # both ranks import all of the library on a busy machine


@pytest.mark.slow
@pytest.mark.parametrize("library", ["lightning", "transformers"])
def test_a_script_of_another_library_trains_with_two_ranks(
    run: Callable[..., Any], drawn_birds: Path, library: str
) -> None:
    pytest.importorskip(library)
    script = str(EXAMPLES / f"with_{library}.py")
    args = [str(drawn_birds), "--epochs", "1", "--image-size", "48", "--lr", "0.01"]
    done = run("--nproc-per-node", "2", script, *args, timeout_s=TIMEOUT_S)
    assert done.code == 0, done.err
    # Where each rank trained for itself, each would say so.
    figures = [line for line in done.lines if "val loss" in line]
    assert len(figures) == 1
    assert re.fullmatch(r"\[0\] val loss \d\.\d{4} accuracy \d+\.\d%", figures[0])
