"""Programs that follow a run: events, commands at the end, and the process whose end is ours."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Run, Script, Start, is_alive, wait_until

READY = "import time; print('ready', flush=True); time.sleep(60)\n"


def follow(run: Run, *args: str, **options: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Run the launcher with --events; return how it ended, and the events."""
    read_end, write_end = os.pipe()
    data: list[bytes] = []

    def collect() -> None:
        with open(read_end, "rb") as file:
            data.append(file.read())

    reader = threading.Thread(target=collect)
    reader.start()
    try:
        done = run("--events", str(write_end), *args, pass_fds=[write_end], **options)
    finally:
        os.close(write_end)
        reader.join(10)
    return done, [json.loads(line) for line in data[0].splitlines()]


def documented() -> dict[str, set[str]]:
    """Return the fields of each event as docs/reference/events.md has them."""
    text = (ROOT / "docs" / "reference" / "events.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", text, re.MULTILINE)
    return {name: {"event", "time", *re.findall(r"`(\w+)`", fields)} for name, fields in rows}


@pytest.mark.slow
def test_events_tell_a_run_from_its_beginning_to_its_end(
    method: str, run: Run, script: Script, tmp_path: Path
) -> None:
    script(
        "import os, sys\nprint('out')\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0': raise ValueError('x' * 5000)\n"
    )
    done, events = follow(run, "--start", method, "--max-restarts", "1", "script.py")
    assert done.code == 0
    assert [event["event"] for event in events] == [
        *("run", "attempt", "rank_started", "first_output", "rank_ended", "failure", "restart"),
        *("attempt", "rank_started", "first_output", "rank_ended", "end"),
    ]
    by_name = {event["event"]: event for event in events}
    assert by_name["run"]["version"] == 1
    assert Path(by_name["run"]["run_dir"]).parent == tmp_path / "runs"
    assert by_name["failure"]["error_type"] == "ValueError"
    assert len(by_name["failure"]["error_message"]) == 1000
    assert by_name["restart"]["attempt"] == 1
    assert (by_name["end"]["status"], by_name["end"]["attempts"]) == ("succeeded", 2)
    for event in events:
        assert set(event) <= documented()[event["event"]]
    times = [event["time"] for event in events]
    assert times == sorted(times)


@pytest.mark.slow
def test_a_hang_is_an_event(run: Run, script: Script) -> None:
    script("import time; time.sleep(60)\n")
    done, events = follow(run, "--hang-timeout", "1", "script.py")
    assert done.code == 124
    names = [event["event"] for event in events]
    assert names.index("hang") < names.index("failure") < names.index("end")


