"""Copies of log files of other hosts: complete, bounded, and nowhere but in their folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.ctl import mirror
from launcher.ctl.messages import AskLogs, Logs
from launcher.ctl.mirror import Mirror
from launcher.runs import parts
from launcher.runs.parts import Part, list_inner, read_parts


class FarHost:
    """A host with log files, which answers as a run does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.asked: list[AskLogs] = []
        self.is_there = True

    def ask(self, question: AskLogs) -> Logs | None:
        self.asked.append(question)
        logs = str(self.folder)
        found = read_parts(
            logs, question.folder, question.ranks, question.known, question.most_bytes
        )
        return Logs(tuple(list_inner(logs)), tuple(found)) if self.is_there else None


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FarHost]:
    monkeypatch.setattr(mirror, "_PAUSE_S", 0.0)
    return FarHost(tmp_path / "far")


@pytest.fixture
def make(tmp_path: Path, far: FarHost) -> Callable[..., Mirror]:
    (tmp_path / "copies").mkdir()
    return lambda *ranks, num_hosts=1: Mirror(str(tmp_path / "copies"), ranks, num_hosts, far.ask)


def read(copies: Mirror, *, is_last: bool = True) -> list[tuple[int, str]]:
    copies.fetch()
    return [(line.rank, line.text.decode()) for line in copies.lines(0.0, is_last=is_last)]


def test_lines_of_all_attempts_come_in_their_order(
    far: FarHost, make: Callable[..., Mirror]
) -> None:
    (far.folder / "rank_02.out").write_text("one\nthree\n")
    (far.folder / "rank_03.err").write_text("two\n")
    (far.folder / "rank_04.out").write_text("of nobody here\n")
    (far.folder / "times_1.txt").write_text(
        "10.0 0 rank_02.out\n11.0 0 rank_03.err\n12.0 4 rank_02.out\n"
    )
    later = far.folder / "attempt_1"
    later.mkdir()
    (later / "rank_02.out").write_text("again\n")
    (later / "times_1.txt").write_text("20.0 0 rank_02.out\n")
    copies = make(2, 3)
    assert read(copies) == [(2, "one"), (3, "two"), (2, "three"), (2, "again")]
    assert copies.ranks == {2, 3}
    with (later / "rank_02.out").open("a") as file:
        file.write("more\nhal")
    far.asked.clear()
    assert read(copies, is_last=False) == [(2, "more")]
    # What is over is not asked for again.
    assert {question.folder for question in far.asked} == {"attempt_1"}
    assert read(copies) == [(2, "hal")]


def test_much_comes_in_many_answers(far: FarHost, make: Callable[..., Mirror]) -> None:
    lines = [f"{number:09}" for number in range(30_000)]
    for rank in range(3):
        (far.folder / f"rank_0{rank}.out").write_text("\n".join(lines) + "\n")
    copies = make(0, 1, 2, num_hosts=4)
    copies.fetch()
    by_rank: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for line in copies.lines(0.0, is_last=True):
        by_rank[line.rank].append(line.text.decode())
    assert by_rank == {0: lines, 1: lines, 2: lines}
    assert len(far.asked) > 30


def test_only_the_end_of_what_is_long_is_fetched(
    far: FarHost, make: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "MOST_BEFORE_BYTES", 25)
    (far.folder / "rank_00.out").write_text("".join(f"line {number}\n" for number in range(10)))
    (far.folder / "rank_01.out").write_text("short\n")
    copies = make(0, 1)
    assert sorted(read(copies)) == [(0, "line 7"), (0, "line 8"), (0, "line 9"), (1, "short")]
    assert copies.cut_ranks == {0}


def test_who_falls_behind_goes_on_with_the_end(
    far: FarHost, make: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    (far.folder / "rank_00.out").write_text("first\nhalf ")
    copies = make(0)
    assert read(copies, is_last=False) == [(0, "first")]
    monkeypatch.setattr(parts, "MOST_BEFORE_BYTES", 25)
    with (far.folder / "rank_00.out").open("a") as file:
        file.write("".join(f"line {number}\n" for number in range(10)))
    assert read(copies) == [(0, "line 7"), (0, "line 8"), (0, "line 9")]
    assert copies.cut_ranks == {0}


def test_a_file_that_always_grows_ends_no_look_late(
    far: FarHost, make: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    def grow(seconds: float) -> None:
        with (far.folder / "rank_00.out").open("a") as file:
            file.write("x" * 100_000 + "\n")

    monkeypatch.setattr(mirror.time, "sleep", grow)
    (far.folder / "rank_00.out").write_text("x" * 300_000 + "\n")
    (far.folder / "rank_01.out").write_text("short\n")
    assert (1, "short") in read(make(0, 1))
    assert len(far.asked) < 10


def test_what_has_been_read_takes_no_room(
    far: FarHost, make: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mirror, "_MOST_READ_BYTES", 1 << 16)
    (far.folder / "rank_00.out").write_text("x" * 200_000 + "\nhalf")
    copies, copy = make(0), tmp_path / "copies" / "rank_00.out"
    assert len(read(copies, is_last=False)) == 1
    before = copy.stat().st_blocks
    copies.let_go()
    assert copy.stat().st_blocks < before / 10
    with (far.folder / "rank_00.out").open("a") as file:
        file.write(" a line\n")
    assert read(copies) == [(0, "half a line")]
    assert copies.cut_ranks == set()


def test_a_run_that_has_ended_is_not_asked_for_ever(
    far: FarHost, make: Callable[..., Mirror]
) -> None:
    far.is_there = False
    copies = make(0, 1)
    assert read(copies) == []
    assert not copies.is_answered
    assert len(far.asked) == 1


def test_many_ranks_make_several_questions(far: FarHost, make: Callable[..., Mirror]) -> None:
    read(make(*range(100)))
    assert [len(question.ranks) for question in far.asked] == [64, 36]


def test_answers_name_no_other_files(tmp_path: Path) -> None:
    names = ("../rank_00.out", "/tmp/x", "plan.json", "rank_00.log", "times_x.txt")
    answer = Logs((".", "../x", "attempt_1/../..", "/"), tuple(Part(n, 0, b"x", 1) for n in names))
    folder = tmp_path / "copies"
    folder.mkdir()
    copies = Mirror(str(folder), [0], 1, lambda question: answer)
    copies.fetch()
    assert list(folder.iterdir()) == [] and [path.name for path in tmp_path.iterdir()] == ["copies"]


def test_two_hosts_that_share_a_folder_are_one(tmp_path: Path) -> None:
    part = Part("rank_01.out", 0, b"once\n", 5)
    answers = [Logs((".",), (part, part)), Logs((".",))]
    copies = Mirror(str(tmp_path), [1], 2, lambda question: answers.pop(0))
    assert read(copies) == [(1, "once")]
