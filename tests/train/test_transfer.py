"""Transfer is shown: after the same few epochs, weights from other pictures beat none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
def test_few_pictures_are_learnt_better_from_the_weights_of_other_pictures(
    alone: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What benchmarks/transfer.py measures at length and for several seeds, for one."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import transfer

    def train(*options: str) -> None:
        done = alone(*options)
        assert done.code == 0, done.err

    sizes = transfer.Sizes(source_kinds=4, source_pictures=40, source_epochs=8, epochs=4)
    try:
        nothing, gained = transfer.compare(str(tmp_path / "seed"), 0, sizes, train)
    finally:
        for name in ("transfer", "shapes", "machine"):
            sys.modules.pop(name, None)
    assert gained > nothing + 0.1
