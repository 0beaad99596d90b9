"""How far a rank is: what is written is read, and the same steps are marked on all ranks."""

from __future__ import annotations

import pytest

from launcher.contract.pace import Pace, decode, encode, is_marked, keep_mark


def test_what_is_written_is_read() -> None:
    pace = Pace(120, 3.25, {112: 91.5031, 120: 93.118})
    assert encode(pace) == b"120 3.250 112:91.5031 120:93.1180\n"
    assert decode(encode(pace)) == pace
    assert decode(encode(Pace(1, 0.0, {}))) == Pace(1, 0.0, {})


@pytest.mark.parametrize("text", [b"", b"12", b"12 3.2", b"\n", b"a b\n", b"1 2 3\n", b"1 2 a:b\n"])
def test_a_file_that_is_being_written_tells_nothing(text: bytes) -> None:
    assert decode(text) is None


@pytest.mark.parametrize("step", [32, 1000, 123_456])
def test_between_a_step_and_its_double_16_to_32_are_marked(step: int) -> None:
    assert 16 <= sum(map(is_marked, range(step, 2 * step))) <= 32


def test_the_first_steps_are_all_marked() -> None:
    assert all(map(is_marked, range(1, 32)))


def test_the_last_four_marks_are_kept() -> None:
    marks: dict[int, float] = {}
    for step in range(1, 7):
        keep_mark(marks, step, step / 2)
    assert marks == {3: 1.5, 4: 2.0, 5: 2.5, 6: 3.0}
