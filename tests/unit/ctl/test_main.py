"""`launcher.ctl` without a run: what it prints about answers that the test makes up."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.ctl import __main__ as ctl

RUN = {
    "run_id": "20260101-a1",
    "pid": 17,
    "age_s": 7300.0,
    "attempt": 0,
    "script": "train.py --lr 0.1",
    "name": "launcher/0/aa",
    "workers": [
        {"state": "running", "last_output_s": 130.0},
        {"state": "exit code 0", "last_output_s": None},
    ],
}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The runs of this machine, for the test to fill."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(ctl, "_find_runs", lambda: found)
    return found


def test_run_is_one_line(runs: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    runs.append(RUN)
    assert ctl.main(["ps"]) == 0
    assert (
        capsys.readouterr().out
        == "20260101-a1  pid 17  1/2 ranks running  2.0 h  last output 2 min ago  train.py --lr"
        " 0.1\n"
    )


def test_restarts_and_silence_are_shown(
    runs: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    runs.append(
        {
            **RUN,
            "attempt": 2,
            "age_s": 5.0,
            "workers": [{"state": "starting", "last_output_s": None}],
        }
    )
    ctl.main(["ps"])
    assert "0/1 ranks running, restart 2  5 s  no output yet" in capsys.readouterr().out


@pytest.mark.parametrize("wanted", [["2026"], ["20260101-a1"], ["17"], []])
def test_run_is_chosen_by_id_beginning_pid_or_because_it_is_the_only_one(
    runs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, wanted: list[str]
) -> None:
    runs.append(RUN)
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(ctl, "_call", lambda *call: calls.append(call) or {})
    assert ctl.main(["stop", *wanted]) == 0
    assert calls == [("launcher/0/aa", {"command": "stop"})]


@pytest.mark.parametrize(("name", "number"), [("SIGUSR1", 10), ("usr1", 10), ("15", 15)])
def test_signals_may_be_written_in_any_way(
    runs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    runs.append(RUN)
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(ctl, "_call", lambda *call: calls.append(call) or {})
    assert ctl.main(["signal", name]) == 0
    assert calls[0][1] == {"command": "signal", "signum": number}


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["stop"], 1, "No run is going on here"),
        (["stop", "abc"], 1, "No run abc"),
        (["signal", "SIGNONSENSE"], 2, "There is no signal SIGNONSENSE"),
        (["signal", "999"], 2, "There is no signal 999"),
    ],
)
def test_errors_say_what_is_wrong(
    runs: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    code: int,
    text: str,
) -> None:
    assert ctl.main(argv) == code
    assert text in capsys.readouterr().err


def test_several_runs_must_be_told_apart(
    runs: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    runs.extend([RUN, {**RUN, "run_id": "20260102-b2", "pid": 18}, {"name": "launcher/0/bb"}])
    assert ctl.main(["stacks", "2026"]) == 2
    assert "20260101-a1 (pid 17), 20260102-b2 (pid 18)" in capsys.readouterr().err
    ctl.main(["ps"])
    assert "launcher/0/bb  does not answer (stopped, or very busy)" in capsys.readouterr().out
