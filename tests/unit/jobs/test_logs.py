"""Whose line is whose: from the launcher's files of a rank, or from what all share."""

from __future__ import annotations

from pathlib import Path

from launcher.jobs.logs import LogReader
from launcher.jobs.store import RunFolder


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read(folder: Path, rank: int | None) -> str:
    return LogReader(RunFolder(str(folder)), rank).read(is_over=True).decode()


DRIVER = "note\n[0] zero\n[1] one\n[launcher] attempt 0 failed\n[0] again\n[launcher] report\n"


def test_without_files_of_the_launcher_lines_are_cut_out(tmp_path: Path) -> None:
    write(tmp_path, "driver.log", DRIVER)
    assert read(tmp_path, 1) == "one\n"
    assert read(tmp_path, None) == DRIVER


def test_attempts_and_requeues_stand_in_their_order(tmp_path: Path) -> None:
    write(tmp_path, "driver.log", DRIVER)
    for name in (
        *("logs/attempt_10/rank_01.log", "logs/requeue_1/rank_01.log", "logs/rank_01.log"),
        *("logs/attempt_2/rank_01.log", "logs/rank_01.1.log", "logs/rank_11.log"),
    ):
        write(tmp_path / "launcher" / "run", name, f"{name}\n")
    (tmp_path / "launcher" / "latest").symlink_to("run")
    assert read(tmp_path, 1).splitlines() == [
        *("logs/rank_01.log", "logs/rank_01.1.log", "logs/attempt_2/rank_01.log"),
        *("logs/attempt_10/rank_01.log", "logs/requeue_1/rank_01.log"),
    ]


def test_what_the_launcher_says_stands_around_what_rank_0_wrote(tmp_path: Path) -> None:
    write(tmp_path, "driver.log", DRIVER)
    for rank in (0, 1):
        write(tmp_path / "launcher" / "run" / "logs", f"rank_0{rank}.log", f"all of {rank}\n")
    said = "[launcher] attempt 0 failed\n[launcher] report\n"
    assert read(tmp_path, 0) == f"note\nall of 0\n{said}"
    assert read(tmp_path, 1) == "all of 1\n"


def test_where_mpirun_has_started_the_ranks_their_own_files_count(tmp_path: Path) -> None:
    write(tmp_path, "driver.log", "")
    write(tmp_path, "ranks/1.log", "mine\n")
    write(tmp_path / "launcher" / "run" / "logs", "rank_01.log", "mine\n")
    assert read(tmp_path, 1) == "mine\n"


def test_a_carriage_return_ends_no_line(tmp_path: Path) -> None:
    write(tmp_path, "driver.log", "[1] a\rb\n[0] zero\n[launcher] end")
    write(tmp_path / "launcher" / "run" / "logs", "rank_00.log", "zero\n")
    assert read(tmp_path, 0) == "zero\n[launcher] end"
