"""The rows that a rank still writes on: what becomes a line, and when; what the screen shows."""

from __future__ import annotations

import pytest

from launcher.output.region import Region, close_colours, is_special


def shown(region: Region) -> list[bytes]:
    return region.picture().rows


@pytest.mark.parametrize(
    ("data", "special"),
    [
        (b"plain\nlines\n", False),
        (b"\x1b[1;31mred\x1b[0m\n", False),
        (b"from windows\r\n", False),
        (b"twice\r\r\n", False),
        (b"\r 10%", True),
        (b"\x1b[A", True),
        (b"\x1b[?25l", True),
        (b"a\b", True),
        (b"\x1b]0;title\x07", True),
    ],
)
def test_only_what_moves_the_cursor_needs_a_region(data: bytes, special: bool) -> None:
    assert is_special(data) is special


@pytest.mark.parametrize(
    ("data", "rows", "cursor"),
    [
        (b"\r 10%\r 20%", [b" 20%"], (0, 4)),
        (b"longer\rab", [b"abnger"], (0, 2)),
        (b"abc\b\b\x1b[K", [b"a"], (0, 1)),
        (b"a  \r\x1b[2C", [b"a "], (0, 2)),
        (b"abc\x1b[2Dx", [b"axc"], (0, 2)),
        (b"abc\x1b[1G\x1b[2P", [b"c"], (0, 0)),
        (b"bc\r\x1b[@a", [b"abc"], (0, 1)),
        (b"name? \x1b[3C.", [b"name?    ."], (0, 10)),
        (b"\ra\tb", [b"a       b"], (0, 9)),
        (b"\x1b[?25lone\ntwo\nthree\x1b[2A\r\x1b[2KONE", [b"ONE", b"two", b"three"], (0, 3)),
        (b"\x1b[?25lone\ntwo\x1b[1;2HX", [b"oXe", b"two"], (0, 2)),
        (b"\x1b[?25lone\ntwo\x1b[2J\x1b[Hnew", [b"new"], (0, 3)),
        (b"\r\x1b[31mred\x1b[0m", [b"\x1b[31mred\x1b[0m"], (0, 3)),
        ("\r\u5b57\u5b57|".encode(), ["\u5b57\u5b57|".encode()], (0, 5)),
        ("\re\u0301.".encode(), ["e\u0301.".encode()], (0, 2)),
        (b"\r\xff\xfe", [b"\xff\xfe"], (0, 2)),
        (b"\r\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", [b"link"], (0, 4)),
        (b"\r" + b"x" * 25, [b"x" * 20, b"x" * 5], (1, 5)),
        (b"\x1b7abc\x1b8X", [b"Xbc"], (0, 1)),
    ],
)
def test_the_rows_are_those_of_a_terminal(
    data: bytes, rows: list[bytes], cursor: tuple[int, int]
) -> None:
    whole = Region(20, 24)
    assert whole.feed(data, 0.0) == b""
    pieces = Region(20, 24)
    for byte in data:
        pieces.feed(bytes([byte]), 0.0)
    for region in (whole, pieces):
        assert region.picture() == (rows, *cursor)


def test_a_long_line_that_wraps_is_one_line_again_when_it_ends() -> None:
    region = Region(10, 24)
    region.feed(b"\r", 0.0)
    assert region.feed(b"0123456789abcdefghij-en", 0.0) == b""
    assert region.settle(1.0) == b""
    assert region.feed(b"d\n", 1.0) == b"0123456789abcdefghij-end\n"


def test_a_bar_that_ignores_a_narrower_screen_stays_one_row() -> None:
    region = Region(20, 24)
    for step in range(3):
        assert region.feed(b"\r%d/3 |" % step + b"#" * 15, 0.0) == b""
        region.resize(10, 24)
    assert shown(region) == [b"2/3 |" + b"#" * 15]
    region.resize(30, 24)
    assert region.feed(b"\r3/3 |" + b"#" * 20 + b"\n", 0.0) == b""
    assert region.finish() == b"3/3 |" + b"#" * 20 + b"\n"


def test_ordinary_lines_are_final_at_once_and_leave_nothing_behind() -> None:
    region = Region(80, 24)
    assert region.feed(b"name? Bo\bob\n", 0.0) == b""
    assert region.feed(b"hello\nyou\n", 0.0) == b"name? Bob\nhello\nyou\n"
    assert region.is_over


