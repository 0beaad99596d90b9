"""Notes of when lines came."""

from __future__ import annotations

import re
from pathlib import Path

from launcher.output.times import LineTimes


def test_a_note_has_time_offset_and_file(tmp_path: Path) -> None:
    times = LineTimes(f"{tmp_path}/times.txt", lambda: 0.0)
    times.note("rank_00.out", 0)
    times.note("rank_01.err", 512)
    times.close()
    first, second = (tmp_path / "times.txt").read_text().splitlines()
    assert re.fullmatch(r"\d{10}\.\d{6} 0 rank_00\.out", first)
    assert second.endswith(" 512 rank_01.err")


def test_of_a_flood_some_is_noted_and_less_in_a_long_run(tmp_path: Path) -> None:
    now = [0.0]
    times = LineTimes(f"{tmp_path}/times.txt", lambda: now[0])

    def count(lines: int, seconds: float) -> int:
        before = len((tmp_path / "times.txt").read_bytes().splitlines()) if now[0] else 0
        for offset in range(lines):
            now[0] += seconds / lines
            times.note("rank_00.out", offset)
        return len((tmp_path / "times.txt").read_bytes().splitlines()) - before

    assert count(50, 0.01) == 50
    assert 99 <= count(1000, 10.0) <= 100
    now[0] = 700.0
    assert 50 <= count(1000, 1.0) <= 51
    assert 9 <= count(1000, 10.0) <= 10


def test_a_run_that_writes_nothing_has_no_file(tmp_path: Path) -> None:
    LineTimes(f"{tmp_path}/times.txt", lambda: 0.0).close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_made_stops_nothing(tmp_path: Path) -> None:
    times = LineTimes(f"{tmp_path}/no-such-folder/times.txt", lambda: 0.0)
    times.note("rank_00.out", 0)
    times.note("rank_00.out", 10)
    times.close()
