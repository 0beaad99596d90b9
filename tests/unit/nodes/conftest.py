"""What the tests of nodes that connect share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from launcher.system.loop import Loop
from tests.unit.nodes.meeting import Place


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop(()) as loop:
        yield loop


@pytest.fixture
def place(loop: Loop) -> Iterator[Place]:
    place = Place(loop)
    yield place
    place.close()
