"""One stream of one worker: prefixes, templates, log files; all the way: launch/test_output.py."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_colours_differ_between_neighbours() -> None:
    prefixes = [make_prefix(None, NAMES, width=1, rank=rank, colour=True) for rank in range(6)]
    assert len({prefix.partition(b"[")[2].partition(b"m")[0] for prefix in prefixes}) == 6


class FakeConsole:
    """Keeps what it is told; no terminal."""

    def __init__(self) -> None:
        self.blocks: list[tuple[str, bytes]] = []
        self.said: list[str] = []

    def show(self, stream: str, block: bytes) -> None:
        self.blocks.append((stream, block))

    def say(self, text: str) -> None:
        self.said.append(text)

    def is_tty(self, stream: str) -> bool:
        return False

    def end_live(self, rank: int) -> None:
        pass


def stream(tmp_path: Path, console: FakeConsole, **changes: object) -> RankStream:
    settings = StreamSettings(
        rank=0, stream="out", prefix=b"[0] ", log_path=str(tmp_path / "log"), shown=True
    )
    return RankStream(settings._replace(**changes), console)


def test_every_line_gets_the_prefix_and_the_file_gets_the_bytes(tmp_path: Path) -> None:
    console = FakeConsole()
    output = stream(tmp_path, console)
    for data in (b"a\nb\nc", b"c\r\xff\n", b"end"):
        output.take(data)
    output.close()
    assert b"".join(block for _, block in console.blocks) == b"[0] a\n[0] b\n[0] \xff\n[0] end\n"
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
