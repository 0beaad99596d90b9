"""The rows at the bottom of a terminal, as the terminal is sent them."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.output.live import LiveRows


class Writer:
    """A terminal that keeps what it is sent."""

    pending_bytes = 0
    size = (40, 10)
    tap: Any = None

    def __init__(self) -> None:
        self.sent = b""

    def write(self, data: bytes) -> None:
        self.sent += data


def make_rows() -> tuple[LiveRows, Writer]:
    writer: Any = Writer()
    rows = LiveRows({"err": writer}, is_dumb=False)
    for rank in (1, 0):
        # As tqdm leaves nested bars: the cursor is on the outer one.
        rows.put(rank, "err", [b"[%d] epoch 1/3" % rank, b"[%d] step 5/9" % rank], (0, 13))
    return rows, writer


def test_the_bars_of_the_lowest_rank_are_shown() -> None:
    rows, writer = make_rows()
    rows.draw(-1, each_rank=False)
    assert writer.sent == b"\x1b[?7l[0] epoch 1/3\n[0] step 5/9\x1b[1A\r\x1b[?7h"


def test_of_all_ranks_the_bars_that_move_are_shown() -> None:
    rows, writer = make_rows()
    rows.draw(-1, each_rank=True)
    assert writer.sent == b"\x1b[?7l[0] step 5/9\n[1] step 5/9\x1b[1A\r\x1b[?7h"


def test_a_question_has_the_cursor_behind_it() -> None:
    rows, writer = make_rows()
    rows.put(0, "err", [b"[0] name? "], None)
    rows.draw(-1, each_rank=False)
    assert writer.sent == b"[0] name? "


def test_who_is_asked_has_the_cursor_where_it_left_it() -> None:
    rows, writer = make_rows()
    rows.draw(0, each_rank=False)
    assert writer.sent == b"[0] epoch 1/3\n[0] step 5/9\x1b[1A\r\x1b[13C"


def test_on_other_terminals_too_no_row_is_broken() -> None:
    rows, writer = make_rows()
    writer.tap = print
    rows.draw(0, each_rank=False)
    assert writer.sent == b"\x1b[?7l[0] epoch 1/3\n[0] step 5/9\x1b[1A\r\x1b[13C\x1b[?7h"


@pytest.mark.parametrize("knows_size", [False, True])
def test_bars_that_a_narrower_terminal_has_broken_go_from_their_first_row_on(
    knows_size: bool,
) -> None:
    rows, writer = make_rows()
    rows.draw(-1, each_rank=False)
    writer.sent, writer.size = b"", (10 if knows_size else 40, 10)
    rows.clear()
    assert writer.sent == b"\r\x1b[J"


def test_what_a_narrower_terminal_has_broken_of_a_question_goes_when_its_size_is_heard_of() -> None:
    rows, writer = make_rows()
    rows.put(0, "err", [b"[0] your name, please? "], None)
    rows.draw(0, each_rank=False)
    writer.sent, writer.size = b"", (10, 10)
    rows.draw(0, each_rank=False)
    assert writer.sent == b"\x1b[2A\r\x1b[J[0] your n"
