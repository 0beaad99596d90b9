"""`ctl logs`: which run and which lines are meant."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from launcher.ctl import logs
from launcher.errors import LauncherError, UsageError

ALL = logs.Choice(None, 0.0, b"")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs; `first` is the older one."""
    for number, name in enumerate(("first", "second")):
        folder = tmp_path / name / "logs"
        folder.mkdir(parents=True)
        (folder / "rank_00.out").write_text(f"{name} loss\nother\n")
        os.utime(tmp_path / name, (number, number))
    os.symlink("first", tmp_path / "latest")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1.5h", 5400), ("2d", 172_800), ("7", 7)]
)
def test_since_is_a_time_that_has_passed(text: str, seconds: float) -> None:
    assert logs.parse_since(text, 1e6) == 1e6 - seconds


@pytest.mark.parametrize("text", ["5 m", "m", "-5m", "yesterday"])
def test_any_other_since_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="must be a time such as 30s, 5m, 2h or 1d"):
        logs.parse_since(text, 0.0)


def test_without_since_everything_is_wanted() -> None:
    assert logs.parse_since("", 1e6) == 0.0


def test_a_run_is_found_by_its_id_its_beginning_or_its_folder(runs: Path) -> None:
    first = str(runs / "first" / "logs")
    assert logs.find_folder(str(runs), "first") == first
    assert logs.find_folder(str(runs), "fi") == first
    assert logs.find_folder("elsewhere", str(runs / "first")) == first
    assert logs.find_folder("elsewhere", first) == first


def test_without_a_name_it_is_the_newest(runs: Path) -> None:
    assert logs.find_folder(str(runs), "") == str(runs / "second" / "logs")


def test_a_run_that_is_not_there_is_an_error_with_what_to_type(runs: Path) -> None:
    with pytest.raises(LauncherError, match=r"No run third in .*--run-dir"):
        logs.find_folder(str(runs), "third")
    with pytest.raises(LauncherError, match=r"No such file or directory.*--run-dir"):
        logs.find_folder(str(runs / "nowhere"), "")
    with pytest.raises(LauncherError, match="There is no folder"):
        logs.find_folder(str(runs), "./nowhere")


def test_a_beginning_of_two_ids_is_a_usage_error(runs: Path) -> None:
    (runs / "first-2").mkdir()
    with pytest.raises(UsageError, match="first, first-2"):
        logs.find_folder(str(runs), "fir")


def test_lines_have_their_ranks_in_front_and_can_be_searched(runs: Path) -> None:
    folder, out = str(runs / "first" / "logs"), io.BytesIO()
    logs.show(folder, ALL, out)
    assert out.getvalue() == b"[0] first loss\n[0] other\n"
    out = io.BytesIO()
    logs.show(folder, ALL._replace(grep=b"loss"), out)
    assert out.getvalue() == b"[0] first loss\n"


def test_the_prefix_is_as_wide_as_the_highest_rank(runs: Path) -> None:
    folder, out = runs / "first" / "logs", io.BytesIO()
    (folder / "rank_10.out").write_text("ten\n")
    logs.show(str(folder), ALL._replace(grep=b"e"), out)
    assert sorted(out.getvalue().splitlines()) == [b"[ 0] other", b"[10] ten"]


def test_following_ends_with_the_run_and_misses_nothing(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = runs / "first" / "logs", io.BytesIO()
    answers = [True, True, False]

    def write(seconds: float) -> None:
        with (folder / "rank_00.out").open("a") as file:
            file.write(f"{len(answers)}\n")

    monkeypatch.setattr(logs.time, "sleep", write)
    logs.show(str(folder), ALL, out, lambda: answers.pop(0))
    assert out.getvalue().splitlines()[2:] == [b"[0] 2", b"[0] 1"]