@pytest.mark.slow
def test_a_reader_that_does_not_read_holds_up_nothing(run: Run, script: Script) -> None:
    script("print('fine')\n")
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    try:
        while True:
            os.write(write_end, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(write_end, True)
    try:
        done = run("--events", str(write_end), "script.py", pass_fds=[write_end])
        assert (done.code, done.out) == (0, "[0] fine\n")
        # What the descriptor is for others has not changed.
        assert os.get_blocking(write_end)
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.slow
def test_no_rank_has_the_descriptor(method: str, run: Run, script: Script) -> None:
    script("import os\nprint(sorted(os.listdir('/proc/self/fd'), key=int))\n")
    done, events = follow(run, "--start", method, "script.py")
    assert events[-1]["event"] == "end"
    assert len(done.out.split(",")) <= 5


@pytest.mark.parametrize(
    ("fd", "problem"), [("99", "cannot be written: Bad file"), ("1", "must be 3 or more")]
)
def test_a_descriptor_that_is_none_is_an_error(
    fd: str, problem: str, run: Run, script: Script
) -> None:
    script("print('fine')\n")
    done = run("--events", fd, "script.py")
    assert (done.code, done.out) == (2, "")
    assert problem in done.err


STARTER = """
import os, subprocess, sys, threading, time
def start():
    command = [sys.executable, '-m', 'launcher', '--die-with-parent', 'script.py']
    global child
    child = subprocess.Popen(command, stdout=open('out', 'w'), stderr=subprocess.STDOUT)
thread = threading.Thread(target=start)
thread.start()
thread.join()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def orphaned(
    start_command: Start, script: Script, tmp_path: Path
) -> Callable[[int], tuple[int, Path]]:
    """Start a launcher from a thread that has ended, wait for its rank; end the starter."""

    def begin(signum: int) -> tuple[int, Path]:
        script(READY)
        starter = start_command([sys.executable, "-c", STARTER])
        out = tmp_path / "out"
        wait_until(lambda: out.exists() and "ready" in out.read_text(), "the rank")
        pid = int(starter.out)
        assert is_alive(pid)  # the end of the thread alone is nothing
        starter.send(signum)
        starter.finish()
        return pid, out

    return begin


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_ends_with_the_process_that_has_started_it(
    signum: int, orphaned: Callable[[int], tuple[int, Path]], only_run_dir: Callable[[], Path]
) -> None:
    pid, out = orphaned(signum)
    wait_until(lambda: not is_alive(pid), "its end")
    assert "the process that started the launcher (pid" in out.read_text()
    end = json.loads((only_run_dir() / "end.json").read_text())
    assert (end["status"], end["exit_code"]) == ("stopped", 143)


@pytest.mark.slow
def test_a_parent_that_has_gone_before_is_an_error(run: Run, script: Script) -> None:
    script("print('fine')\n")
    gone = subprocess.Popen(["true"])
    gone.wait()
    done = run("--die-with-parent", "script.py", env={"LAUNCHER_PARENT_PID": str(gone.pid)})
    assert (done.code, done.out) == (1, "")
    assert f"(pid {gone.pid}) has ended" in done.err


@pytest.mark.slow
def test_a_parent_further_above_may_be_named(start_command: Start, script: Script) -> None:
    script(READY)
    line = f"{sys.executable} -m launcher --die-with-parent script.py & echo $!; wait"
    running = start_command(["sh", "-c", line], env={"LAUNCHER_PARENT_PID": str(os.getpid())})
    running.wait_for("ready")
    pid = int(running.out.splitlines()[0])
    running.send(signal.SIGKILL)  # the shell, which is not the one that was named
    running.process.wait()
    os.kill(pid, signal.SIGTERM)
    running.finish()
    assert "received SIGTERM" in running.err
    assert "has ended" not in running.err


@pytest.mark.slow
def test_commands_hear_of_the_end_and_change_nothing(
    run: Run, script: Script, only_run_dir: Callable[[], Path], tmp_path: Path
) -> None:
    script("raise SystemExit(5)\n")
    command = 'echo "$1" "$LAUNCHER_EXIT_CODE"; echo on err >&2; exit 3'
    done = run("--on-end", command, "--on-failure", "basename $1 >> told", "script.py")
    folder = only_run_dir()
    assert done.code == 5
    assert (tmp_path / "told").read_text() == "report.json\n"
    assert (folder / "notify.log").read_text() == f"{folder}/end.json 5\non err\n"
    assert f"--on-end: exit code 3 (its output: {folder}/notify.log)" in done.err
    assert "on err" not in done.err


@pytest.mark.slow
def test_a_success_is_no_failure(run: Run, script: Script, tmp_path: Path) -> None:
    script("print('fine')\n")
    done = run("--on-end", "echo end >> told", "--on-failure", "echo failed >> told", "script.py")
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "told").read_text() == "end\n"


@pytest.mark.slow
def test_a_command_that_does_not_end_is_ended_by_a_signal_to_the_launcher(
    start: Start, script: Script, tmp_path: Path
) -> None:
    script("print('fine')\n")
    running = start("--on-end", "sleep 60 & touch began; sleep 60", "script.py")
    wait_until((tmp_path / "began").exists, "the command")
    running.send(signal.SIGTERM)
    done = running.finish()
    assert done.code == 0
    assert "--on-end: it was ended by a signal to the launcher" in done.err
