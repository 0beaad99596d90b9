"""One stream of one worker: prefixes, templates, log files; all the way: launch/test_output.py."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from launcher.output import streams
from launcher.output.streams import RankStream, StreamSettings, make_prefix

NAMES = {"rank": "3", "local_rank": "1", "role_name": "r", "hostname": "here", "node_rank": "0"}


@pytest.mark.parametrize(
    ("template", "prefix"),
    [
        (None, b"[ 3] "),
        ("${rank}: ", b"3: "),
        ("$rank/$local_rank ", b"3/1 "),
        ("[${role_name}${rank}@${hostname}] ", b"[r3@here] "),
        ("plain", b"plain"),
        ("${unknown} $x ", b"${unknown} $x "),
        ("", b""),
    ],
)
def test_prefixes_are_made_from_the_template(template: str | None, prefix: bytes) -> None:
    assert make_prefix(template, NAMES, width=2, rank=3, colour=False) == prefix


def test_on_several_hosts_the_name_stands_before_the_rank() -> None:
    prefix = make_prefix(None, NAMES, width=2, rank=3, colour=False, host_width=6)
    assert prefix == b"[  here: 3] "
    assert make_prefix("$rank ", NAMES, width=2, rank=3, colour=False, host_width=6) == b"3 "


def test_colours_differ_between_neighbours() -> None:
    prefixes = [make_prefix(None, NAMES, width=1, rank=rank, colour=True) for rank in range(6)]
    assert len({prefix.partition(b"[")[2].partition(b"m")[0] for prefix in prefixes}) == 6


class FakeConsole:
    """Keeps what it is told; no terminal."""

    claimant: object = None

    def __init__(self) -> None:
        self.blocks: list[tuple[str, bytes]] = []
        self.said: list[str] = []
        self.open: object = None

    @property
    def text(self) -> bytes:
        return b"".join(block for _, block in self.blocks)

    def show_lines(self, rank: int, stream: str, prefix: bytes, block: bytes) -> None:
        self.show(stream, prefix + block[:-1].replace(b"\n", b"\n" + prefix) + b"\n")

    def show(self, stream: str, block: bytes) -> None:
        self.blocks.append((stream, b"\n" * (self.open is not None) + block))
        self.open = None

    def show_part(self, owner: object, stream: str, text: bytes, *, is_last: bool = False) -> None:
        if self.open not in (None, owner):
            text = b"\n" + text
        self.blocks.append((stream, text))
        self.open = None if is_last else owner

    def release(self) -> None:
        self.claimant = None

    def goes_on(self, owner: object, stream: str) -> bool:
        return self.open is owner

    def leave_part(self, stream: str) -> None:
        self.open = None

    def is_busy(self, stream: str) -> bool:
        return False

    def say(self, text: str) -> None:
        self.said.append(text)

    def is_tty(self, stream: str) -> bool:
        return False

    def end_live(self, rank: int, stream: str) -> None:
        pass


def stream(tmp_path: Path, console: FakeConsole, **changes: object) -> RankStream:
    settings = StreamSettings(
        rank=0, stream="out", prefix=b"[0] ", log_path=str(tmp_path / "log"), shown=True
    )
    return RankStream(settings._replace(**changes), console)


class Clock:
    """Time that passes when the test says so."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(streams, "time", clock)
    return clock


def test_half_a_line_is_shown_soon_and_goes_on_where_it_stands(
    tmp_path: Path, clock: Clock
) -> None:
    console = FakeConsole()
    output = stream(tmp_path, console)
    output.take(b"one\nloading... ")
    assert 0 < (output.show_prompt() or 0) <= 0.3
    assert console.text == b"[0] one\n"
    clock.now += 0.3
    assert output.show_prompt() is None
    assert console.text == b"[0] one\n[0] loading... "
    output.take(b"done\nnext\n")
    assert console.text == b"[0] one\n[0] loading... done\n[0] next\n"


def test_what_is_said_behind_an_answer_is_a_line_of_its_own(tmp_path: Path, clock: Clock) -> None:
    console = FakeConsole()
    output = stream(tmp_path, console)
    output.take(b"name? ")
    output.end_question()  # typed ahead: nobody has seen the question yet
    clock.now += 0.3
    output.show_prompt()
    output.end_question()
    console.blocks.append(("out", b"Bob\n"))  # as the terminal shows it
    output.take(b"hello\n")
    output.end_question()
    output.close()
    assert console.text == b"[0] name? Bob\n[0] hello\n"
    assert (tmp_path / "log").read_bytes() == b"name? hello\n"


