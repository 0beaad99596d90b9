"""Why a host cannot take part, in words."""

from __future__ import annotations

import sys

import pytest

from launcher.engines.obstacles import (
    explain_end,
    explain_loss,
    explain_problem,
    explain_silence,
    make_error,
)
from tests.unit.engines.test_ssh_plan import plan_of

PLAN = plan_of("--hosts", "h1,ann@h2", "train.py")


@pytest.mark.parametrize(
    ("status", "words", "why", "hint"),
    [
        (
            255,
            "ssh: connect to host h2 port 22: Connection refused",
            "cannot be reached: ssh: ",
            "Try",
        ),
        (255, "", "cannot be reached: ssh has ended with 255", "Try: ssh ann@h2 true"),
        (
            127,
            "sh: x: not found",
            f"does not have this interpreter, {sys.executable}: sh",
            "The same",
        ),
        (1, "x: Command not found.", f"does not have this interpreter, {sys.executable}: x", "The"),
        (2, "x: can't open file 'remote.py'", "does not have the launcher where it is here", "The"),
        (2, "launcher: error: There is no file x.", "cannot take part: There is no file x.", ""),
        (-9, "", "cannot start its launcher: ssh has ended with -9", "Try"),
    ],
)
def test_the_end_of_ssh_says_why(status: int, words: str, why: str, hint: str) -> None:
    obstacle = explain_end(PLAN, 1, status, words)
    assert obstacle.why.startswith(why)
    assert obstacle.hint.startswith(hint) and bool(obstacle.hint) == bool(hint)


def test_a_host_says_itself_what_is_missing() -> None:
    assert explain_problem(PLAN, "folder", "Permission denied").why == (
        "has no folder /work/my job that could be entered: Permission denied"
    )
    assert "cannot serve port" in explain_problem(PLAN, "port", "Address already in use").why


def test_silence_is_told_with_what_ssh_has_said() -> None:
    assert explain_silence(60, "").why == "has not answered in 60 s"
    assert explain_silence(0.5, "hm").why == "has not answered in 0.5 s (hm)"


def test_who_has_answered_and_gone_again_was_lost() -> None:
    assert explain_loss(PLAN, 1, 255, "").why == (
        "was lost before the run began: ssh has ended with 255"
    )
    assert explain_loss(PLAN, 1, 255, "no route").why.endswith(": no route")


def test_an_error_names_every_host() -> None:
    names = {0: "h1", 1: "h2", 2: "h3"}
    silence = explain_silence(60, "")
    refused = explain_end(PLAN, 1, 255, "no")
    assert str(make_error(names, {1: refused})) == (
        "h2 cannot be reached: no. Try: ssh ann@h2 true"
    )
    assert str(make_error(names, {2: silence, 1: refused})) == (
        "2 of 3 hosts cannot take part:\n"
        "  h2 cannot be reached: no. Try: ssh ann@h2 true\n"
        "  h3 has not answered in 60 s."
    )
