"""The notes that attached ranks of one host share: what they say, and that nothing is left."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launcher.attached.notes import PeerNotes, open_notes, read_page
from launcher.contract.error_file import WorkerError

# Larger than any process id that Linux gives away.
DEAD_PID = 2**22 + 1
ERROR = WorkerError("ValueError", "why", "Traceback ...", 5_000_000_000)


def lines(*notes: dict[str, object]) -> list[bytes]:
    return [json.dumps(note).encode() for note in notes]


def came(rank: int, pid: int = 1) -> dict[str, object]:
    return {"rank": rank, "state": "came", "pid": pid, "began": "7"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def opened(job: str, rank: int, expected: int) -> PeerNotes:
    notes = open_notes(job, rank, expected)
    assert notes is not None
    return notes


def descriptor_in(folder: Path) -> int:
    """Return the only descriptor that we hold of a file that is, or was, in this folder."""
    fds = [int(name) for name in os.listdir("/proc/self/fd")]
    (fd,) = (fd for fd in fds if f"{folder}/" in os.path.realpath(f"/proc/self/fd/{fd}"))
    return fd


def test_a_page_tells_who_failed_first_and_what_was_told() -> None:
    failed = {"state": "failed", "returncode": 3, "error": ERROR._asdict()}
    told = {"rank": 0, "state": "told", "cause": 1, "exit_code": 3, "at": 6.5}
    page = read_page(
        lines(
            came(0),
            came(1),
            {**failed, "rank": 0, "at": 6.0},
            {**failed, "rank": 1, "at": 5.0},
            told,
        )
    )
    assert [peer.rank for peer in page.failed] == [1, 0]
    assert page.peers[1].error == ERROR
    assert (page.cause, page.exit_code, page.told_at) == (1, 3, 6.5)


def test_a_line_that_was_cut_off_is_left_out() -> None:
    page = read_page(
        [
            *lines(came(0)),
            b'{"rank": 1, "sta',
            b"",
            *lines(came(2)),
            b'{"rank": 5, "state": "ended"}',
            b"[]",
        ]
    )
    assert set(page.peers) == {0, 2}


def test_the_file_has_no_name_any_more_when_all_have_come(folder: Path) -> None:
    first = opened("job", 0, 2)
    assert len(list(folder.iterdir())) == 1
    second = opened("job", 1, 2)
    assert list(folder.iterdir()) == []
    second.fail(3, ERROR)
    (failed,) = first.read().failed
    assert (failed.rank, failed.returncode, failed.error) == (1, 3, ERROR)


def test_other_jobs_have_other_notes(folder: Path) -> None:
    one, other = opened("job/1", 0, 1), opened("job/2", 0, 1)
    one.fail(3, ERROR)
    assert other.read().failed == []


def test_only_one_rank_reports(folder: Path) -> None:
    first, second = opened("job", 0, 2), opened("job", 1, 2)
    assert second.claim_report()
    assert not first.claim_report()
    assert second.claim_report(), "it may ask again"


def test_a_rank_that_died_over_its_report_is_replaced(folder: Path) -> None:
    first = opened("job", 0, 2)
    (path,) = folder.iterdir()
    with path.open("ab") as file:
        dead = came(1, pid=DEAD_PID)
        file.write(b"\n".join(lines(dead, {"rank": 1, "state": "reports"})) + b"\n")
    assert first.read().reporter == 1
    assert first.claim_report()
    assert first.read().reporter == 0


def test_what_a_dead_job_of_that_name_has_left_is_forgotten(folder: Path) -> None:
    opened("job", 0, 2).end()
    assert list(folder.iterdir()) == [], "the last that ends takes the name away"
    opened("job", 0, 2)
    (path,) = folder.iterdir()
    dead = came(1, pid=DEAD_PID)
    path.write_bytes(
        b"\n".join(lines(dead, {"rank": 1, "state": "told", "cause": 1, "exit_code": 9, "at": 1.0}))
        + b"\n"
    )
    page = opened("job", 0, 2).read()
    assert set(page.peers) == {0}
    assert page.exit_code is None


def test_a_link_that_somebody_has_put_in_the_place_is_not_followed(folder: Path) -> None:
    opened("job", 0, 2)
    (path,) = folder.iterdir()
    path.unlink()
    path.symlink_to(folder / "elsewhere")
    assert open_notes("job", 0, 2) is None
    assert not (folder / "elsewhere").exists()


def test_the_last_that_ends_tidies_up_though_the_others_still_exit(folder: Path) -> None:
    ranks = [opened("job", rank, 3) for rank in (0, 1)]  # the third never comes
    for notes in ranks:
        assert len(list(folder.iterdir())) == 1
        notes.end()
    assert list(folder.iterdir()) == []


def test_a_file_of_the_script_that_got_our_number_is_left_alone(folder: Path) -> None:
    notes = opened("job", 0, 1)
    fd = descriptor_in(folder)
    with (folder / "data").open("wb") as file:
        os.dup2(file.fileno(), fd)
        notes.fail(1, ERROR)
        assert notes.claim_report(), "then each rank reports for itself"
        notes.tell(0, 1)
        assert notes.read().failed == []
        os.close(fd)
    notes.end()
    assert (folder / "data").read_bytes() == b""


def test_no_place_for_notes_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/does/not/exist")
    assert open_notes("job", 0, 2) is None
