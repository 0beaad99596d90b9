"""`ctl logs`: which run and which lines are meant."""

from __future__ import annotations

import io
import json
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


def test_where_the_ranks_are_stands_in_the_newest_plan(runs: Path) -> None:
    folder = runs / "first"
    assert logs.read_layout(str(folder / "logs")) == logs.Layout()

    def write(name: str, attempt: int, num_ranks: int, hosts: list[dict[str, object]]) -> None:
        layout = {"attempt": attempt, "nodes": 2, "world_size": num_ranks, "hosts": hosts}
        (folder / name).write_text(json.dumps({"layout": layout}))

    write("plan.json", 0, 3, [{"host": "a", "ranks": 2}, {"host": "b", "ranks": 1}])
    write("plan_1.json", 2, 3, [{"host": "b", "ranks": 1}, {"host": "c", "ranks": 2}])
    write("plan_2.json", 1, 9, [])
    write("plan_5.json", 7, 9, [{"host": "x"}])
    (folder / "plan_3.json").write_text("[1")
    (folder / "plan_4.json").write_text('{"layout": {"attempt": 9, "nodes": 1}}')
    assert logs.read_layout(str(folder / "logs")) == (2, 3, {"b": [0], "c": [1, 2]})


def test_one_line_tells_where_the_output_of_ranks_is() -> None:
    far = logs.Far({"a": range(2), "b": range(2, 5)}, "/data/runs/x y/logs", "")
    assert far.explain({1, 2, 3, 9}, "has the output") == (
        "a has the output of rank 1, b has the output of ranks 2-3, another host, perhaps, has the"
        " output of rank 9; type there: python -m launcher.ctl logs '/data/runs/x y'"
    )
    many = logs.Far({f"h{number}": [number] for number in range(100)}, "/logs-of-x", "the-id")
    told = many.explain(set(range(100)), "has the output")
    assert "h7 has the output of rank 7, and 92 more hosts; type there: " in told
    assert told.endswith(" logs the-id")
    assert many._replace(run_id="").explain({1}, "has").endswith(" logs /logs-of-x")


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