def test_half_a_line_that_others_have_torn_goes_on_as_a_line_of_its_own(
    tmp_path: Path, clock: Clock
) -> None:
    console = FakeConsole()
    first, second = stream(tmp_path, console), stream(tmp_path, console, rank=1, prefix=b"[1] ")
    for output in (first, second):
        output.take(b".")
        clock.now += 0.3
        output.show_prompt()
    for _ in range(20):  # not a line for each dot
        first.take(b".")
        clock.now += 0.3
        first.show_prompt()
    first.take(b"end\n")
    second.take(b"\n")
    assert console.text == b"[0] .\n[1] .\n[0] ....................end\n"
    first.close()
    second.close()
    assert console.text.endswith(b"end\n")


def test_only_a_line_that_is_rewritten_for_a_while_is_thinned(tmp_path: Path, clock: Clock) -> None:
    console = FakeConsole()
    output = stream(tmp_path, console)
    for data in (b"a\rb\n", b"\r1", b"\r2", b"\r3", b"\r4\n"):
        output.take(data)
    assert console.text == b"[0] a\rb\n[0] \r1\r2\r3\r4\n"
    console.blocks.clear()
    for percent in range(101):
        output.take(b"\r%d%%" % percent)
        clock.now += 0.15
        output.show_prompt()
    output.take(b"\nlast\r\n")
    lines = console.text.split(b"\n")
    assert lines[-3:] == [b"[0] 100%", b"[0] last\r", b""]
    assert 4 <= len(lines) <= 6
    assert all(line.count(b"%") == 1 for line in lines[:-2])


def test_a_line_that_is_too_long_to_be_kept_arrives_whole(tmp_path: Path) -> None:
    console = FakeConsole()
    output = stream(tmp_path, console)
    piece = bytes(range(14, 256)) * 1000
    for _ in range(40):
        output.take(piece)
    assert console.claimant is output
    assert len(console.text) > 8 << 20  # it is not kept
    output.take(b"end\nnext\n")
    assert console.claimant is None
    assert console.text == b"[0] " + piece * 40 + b"end\n[0] next\n"


def test_random_bytes_arrive_as_they_were_written(tmp_path: Path) -> None:
    console = FakeConsole()
    output = stream(tmp_path, console, prefix=b"")
    data = random.Random(1).randbytes(1 << 20) + b"\n"
    for at in range(0, len(data), 1000):
        output.take(data[at : at + 1000])
    assert console.text == data


def test_every_line_gets_the_prefix_and_the_file_gets_the_bytes(tmp_path: Path) -> None:
    console = FakeConsole()
    output = stream(tmp_path, console)
    for data in (b"a\nb\nc", b"c\r\xff\n", b"end"):
        output.take(data)
    output.close()
    assert b"".join(block for _, block in console.blocks) == (
        b"[0] a\n[0] b\n[0] cc\r\xff\n[0] end\n"
    )
    assert (tmp_path / "log").read_bytes() == b"a\nb\ncc\r\xff\nend"
    assert output.tail.lines(1) == ("end",)


def test_a_hidden_stream_is_only_written(tmp_path: Path) -> None:
    console = FakeConsole()
    output = stream(tmp_path, console, shown=False)
    output.take(b"a\n")
    output.close()
    assert console.blocks == []
    assert (tmp_path / "log").read_bytes() == b"a\n"


def test_filtered_lines_also_go_to_a_file_of_their_own(tmp_path: Path) -> None:
    output = stream(
        tmp_path, FakeConsole(), filters=(b"loss", b"acc"), filtered_path=str(tmp_path / "filtered")
    )
    output.take(b"loss 1\nother\nacc")
    output.take(b"uracy\nno\n")
    output.close()
    assert (tmp_path / "filtered").read_bytes() == b"[0] loss 1\n[0] accuracy\n"


def test_a_log_file_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    console = FakeConsole()
    output = stream(tmp_path, console, log_path="/dev/full")
    output.take(b"a\n")
    output.take(b"b\n")
    output.close()
    assert len(console.said) == 1
    assert "cannot write /dev/full" in console.said[0]
    assert b"".join(block for _, block in console.blocks) == b"[0] a\n[0] b\n"
