"""The rows at the bottom of a terminal, as the terminal is sent them."""

from __future__ import annotations

from typing import Any

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
    assert writer.sent == b"[0] epoch 1/3\n[0] step 5/9\x1b[1A\r\x1b[13C"


def test_of_all_ranks_the_bars_that_move_are_shown() -> None:
    rows, writer = make_rows()
    rows.draw(-1, each_rank=True)
    assert writer.sent == b"[0] step 5/9\n[1] step 5/9"


def test_on_other_terminals_too_no_row_is_broken() -> None:
    rows, writer = make_rows()
    writer.tap = print
    rows.draw(-1, each_rank=False)
    assert writer.sent == b"\x1b[?7l[0] epoch 1/3\n[0] step 5/9\x1b[1A\r\x1b[13C\x1b[?7h"
