"""Every way in which a rank can die gives one report that says which rank, how, and what it
said.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.diagnosis.report import REPORT_VERSION, FailureReport
from launcher.ranks import format_ranks
from tests.conftest import ROOT, Run, Script, Start, wait_until
from tests.launch.conftest import Failing

pytestmark = pytest.mark.slow


def headline(err: str) -> str:
    """Return the only line that begins a report."""
    (line,) = [line for line in err.splitlines() if line.startswith("FAILED: ")]
    return line


def body(err: str) -> str:
    """Return the report without what the ranks and the launcher said before and after it."""
    begin = err.index("FAILED: ")
    return "".join(
        line for line in err[begin:].splitlines(keepends=True) if not line.startswith("[")
    )


def test_exception_is_reported_with_its_traceback_and_the_log(
    failing: Failing, method: str
) -> None:
    done, report = failing("raise ValueError('the loss is nan')", "--start", method)
    assert done.code == 1
    assert headline(done.err).startswith("FAILED: rank 1 (pid ")
    assert headline(done.err).endswith(": exit code 1")
    text = body(done.err)
    assert text.count("ValueError: the loss is nan") == 1
    assert text.count("Traceback (most recent call last):") == 1
    assert "bootstrap.py" not in text
    assert report["rank"] == 1
    assert report["error_type"] == "ValueError"
    assert report["error_message"] == "the loss is nan"
    assert report["log_path"] in text
    assert "the loss is nan" in Path(report["log_path"]).read_text()


@pytest.mark.parametrize("code", [1, 2, 3, 77, 255])
def test_exit_code_is_that_of_the_rank(failing: Failing, code: int) -> None:
    done, report = failing(f"print('before the end', file=sys.stderr)\nsys.exit({code})")
    assert done.code == code
    assert f"exit code {code}" in headline(done.err)
    assert body(done.err).splitlines()[1:3] == ["  last lines:", "  | before the end"]
    assert report["exit_code"] == code
    assert report["error_message"] == ""


def test_exit_with_a_text_shows_the_text(failing: Failing) -> None:
    done, report = failing("sys.exit('no data in /somewhere')")
    assert done.code == 1
    assert "  no data in /somewhere\n" in body(done.err)
    assert report["error_message"] == "no data in /somewhere"


def test_os_exit_is_reported_without_a_word_from_the_rank(failing: Failing) -> None:
    done, report = failing("os._exit(7)")
    assert done.code == 7
    assert report["what"] == "exit code 7"


def test_abort_shows_what_the_native_code_said_and_the_python_stack(
    failing: Failing, method: str
) -> None:
    what = (
        "terminate called after throwing an instance of 'c10::Error'\\n  what():  x > 0 failed at"
        " foo.cpp:88\\n"
    )
    done, report = failing(
        f'def fit():\n    os.write(2, b"{what}")\n    os.abort()\nfit()', "--start", method
    )
    assert done.code == 134
    assert "killed by SIGABRT (6)" in headline(done.err)
    text = body(done.err)
    assert "what():  x > 0 failed at foo.cpp:88" in text
    assert "in fit" in text
    assert "bootstrap.py" not in text
    assert "forkserver.py" not in text
    assert report["exit_code"] == 134


def test_segfault_shows_the_python_stack_of_the_crash_also_with_many_threads(
    failing: Failing, method: str
) -> None:
    done, report = failing(
        "import ctypes, threading\n"
        "for _ in range(30):\n"
        "    threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "def load_batch():\n    ctypes.string_at(0)\nload_batch()",
        "--start",
        method,
    )
    assert done.code == 139
    assert "killed by SIGSEGV (11)" in headline(done.err)
    assert "in load_batch" in body(done.err)
    assert "in string_at" in body(done.err)
    assert len(body(done.err).splitlines()) < 40


def test_kill_by_hand_is_told_from_the_out_of_memory_killer(failing: Failing, method: str) -> None:
    done, report = failing("os.kill(os.getpid(), signal.SIGKILL)", "--start", method)
    assert done.code == 137
    assert headline(done.err).endswith("killed by SIGKILL (9)")
    assert "no sign of the out-of-memory killer: somebody sent SIGKILL" in report["evidence"]
    assert "the rank's peak was" in report["evidence"]
    assert "the node uses" in report["evidence"]


def test_a_limit_of_cpu_time_is_named_where_it_may_be_what_killed(
    run: Run, only_rank_1: Script
) -> None:
    only_rank_1("os.kill(os.getpid(), signal.SIGKILL)")

    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (4000, 4000))

    done = run("--nproc-per-node", "2", "script.py", preexec_fn=limit)
    assert "somebody sent SIGKILL, or the kernel did at the limit of CPU time" in done.err
    assert "4000 s" in done.err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGFPE", "SIGRTMAX"])
def test_death_by_another_signal_is_named(failing: Failing, name: str) -> None:
    number = int(signal.Signals[name])
    done, report = failing(
        f"signal.signal({number}, signal.SIG_DFL)\nos.kill(os.getpid(), {number})\nsignal.pause()"
    )
    assert done.code == 128 + number
    assert f"killed by {name} ({number})" in headline(done.err)
    assert report["rank"] == 1


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB.", "the GPU's memory is full"),
        (
            (
                "NCCL error: ncclSystemError: System call (e.g. socket, malloc) or external library"
                " call failed"
            ),
            "NCCL could not use",
        ),
        (
            "ncclInvalidUsage: Duplicate GPU detected : rank 1 and rank 0 both on CUDA device",
            "two ranks use the same GPU",
        ),
        (
            (
                "unable to open shared memory object </torch_1> in read-write mode: No space left"
                " on device (28)"
            ),
            "shared memory is full",
        ),
    ],
)
def test_well_known_errors_are_explained(failing: Failing, text: str, hint: str) -> None:
    done, report = failing(f"raise RuntimeError({text!r})")
    assert report["hint"].startswith(hint)
    assert f"  hint: {hint}" in done.err


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "import there_is_no_such_module",
            "ModuleNotFoundError: No module named 'there_is_no_such_module'",
        ),
        (
            "from os import there_is_no_such_name",
            "ImportError: cannot import name 'there_is_no_such_name'",
        ),
        ("def f(:\n    pass", "SyntaxError: invalid syntax"),
    ],
)
def test_error_in_the_program_text_is_one_traceback_for_all_ranks(
    run: Run, script: Script, method: str, text: str, error: str
) -> None:
    done = run("--nproc-per-node", "16", "--start", method, "--max-restarts", "3", script(text))
    assert done.code == 1
    text = body(done.err)
    assert text.count(error) == 1
    first = int(headline(done.err).split()[2])
    others = [rank for rank in range(16) if rank != first]

    assert f"  the same on {format_ranks(others)}\n" in text
    assert "not restarted: another attempt would meet the same" in text


def test_causes_groups_and_notes_are_kept(failing: Failing) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("exception groups and notes came with Python 3.11")
    done, report = failing(
        "try:\n    {}['lr']\nexcept KeyError as error:\n"
        "    group = ExceptionGroup('two things', [ValueError('first'), OSError('second')])\n"
        "    group.add_note('in epoch 3')\n    raise group from error"
    )
    text = body(done.err)
    for part in (
        "KeyError: 'lr'",
        "direct cause",
        "ValueError: first",
        "OSError: second",
        "in epoch 3",
    ):
        assert text.count(part) == 1, part
    assert report["error_type"] == "ExceptionGroup"


def test_deep_recursion_is_one_short_report(failing: Failing) -> None:
    done, report = failing(
        "sys.setrecursionlimit(10_000)\ndef even(n):\n    return odd(n + 1)\ndef odd(n):\n   "
        " return even(n + 1)\neven(0)"
    )
    assert report["error_type"] == "RecursionError"
    text = body(done.err)
    assert "lines left out" in text
    assert len(text.splitlines()) < 90
    assert (
        text.rstrip()
        .splitlines()[-2]
        .startswith("  RecursionError: maximum recursion depth exceeded")
    )
    assert len(json.dumps(report)) < 600_000


def test_message_of_megabytes_is_cut(failing: Failing) -> None:
    done, report = failing("raise ValueError('x' * 5_000_000)")
    assert len(body(done.err)) < 10_000
    assert len(json.dumps(report)) < 1_000_000
    assert "characters left out" in report["error_message"]


def test_tracebacks_in_other_encodings_are_reported_as_text(failing: Failing) -> None:
    done, data = failing(
        "sys.stderr.reconfigure(encoding='latin-1')\nraise ValueError('caf\\xe9 \\udcff"
        " \\U0001f600')"
    )
    assert data["error_message"] == "café \udcff \U0001f600"
    assert "  ValueError: café" in body(done.err)


def test_bytes_that_are_no_text_are_escaped_in_the_last_lines(failing: Failing) -> None:
    done, report = failing("os.write(2, b'caf\\xe9 \\xff\\n')\nos._exit(3)")
    assert report["last_lines"] == ["caf\\xe9 \\xff"]


def test_two_threads_that_print_do_not_disturb_the_report(failing: Failing) -> None:
    done, report = failing(
        "import threading\ndef chatter(fd):\n    for number in range(20_000):\n        os.write(fd,"
        " b'Traceback (most recent call last):\\n  noise\\n')\nfor fd in (1, 2):\n   "
        " threading.Thread(target=chatter, args=(fd,), daemon=True).start()\nraise ValueError('the"
        " one')"
    )
    assert done.code == 1
    assert report["error_message"] == "the one"
    text = body(done.err)
    assert "noise" not in text
    assert text.count("ValueError: the one") == 1


def test_report_comes_last_and_once(failing: Failing) -> None:
    done, _ = failing("print('last words'); raise ValueError('x')")
    assert done.err.count("FAILED: ") == 1
    assert done.err.rstrip().splitlines()[-1].startswith("  log: ")
    assert "FAILED" not in done.out


def test_record_decorator_is_read_as_well(
    run: Run, only_rank_1: Script, report: Callable[[], Any]
) -> None:
    pytest.importorskip("torch")
    text = "from torch.distributed.elastic.multiprocessing.errors import record\n"
    text += "@record\ndef main():\n    raise ValueError('in main')\nmain()"
    run("--nproc-per-node", "2", only_rank_1(text))
    assert (report()["rank"], report()["error_type"], report()["error_message"]) == (
        1,
        "ValueError",
        "in main",
    )


def test_colour_only_on_a_terminal(only_rank_1: Script, start: Start) -> None:
    name = only_rank_1("raise ValueError('x')")
    plain = start("--nproc-per-node", "2", name).finish()
    assert "\x1b" not in plain.err
    terminal, side = os.openpty()
    child = start(
        "--nproc-per-node",
        "2",
        name,
        stdout=side,
        stderr=side,
        env={"TERM": "xterm"},
        reading=False,
    )
    os.close(side)
    shown = b""
    while True:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:
            break  # the last one has closed it
        if not data:
            break
        shown += data
    os.close(terminal)
    assert child.finish().code == 1
    assert b"\x1b[1m\x1b[31mFAILED" in shown


def test_report_file_has_the_documented_fields(failing: Failing) -> None:
    _, report = failing("raise ValueError('x')")
    documented = (ROOT / "docs/reference/report.md").read_text()
    assert report["version"] == REPORT_VERSION
    assert set(report) == {"version", *FailureReport._fields}
    for field in report:
        assert f"| `{field}` |" in documented, field
    assert FailureReport.from_json(report).to_json() == json.dumps(report, indent=1)


def test_success_leaves_no_report_and_no_other_file_of_ours(
    run: Run, script: Script, only_run_dir: Callable[[], Path], method: str
) -> None:
    assert run("--nproc-per-node", "2", "--start", method, script("print('hello')")).code == 0
    names = {path.name for path in only_run_dir().rglob("*") if path.is_file()}
    logs = {f"rank_0{rank}.{stream}" for rank in (0, 1) for stream in ("out", "err", "log")}
    assert names == {*logs, "times.txt", "plan.json", "timeline.json", "end.json"}


@pytest.mark.parametrize("end", ["sys.exit(3)", "sys.exit(2)", "import there_is_no_such_module"])
def test_report_comes_at_once_while_the_others_ignore_sigterm(
    start: Start, script: Script, end: str
) -> None:
    name = script(
        "import os, signal, sys, time\n"
        "rank = int(os.environ['RANK'])\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(f'ready{rank}', 'w').close()\n"
        "while not (os.path.exists('go') and os.path.exists('ready0')): time.sleep(0.001)\n"
        f"if rank == 1: {end}\n"
        "def stubborn(): time.sleep(60)\n"
        "stubborn()\n"
    )
    has_time = end == "sys.exit(3)"
    child = start("--nproc-per-node", "2", "--shutdown-timeout", "3" if has_time else "60", name)
    cwd = Path(os.readlink(f"/proc/{child.pid}/cwd"))
    wait_until(lambda: all((cwd / f"ready{rank}").exists() for rank in (0, 1)), "both ranks run")
    began = time.monotonic()
    (cwd / "go").touch()
    wait_until(lambda: "FAILED: rank 1" in child.err, "the report", 1.0)
    assert "s after the stop, killing:" not in child.err
    if not has_time:
        child.send(signal.SIGTERM)
        child.send(signal.SIGINT)
    done = child.finish(4.0)
    assert done.code == {"sys.exit(3)": 3, "sys.exit(2)": 2}.get(end, 1)
    if has_time:
        assert time.monotonic() - began > 2.9
        # Where the stubborn rank was, seen before it was killed.
        assert "s after the stop, killing:" in done.err
        assert "in stubborn" in done.err


@pytest.mark.parametrize(
    ("failing", "message", "has_traceback", "code"),
    [
        ("raise ValueError('wrong')", "ValueError: wrong", True, 1),
        ("sys.exit(7)", "rank 1 failed, exit code 7", False, 7),
        ("os.kill(os.getpid(), 11)", "rank 1 failed, killed by SIGSEGV (11)", False, 139),
    ],
)
def test_a_platform_around_the_launcher_gets_the_first_cause_as_from_torchrun(
    failing: str,
    message: str,
    has_traceback: bool,
    code: int,
    run: Run,
    script: Script,
    tmp_path: Path,
) -> None:
    script(f"import os, sys, time\nif os.environ['RANK'] == '1': {failing}\ntime.sleep(60)\n")
    path = tmp_path / "of_the_platform.json"
    path.write_text("of another launch")
    environ = {"TORCHELASTIC_ERROR_FILE": str(path)}
    done = run("--nproc-per-node", "2", "script.py", env=environ)
    said = json.loads(path.read_text())["message"]
    assert (done.code, said["errorCode"]) == (code, code)
    assert said["message"].startswith(message)
    assert said["extraInfo"]["py_callstack"].startswith("Traceback" if has_traceback else "")
    assert abs(int(said["extraInfo"]["timestamp"]) - time.time()) < 60


def test_an_error_file_of_a_platform_that_cannot_be_written_is_said(
    run: Run, script: Script
) -> None:
    script("raise ValueError\n")
    done = run("script.py", env={"TORCHELASTIC_ERROR_FILE": "/no/such/file"})
    assert done.code == 1
    said = (
        "[launcher] cannot write TORCHELASTIC_ERROR_FILE=/no/such/file: No such file or directory"
    )
    assert said in done.err
    assert done.err.index(said) < done.err.index("FAILED: ")
