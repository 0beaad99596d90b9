"""What a script logs is what its reader gets."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from launcher.jobs import metrics


@pytest.fixture
def writer(tmp_path: Path) -> metrics.Writer:
    return metrics.Writer(str(tmp_path / "metrics"), 0)


def read(tmp_path: Path) -> dict[str, object]:
    return {name: one.plain() for name, one in metrics.read(str(tmp_path / "metrics")).items()}


def test_one_value_is_itself_and_several_are_a_list(writer: metrics.Writer, tmp_path: Path) -> None:
    writer.log("one", 0.5)
    writer.log("several", 1)
    writer.log("several", 2.5, step=7)
    writer.log("text", 'a "word"\n')
    assert read(tmp_path) == {"one": 0.5, "several": [1, 2.5], "text": 'a "word"\n'}
    assert metrics.read(str(tmp_path / "metrics"))["several"].steps == [None, 7]


def test_numbers_that_json_does_not_know_come_back(writer: metrics.Writer, tmp_path: Path) -> None:
    for value in (math.nan, math.inf, -math.inf):
        writer.log("odd", value)
    nan, high, low = read(tmp_path)["odd"]  # type: ignore[misc]
    assert math.isnan(nan) and high == math.inf and low == -math.inf
    assert '"v": null' in (tmp_path / "metrics" / "rank_0.jsonl").read_text()


def test_scalars_and_arrays_of_numpy_are_numbers(writer: metrics.Writer, tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    writer.log("scalar", np.float32(0.5))
    writer.log("double", np.float64(0.25))
    writer.log("integer", np.int64(3))
    writer.log("array", np.arange(3))
    assert read(tmp_path) == {"scalar": 0.5, "double": 0.25, "integer": 3, "array": [0, 1, 2]}


def test_rows_and_tables_have_columns(writer: metrics.Writer, tmp_path: Path) -> None:
    writer.log_object("row", "row", {"a": 1, "b": 2})
    writer.log_object("rows", "row", {"a": 1})
    writer.log_object("rows", "row", {"a": 2})
    writer.log_object("table", "table", {"x": [1, 2]})
    writer.log_object("list", "list", (n for n in range(3)))
    assert read(tmp_path) == {
        "row": {"a": 1, "b": 2},
        "rows": {"a": [1, 2]},
        "table": {"x": [1, 2]},
        "list": [0, 1, 2],
    }


def test_what_is_no_list_and_no_row_is_read_all_the_same(
    writer: metrics.Writer, tmp_path: Path
) -> None:
    for value in ([1, 2], None, 3):
        writer.log_object("list", "list", value)
    writer.log_object("mixed", "row", {"a": 1})
    writer.log("mixed", 2)
    assert read(tmp_path) == {"list": [1, 2, None, 3], "mixed": [{"a": 1}, 2]}


def test_a_line_that_was_cut_off_hides_no_other(writer: metrics.Writer, tmp_path: Path) -> None:
    writer.log("a", 1)
    with open(tmp_path / "metrics" / "rank_0.jsonl", "a") as file:
        file.write('{"n": "a", "v": 2, "t": 17')
    assert read(tmp_path) == {"a": 1}


def test_the_lowest_rank_that_logged_a_name_counts(tmp_path: Path) -> None:
    for rank in (10, 2):
        writer = metrics.Writer(str(tmp_path / "metrics"), rank)
        writer.log("rank", rank)
    assert read(tmp_path) == {"rank": 2}


def test_logging_never_raises(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    writer = metrics.Writer(str(tmp_path / "file"), 0)  # where a folder would have to be
    writer.log("a", 1)
    writer.log("a", 2)
    writer.log("odd", object())
    said = capsys.readouterr().err
    assert said.count("a metric was not written to") == 1


def test_a_summary_has_what_lists_show(writer: metrics.Writer, tmp_path: Path) -> None:
    for value in (3.0, 1.0, math.nan, 2.0):
        writer.log("loss", value)
    writer.log_object("rows", "row", {"a": 1})
    summary = metrics.summarize(metrics.read(str(tmp_path / "metrics")))
    assert summary == {"loss": {"count": 4, "last": 2.0, "min": 1.0, "max": 3.0}}


def test_a_forked_process_writes_with_a_descriptor_of_its_own(
    writer: metrics.Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    writer.log("a", 1)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    before = len(os.listdir("/proc/self/fd"))
    writer.log("a", 2)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert read(tmp_path) == {"a": [1, 2]}
