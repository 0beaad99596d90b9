"""launcher.launch(): functions and commands from a script, a test, a notebook."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import launcher
from launcher.function.launch import launch

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs go into this folder, private folders into one beside it that must be empty in the
    end.
    """
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setenv("TMPDIR", str(private))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)


def place(word: str, *, end: str = "") -> tuple[int, str, int]:
    """What a worker makes of its arguments; a plain function of a module that the workers
    import.
    """
    from launcher import worker

    return worker.rank(), word + end, os.getpid()


def test_a_function_returns_its_results_by_rank(method: str, tmp_path: Path) -> None:
    results = launch(place, ("a",), {"end": "!"}, nproc_per_node=3, start=method)
    assert {rank: (result[0], result[1]) for rank, result in results.items()} == {
        rank: (rank, "a!") for rank in range(3)
    }
    assert len({os.getpid(), *(result[2] for result in results.values())}) == 4
    assert list((tmp_path / "private").iterdir()) == []


def test_workers_find_nothing_that_was_meant_for_the_launcher(method: str) -> None:
    # A launcher that a worker starts would wait for the end of this process, and leave its result
    # where ours is awaited.
    names = ("LAUNCHER_PARENT_PID", "LAUNCHER_RESULT_FILE")
    found = launch(
        lambda: [name for name in names if name in os.environ], nproc_per_node=2, start=method
    )
    assert found == {0: [], 1: []}


def test_a_closure_and_a_class_made_here_travel_both_ways() -> None:
    class Pair:
        def __init__(self, left: object) -> None:
            self.left = left

    base = 10
    results = launch(lambda step: Pair(base + step), (5,), nproc_per_node=2)
    assert [(type(result) is Pair, result.left) for result in results.values()] == [(True, 15)] * 2


def test_a_module_that_only_the_caller_finds_is_found_by_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "only_here.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(folder))
    import only_here  # type: ignore[import-not-found]

    assert launch(only_here.double, (21,)) == {0: 42}


def test_output_goes_to_the_streams_as_they_are_now() -> None:
    def speak() -> None:
        print("said")
        print("complained", file=sys.stderr)

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        launch(speak, nproc_per_node=2)
    assert sorted(out.getvalue().splitlines()) == ["[0] said", "[1] said"]
    assert sorted(line for line in err.getvalue().splitlines() if "complained" in line) == [
        "[0] complained",
        "[1] complained",
    ]


def test_it_works_inside_a_running_event_loop_as_notebooks_have_one() -> None:
    import asyncio

    async def cell() -> dict[int, str]:
        return launch(lambda: "fine", nproc_per_node=2)

    assert asyncio.run(cell()) == {0: "fine", 1: "fine"}


def test_it_works_outside_the_main_thread() -> None:
    results: list[dict[int, int]] = []
    thread = threading.Thread(target=lambda: results.append(launch(lambda: 7)))
    thread.start()
    thread.join()
    assert results == [{0: 7}]


def test_a_failing_function_raises_the_report_without_our_frames() -> None:
    def fail() -> None:
        if os.environ["RANK"] == "1":
            raise ValueError("no good")

    with pytest.raises(launcher.WorkerFailed) as caught:
        launch(fail, nproc_per_node=2)
    report = caught.value.report
    assert (report.rank, report.error_type, report.error_message) == (1, "ValueError", "no good")
    assert caught.value.exit_code == 1
    assert "in fail" in report.traceback
    assert os.path.join("worker", "call.py") not in report.traceback


def test_a_function_that_first_fails_is_started_again() -> None:
    def fail_once() -> int:
        attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
        if attempt == 0:
            raise OSError("flaky")
        return attempt

    assert launch(fail_once, nproc_per_node=2, max_restarts=1) == {0: 1, 1: 1}


def test_a_command_returns_none_by_rank(tmp_path: Path) -> None:
    (tmp_path / "write.py").write_text(
        "import os, sys\nopen('rank' + os.environ['RANK'], 'w').write(' '.join(sys.argv[1:]) +"
        " os.environ['EXTRA'])\n"
    )
    results = launch(["write.py", "--lr"], (0.1,), nproc_per_node=2, env={"EXTRA": "!"})
    assert results == {0: None, 1: None}
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["--lr 0.1!"] * 2


def test_a_path_and_a_module_are_commands_too(tmp_path: Path) -> None:
    (tmp_path / "quiet.py").write_text("")
    assert launch(tmp_path / "quiet.py") == {0: None}
    assert launch(["-m", "quiet"]) == {0: None}


def test_the_run_folder_is_where_it_was_asked_for(tmp_path: Path) -> None:
    launch(lambda: None, run_dir=tmp_path / "chosen")
    assert len(list((tmp_path / "chosen").glob("*-*"))) == 1
    assert not (tmp_path / "runs").exists()


