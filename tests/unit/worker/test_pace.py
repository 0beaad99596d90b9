"""Heartbeats, as the supervisor finds them in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.contract.pace import decode
from launcher.worker import pace
from launcher.worker.pace import Pacer


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, for the test to change."""
    moment = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: moment[0])  # type: ignore[attr-defined]
    return moment


def test_heartbeats_are_counted_and_written_twice_a_second(
    tmp_path: Path, now: list[float]
) -> None:
    pacer, file = Pacer(f"{tmp_path}/rank.json"), tmp_path / "rank.json.beat"
    for _ in range(100):
        pacer.beat()
    first = decode(file.read_bytes())
    assert first is not None
    assert (first.steps, first.marks) == (1, {1: 100.0})
    now[0] += 0.5
    pacer.beat()
    second = decode(file.read_bytes())
    assert second is not None
    assert second.steps == 101


def test_waiting_is_added_up_also_when_it_ends_with_an_error(
    tmp_path: Path, now: list[float]
) -> None:
    pacer = Pacer(f"{tmp_path}/rank.json")
    with pacer.waiting():
        now[0] += 2.0
    with pytest.raises(RuntimeError), pacer.waiting():
        now[0] += 0.5
        raise RuntimeError
    pacer.beat()
    found = decode((tmp_path / "rank.json.beat").read_bytes())
    assert found is not None
    assert found.waited_s == 2.5


def test_the_end_leaves_the_last_figures_and_no_heartbeat(tmp_path: Path, now: list[float]) -> None:
    pacer = Pacer(f"{tmp_path}/rank.json")
    for _ in range(3):
        pacer.beat()
    pacer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["rank.json.pace"]
    left = decode((tmp_path / "rank.json.pace").read_bytes())
    assert left is not None
    assert left.steps == 3


def test_a_script_without_heartbeats_or_launcher_leaves_nothing(tmp_path: Path) -> None:
    Pacer(f"{tmp_path}/rank.json").close()
    alone = Pacer(None)
    alone.beat()
    alone.close()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_ends_no_training(tmp_path: Path) -> None:
    pacer = Pacer(f"{tmp_path}/no-such-folder/rank.json")
    pacer.beat()
    pacer.close()
