"""The fixtures of the lab, a plugin of all tests: one set of hosts for the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.lab import Lab, find_obstacle


@pytest.fixture(scope="session")
def lab_of_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three hosts, made once. Tests ask for `lab`."""
    if obstacle := find_obstacle():
        pytest.skip(obstacle)
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture
def lab(lab_of_session: Lab, suite_mark: str, tmp_path: Path) -> Iterator[Lab]:
    """Three hosts in good order; commands start in `tmp_path`. Nothing may be left on them."""
    lab_of_session.set_cwd(tmp_path)
    yield lab_of_session
    left = lab_of_session.renew()
    assert not left, f"still running after the test: {left}"