def draw_bars(region: Region, outer: int, inner: int, now: float) -> bytes:
    """Draw two nested bars as tqdm does: each update begins and ends on the upper row."""
    final = region.feed(b"\router %d" % outer, now)
    for piece in (b"\n", b"\rinner %d" % inner, b"\x1b[A"):
        final += region.feed(piece, now)
    return final


def test_nested_bars_stay_live_and_are_lines_when_they_end() -> None:
    region, now = Region(80, 24), 0.0
    for step in range(100):
        assert draw_bars(region, step // 10, step % 10, now) == b""
        assert region.settle(now) == b""
        now += 0.1
    assert shown(region) == [b"outer 9", b"inner 9"]
    assert region.feed(b"\n\r       \r\x1b[A", now) == b""  # the inner one is wiped out
    assert region.feed(b"\router 10\n", now) == b""
    assert b"".join(region.settle(now + late) for late in (1, 2, 3, 4)) == b"outer 10\n"
    assert region.is_over


def test_a_line_above_nested_bars_is_final_after_a_while() -> None:
    region, now, final = Region(80, 24), 0.0, b""
    for step in range(60):
        if step == 5:  # as tqdm.write: it wipes the bars, and they are drawn below
            region.feed(b"\r       \n\r       \r\x1b[A", now)
            region.feed(b"\rsaved\n", now)
        final += draw_bars(region, 0, step, now)
        now += 0.1
    assert final == b"saved\n"
    assert [row.strip() for row in shown(region)] == [b"outer 0", b"inner 59"]


def test_a_table_is_drawn_in_place_and_what_is_printed_above_it_is_final() -> None:
    region, now, final = Region(80, 24), 0.0, b""
    region.feed(b"\x1b[?25lhead\nrow 0", now)
    for step in range(1, 50):
        now += 0.1
        above = b"news\n" if step == 3 else b""
        data = b"\r\x1b[2K\x1b[1A\x1b[2K" + above + b"head\nrow %d" % step
        final += region.feed(data, now)
    assert final == b"news\n"
    assert shown(region) == [b"head", b"row 49"]
    region.feed(b"\n\x1b[?25h", now)
    assert b"".join(region.settle(now + late) for late in (1, 2, 3, 4)) == b"head\nrow 49\n"
    assert region.is_over


def test_what_does_not_fit_on_the_screen_goes_as_lines() -> None:
    region = Region(80, 3)
    final = region.feed(b"\x1b[?25l" + b"".join(b"row %d\n" % i for i in range(10)), 0.0)
    assert final == b"".join(b"row %d\n" % i for i in range(8))
    assert shown(region) == [b"row 8", b"row 9", b""]


def test_rows_that_the_rank_has_done_with_go_when_it_writes_elsewhere() -> None:
    region = Region(80, 24)
    region.feed(b"\r100%\n", 0.0)
    assert region.is_left
    assert region.finish() == b"100%\n"
    draw_bars(region, 0, 0, 0.0)
    assert not region.is_left
    # Nor where the inner bar is being wiped out, before the cursor is back at the outer one.
    region.feed(b"\n\r" + b" " * 40 + b"\r", 0.0)
    assert not region.is_left


def test_it_waits_only_for_what_time_makes_final() -> None:
    region = Region(80, 24)
    region.feed(b"\r 10%", 0.0)
    assert region.wait_s(5.0) is None
    region.feed(b"\n", 5.0)
    assert 0 < (region.wait_s(5.0) or 0) <= 0.3
    hidden = Region(80, 24)
    hidden.feed(b"\x1b[?25lone\ntwo", 0.0)
    assert hidden.wait_s(100.0) is None


def test_random_bytes_do_no_harm() -> None:
    import random

    source = random.Random(7)
    region = Region(40, 10)
    for step in range(300):
        data = source.choices(b"\x1b[]012;ABCDHJKPX@mhlsu\r\n\b\t \xe2\x96\x88ab", k=50)
        region.feed(bytes(data), step / 10)
        picture = region.picture()
        assert 0 <= picture.cursor_row < len(picture.rows) <= 10
    region.finish()
    assert region.picture() == ([b""], 0, 0)


def test_each_line_has_its_own_colours() -> None:
    block, left_on = close_colours(b"\x1b[31mone\ntwo\x1b[0m\nthree\n\x1b[1mx\n", b"")
    assert block.split(b"\n") == [
        *(b"\x1b[31mone\x1b[0m", b"\x1b[31mtwo\x1b[0m", b"three", b"\x1b[1mx\x1b[0m", b"")
    ]
    assert left_on == b"\x1b[1m"
