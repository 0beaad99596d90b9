"""`launcher.ctl` without a run: what it prints about answers that the test makes up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.ctl import __main__ as ctl
from launcher.ctl import messages
from launcher.ctl.__main__ import _Run
from launcher.ctl.messages import RunStatus, WorkerStatus

STATUS = RunStatus(
    run_id="20260101-a1",
    pid=17,
    script="train.py --lr 0.1",
    age_s=7300.0,
    attempt=0,
    workers=(WorkerStatus(0, 18, "running", 130.0), WorkerStatus(1, 19, "exit code 0", None)),
)
RUN = _Run("launcher/0/aa", STATUS)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[_Run]:
    """The runs of this machine, for the test to fill."""
    found: list[_Run] = []
    monkeypatch.setattr(ctl, "_find_runs", lambda: found)
    return found


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What is asked of runs; all of it is done."""
    asked: list[tuple[Any, ...]] = []

    def call(name: str, request: messages.Request, timeout_s: float) -> messages.Answer:
        asked.append((name, request))
        return messages.Done("done")

    monkeypatch.setattr(ctl, "_call", call)
    return asked


def test_run_is_one_line(runs: list[_Run], capsys: pytest.CaptureFixture[str]) -> None:
    runs.append(RUN)
    assert ctl.main(["ps"]) == 0
    assert (
        capsys.readouterr().out
        == "20260101-a1  pid 17  1/2 ranks running  2.0 h  last output 2 min ago  train.py --lr"
        " 0.1\n"
    )


def test_restarts_and_silence_are_shown(
    runs: list[_Run], capsys: pytest.CaptureFixture[str]
) -> None:
    starting = (WorkerStatus(0, 0, "starting", None),)
    runs.append(RUN._replace(status=STATUS._replace(attempt=2, age_s=5.0, workers=starting)))
    ctl.main(["ps"])
    assert "0/1 ranks running, restart 2  5 s  no output yet" in capsys.readouterr().out


@pytest.mark.parametrize("wanted", [["2026"], ["20260101-a1"], ["17"], []])
def test_run_is_chosen_by_id_beginning_pid_or_because_it_is_the_only_one(
    runs: list[_Run], calls: list[tuple[Any, ...]], wanted: list[str]
) -> None:
    runs.append(RUN)
    assert ctl.main(["stop", *wanted]) == 0
    assert calls == [("launcher/0/aa", messages.Stop())]


@pytest.mark.parametrize(("name", "number"), [("SIGUSR1", 10), ("usr1", 10), ("15", 15)])
def test_signals_may_be_written_in_any_way(
    runs: list[_Run], calls: list[tuple[Any, ...]], name: str, number: int
) -> None:
    runs.append(RUN)
    assert ctl.main(["signal", name]) == 0
    assert calls == [("launcher/0/aa", messages.SendSignal(number))]


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
    runs: list[_Run], capsys: pytest.CaptureFixture[str], argv: list[str], code: int, text: str
) -> None:
    assert ctl.main(argv) == code
    assert text in capsys.readouterr().err


def test_several_runs_must_be_told_apart(
    runs: list[_Run], capsys: pytest.CaptureFixture[str]
) -> None:
    other = STATUS._replace(run_id="20260102-b2", pid=18)
    runs.extend([RUN, _Run("launcher/0/cc", other), _Run("launcher/0/bb", None)])
    assert ctl.main(["stacks", "2026"]) == 2
    assert "20260101-a1 (pid 17), 20260102-b2 (pid 18)" in capsys.readouterr().err
    ctl.main(["ps"])
    assert "launcher/0/bb  does not answer (stopped, or very busy)" in capsys.readouterr().out


def test_stacks_are_printed_as_they_come(
    runs: list[_Run], calls: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    runs.append(RUN)
    assert ctl.main(["stacks"]) == 0
    assert calls == [("launcher/0/aa", messages.AskStacks())]
    assert capsys.readouterr().out == "done\n"


def test_what_a_run_refuses_is_an_error(
    runs: list[_Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.append(RUN)
    monkeypatch.setattr(ctl, "_call", lambda *asked: messages.Refused("there are no ranks yet"))
    assert ctl.main(["signal", "USR1"]) == 1
    assert "error: there are no ranks yet" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["unknown", "7"])
def test_a_run_that_does_not_answer_has_no_pid_to_be_named_by(
    runs: list[_Run], capsys: pytest.CaptureFixture[str], word: str
) -> None:
    runs.extend([_Run("launcher/0/bb", None), _Run("launcher/0/cc", None)])
    assert ctl.main(["stop", word]) == 1
    ctl.main(["stop"])
    assert "launcher/0/bb (pid unknown)" in capsys.readouterr().err


def test_memory_and_steps_are_shown_where_they_are_known(
    runs: list[_Run], capsys: pytest.CaptureFixture[str]
) -> None:
    runs.append(RUN._replace(status=STATUS._replace(memory=3 << 30, steps_per_s=1.25)))
    assert ctl.main(["ps"]) == 0
    assert "  last output 2 min ago  3.0 GiB  1.25 steps/s  train.py" in capsys.readouterr().out


def test_logs_of_ranks_that_are_no_numbers_are_a_usage_error(
    runs: list[_Run], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctl.main(["logs", "--rank", "first"]) == 2
    assert "--rank first: must be ranks with commas" in capsys.readouterr().err


def test_logs_of_ranks_that_are_not_here_say_so(
    runs: list[_Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rank_00.out").write_text("hello\n")
    runs.append(RUN._replace(status=STATUS._replace(logs=str(tmp_path))))
    assert ctl.main(["logs", "--rank", "0,8-9"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "[0] hello\n"
    assert (
        "another host, perhaps, has the output of ranks 8-9; type there: python -m launcher.ctl"
        f" logs {tmp_path}\n"
    ) in shown.err


def test_logs_without_times_say_so(
    runs: list[_Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rank_00.out").write_text("hello\n")
    runs.append(RUN._replace(status=STATUS._replace(logs=str(tmp_path))))
    assert ctl.main(["logs"]) == 0
    assert "it is not known when these lines came" in capsys.readouterr().err


def test_logs_of_one_of_several_runs_must_be_named(
    runs: list[_Run], capsys: pytest.CaptureFixture[str]
) -> None:
    runs += [RUN, RUN]
    assert ctl.main(["logs"]) == 2
    assert "There are several runs" in capsys.readouterr().err
