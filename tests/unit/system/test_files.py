"""Files appear whole, and descriptors go where no script expects one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.system.files import move_out_of_the_way, write_whole


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    for text in ("first, and longer", "é \ud800"):
        assert write_whole(str(path), text)
        assert path.read_text("utf-8", "surrogatepass") == text
    assert os.listdir(tmp_path) == ["note.json"]


def test_a_file_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    assert not write_whole(str(tmp_path / "missing" / "note.json"), "text")
    assert not write_whole("/dev/full/note.json", "text")


def test_a_descriptor_gets_a_high_number_and_leaves_its_own() -> None:
    low = os.open(os.devnull, os.O_RDONLY)
    fd = move_out_of_the_way(low)
    assert fd >= 50
    assert not os.get_inheritable(fd)
    again = os.open(os.devnull, os.O_RDONLY)
    assert again == low
    os.close(again)
    os.close(fd)


def test_a_descriptor_that_is_none_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        move_out_of_the_way(1 << 20)
