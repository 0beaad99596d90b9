"""The lines of several log files in the order of the notes beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.runs.logs import RunLogs


def read(logs: RunLogs, since: float = 0.0, *, is_last: bool = True) -> list[tuple[int, str]]:
    logs.look()
    return [(line.rank, line.text.decode()) for line in logs.lines(since, is_last=is_last)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two ranks: rank 1 wrote its first line between the two of rank 0."""
    (tmp_path / "rank_00.out").write_bytes(b"one\nthree\n")
    (tmp_path / "rank_01.out").write_bytes(b"two\n")
    (tmp_path / "rank_01.err").write_bytes(b"oh\n")
    (tmp_path / "times.txt").write_text(
        "10.0 0 rank_00.out\n11.0 0 rank_01.out\n12.0 4 rank_00.out\n13.5 0 rank_01.err\n"
    )
    return tmp_path


def test_lines_come_in_the_order_of_time(folder: Path) -> None:
    assert read(RunLogs(str(folder))) == [(0, "one"), (1, "two"), (0, "three"), (1, "oh")]


def test_some_ranks_can_be_chosen(folder: Path) -> None:
    logs = RunLogs(str(folder), frozenset({1, 7}))
    assert read(logs) == [(1, "two"), (1, "oh")]
    assert logs.ranks == {1}


def test_some_ranks_can_be_left_out(folder: Path) -> None:
    assert read(RunLogs(str(folder), without={1})) == [(0, "one"), (0, "three")]


def test_lines_before_a_time_are_left_out(folder: Path) -> None:
    assert read(RunLogs(str(folder)), since=11.5) == [(0, "three"), (1, "oh")]


def test_a_line_that_began_earlier_but_ended_later_is_whole(tmp_path: Path) -> None:
    (tmp_path / "rank_00.out").write_bytes(b"a\nlong line\nb\n")
    (tmp_path / "times.txt").write_text("1.0 0 rank_00.out\n9.0 6 rank_00.out\n")
    assert read(RunLogs(str(tmp_path)), since=5.0) == [(0, "long line"), (0, "b")]


def test_a_file_that_grows_is_read_on_and_an_unfinished_line_waits(folder: Path) -> None:
    logs = RunLogs(str(folder))
    read(logs, is_last=False)
    with (folder / "rank_00.out").open("ab") as file:
        file.write(b"four\nfi")
    with (folder / "times.txt").open("a") as file:
        file.write("14.0 10 rank_00.out\n14.1")
    assert read(logs, is_last=False) == [(0, "four")]
    with (folder / "rank_00.out").open("ab") as file:
        file.write(b"ve")
    assert read(logs) == [(0, "five")]
    assert read(logs) == []


def test_restarts_replacements_and_requeues_are_more_files(folder: Path) -> None:
    logs = RunLogs(str(folder))
    read(logs)
    again = folder / "attempt_1"
    again.mkdir()
    (again / "rank_00.out").write_bytes(b"again\n")
    (again / "rank_01.1.out").write_bytes(b"replaced\n")
    (again / "times.txt").write_text("20.0 0 rank_00.out\n19.0 0 rank_01.1.out\n")
    (again / "notes.txt").write_bytes(b"not ours\n")
    requeued = folder / "requeue_1" / "attempt_1"
    requeued.mkdir(parents=True)
    (requeued / "rank_00.out").write_bytes(b"requeued\n")
    (requeued / "times.txt").write_text("30.0 0 rank_00.out\n")
    assert read(logs) == [(1, "replaced"), (0, "again"), (0, "requeued")]


def test_the_notes_of_several_nodes_count(folder: Path) -> None:
    (folder / "rank_02.out").write_bytes(b"early\n")
    (folder / "times_1.txt").write_text("9.0 0 rank_02.out\nnonsense\n")
    assert read(RunLogs(str(folder)))[0] == (2, "early")


def test_without_notes_the_files_come_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "rank_00.out").write_bytes(b"a\nb\n")
    (tmp_path / "rank_01.out").write_bytes(b"c\n")
    logs = RunLogs(str(tmp_path))
    assert sorted(read(logs)) == [(0, "a"), (0, "b"), (1, "c")]
    assert not logs.has_times


def test_a_progress_bar_is_its_last_state(tmp_path: Path) -> None:
    (tmp_path / "rank_00.err").write_bytes(b"\r 10%\r 50%\r100%\nwindows\r\n")
    assert read(RunLogs(str(tmp_path))) == [(0, "100%"), (0, "windows")]


def test_bytes_that_are_no_text_arrive(tmp_path: Path) -> None:
    (tmp_path / "rank_00.out").write_bytes(b"\xff\x00\n")
    logs = RunLogs(str(tmp_path))
    logs.look()
    assert [line.text for line in logs.lines()] == [b"\xff\x00"]


def test_a_folder_that_has_gone_has_no_lines(tmp_path: Path) -> None:
    assert read(RunLogs(f"{tmp_path}/no-such-folder")) == []


def test_of_the_same_time_the_order_of_the_notes_counts(tmp_path: Path) -> None:
    (tmp_path / "rank_00.out").write_bytes(b"second\n")
    (tmp_path / "rank_01.out").write_bytes(b"first\nthird\n")
    notes = "1.0 0 rank_01.out\n1.0 0 rank_00.out\n1.0 6 rank_01.out\n"
    (tmp_path / "times.txt").write_text(notes)
    assert [text for _, text in read(RunLogs(str(tmp_path)))] == ["first", "second", "third"]