def leave(code: object = 0) -> None:
    sys.exit(code)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (
            lambda: launch(lambda: threading.Lock()),
            launcher.WorkerFailed,
            ["rank 0", "lock", "cannot be pickled"],
        ),
        (lambda: launch(place, (threading.Lock(),)), launcher.LauncherError, ["Argument 0 (lock)"]),
        (
            lambda: launch(place, ("a",), {"end": threading.Lock()}),
            launcher.LauncherError,
            ["Argument end= (lock)"],
        ),
        (
            lambda: launch((lambda lock: lambda: lock)(threading.Lock())),
            launcher.LauncherError,
            ["The function"],
        ),
        (
            lambda: launch(leave),
            launcher.LauncherError,
            ["Rank 0 ended without a result", "sys.exit()"],
        ),
        (lambda: launch(leave, (3,)), launcher.WorkerFailed, ["rank 0", "exit code 3"]),
        (lambda: launch(place, nproc_per_node=0), launcher.UsageError, ["--nproc-per-node", "0"]),
        (lambda: launch(place, start="fast"), launcher.UsageError, ["--start", "fast"]),
        (lambda: launch(place, backend="mpi"), launcher.UsageError, ["--backend", "mpi"]),
        (lambda: launch([]), launcher.UsageError, ["no script"]),
        (lambda: launch("no_such.py"), launcher.UsageError, ["There is no file no_such.py"]),
        (
            lambda: launch(["--no-python", "./no_such"]),
            launcher.SpawnError,
            ["./no_such was not found"],
        ),
        (
            lambda: launch(place, env={"PYTHON_EXEC": "/no/python"}),
            launcher.SpawnError,
            ["/no/python", "unset PYTHON_EXEC"],
        ),
        (lambda: launch("train.py", kwargs={"lr": 1}), launcher.UsageError, ["kwargs", "train.py"]),
    ],
)
def test_what_cannot_be_is_named(
    call: Callable[[], Any],
    kind: type[Exception],
    words: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(kind) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    # Raised, and not printed besides.
    assert "launcher: error" not in capfd.readouterr().err


def wait_for_ever(ready: str) -> None:
    import signal

    with open(f"{ready}.tmp", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{ready}.tmp", ready)
    signal.pause()


def test_a_launch_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    ready, timeout_s = tmp_path / "ready", 1.0
    while not ready.exists() and timeout_s < 100.0:  # it may be over before the worker runs
        with pytest.raises(TimeoutError, match="timeout_s"):
            launch(wait_for_ever, (str(ready),), timeout_s=timeout_s)
        timeout_s *= 2
    with pytest.raises(ProcessLookupError):
        os.kill(int(ready.read_text()), 0)


CALLER = """
import os, signal, sys, launcher
def wait(ready):
    import os, signal
    open(ready + ".tmp", "w").write(str(os.getpid()))
    os.rename(ready + ".tmp", ready)
    signal.pause()
try:
    launcher.launch(wait, (sys.argv[1],))
except KeyboardInterrupt:
    print("interrupted")
"""


def start_caller(
    start_command: Any, script: Any, tmp_path: Path, **options: Any
) -> tuple[Any, int]:
    from tests.conftest import wait_until

    ready = tmp_path / "ready"
    caller = start_command([sys.executable, script(CALLER), str(ready)], **options)
    wait_until(ready.exists, "the worker is ready")
    return caller, int(ready.read_text())


def test_ctrl_c_in_the_caller_stops_the_workers_first(
    start_command: Any, script: Any, tmp_path: Path
) -> None:
    caller, worker = start_caller(start_command, script, tmp_path)
    caller.send(signal.SIGINT)
    done = caller.finish()
    assert (done.code, done.out) == (0, "interrupted\n")
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.parametrize("sigterm", [signal.SIG_DFL, signal.SIG_IGN])
def test_the_workers_end_when_the_caller_is_killed(
    start_command: Any, script: Any, tmp_path: Path, sigterm: signal.Handlers
) -> None:
    from tests.conftest import is_alive, wait_until

    caller, worker = start_caller(
        start_command, script, tmp_path, preexec_fn=lambda: signal.signal(signal.SIGTERM, sigterm)
    )
    caller.send(signal.SIGKILL)
    assert caller.finish().code == -signal.SIGKILL
    wait_until(lambda: not is_alive(worker), "the worker has ended")


def test_ranks_meet_through_the_helpers() -> None:
    pytest.importorskip("torch")

    def total() -> float:
        ctx = launcher.init(backend="gloo")
        return ctx.all_reduce(float(ctx.rank + 1), "sum")

    assert launch(total, nproc_per_node=2) == {0: 3.0, 1: 3.0}
