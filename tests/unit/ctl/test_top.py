"""`ctl top`: a table that is drawn over itself."""

from __future__ import annotations

import io

import pytest

from launcher.ctl import top
from launcher.ctl.messages import Use


def test_a_drawing_covers_what_stood_there() -> None:
    assert top.draw("one\ntwo", 80, 24) == "\x1b[Hone\x1b[K\ntwo\x1b[K\x1b[J"


def test_a_small_screen_gets_what_fits() -> None:
    text = "\n".join(str(number) * 30 for number in range(10))
    drawn = top.draw(text, 20, 6)
    assert drawn.count("\n") == 4
    assert "... 6 more" in drawn
    assert max(len(line.replace("\x1b[K", "")) for line in drawn.split("\n")[1:]) <= 19


def test_it_ends_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    uses = iter([Use(()), Use(()), None])
    monkeypatch.setattr(top.time, "sleep", lambda seconds: None)
    screen = io.StringIO()
    top.show("my-run", lambda: next(uses), screen)
    assert screen.getvalue().count("my-run") == 2


def test_ctrl_c_ends_it_quietly() -> None:
    def interrupt() -> Use:
        raise KeyboardInterrupt

    top.show("my-run", interrupt, io.StringIO())
