"""`--max-restarts`: all ranks again, in a world of their own each time; what is restarted and when,
and what the report says about the attempts before.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, Script, run_dirs

pytestmark = pytest.mark.slow

Report = Callable[[], "dict[str, Any]"]

# How many runs must get over the death of a rank; a store that keeps old addresses fails most of
# them.
TIMES = int(os.environ.get("RESTART_TIMES", "2"))

HEAD = (
    "import os, sys, signal, time\nrank = int(os.environ['RANK'])\nattempt ="
    " int(os.environ['TORCHELASTIC_RESTART_COUNT'])\n"
)
REPORT_ATTEMPT = (
    "import json, os\nprint(json.dumps({n: os.environ[n] for n in ('RANK', 'MASTER_PORT',"
    " 'TORCHELASTIC_RESTART_COUNT')}))\n"
)


def attempts_of(err: str) -> int:
    return err.count("; starting all ranks again") + 1


def test_all_ranks_start_again_until_they_succeed(method: str, run: Run, script: Script) -> None:
    script(
        REPORT_ATTEMPT
        + "raise SystemExit(os.environ['RANK'] == '1' and os.environ['TORCHELASTIC_RESTART_COUNT']"
        " != '2')\n"
    )
    done = run(
        "--start",
        method,
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "5",
        "--restart-backoff",
        "0",
        "script.py",
    )
    assert done.code == 0, done.err
    seen = [json.loads(line[4:]) for line in done.out.splitlines()]
    ports = {}
    for variables in seen:
        ports.setdefault(variables["TORCHELASTIC_RESTART_COUNT"], set()).add(
            variables["MASTER_PORT"]
        )
    assert sorted(ports) == ["0", "1", "2"]
    # One port for an attempt, and never one that another attempt has had.
    assert sorted(len(values) for values in ports.values()) == [1, 1, 1]
    assert len(set.union(*ports.values())) == 3
    assert sorted(v["RANK"] for v in seen if v["TORCHELASTIC_RESTART_COUNT"] == "2") == ["0", "1"]


def test_when_no_restarts_are_left_the_last_failure_counts(
    method: str, run: Run, script: Script, tmp_path: Path
) -> None:
    script(
        "import os, sys\nattempt = int(os.environ['TORCHELASTIC_RESTART_COUNT'])\nprint('attempt',"
        " attempt)\nsys.exit(10 + attempt)\n"
    )
    done = run(
        "--start",
        method,
        "--nproc-per-node",
        "1",
        "--max-restarts",
        "2",
        "--restart-backoff",
        "0",
        "script.py",
    )
    assert done.code == 12
    assert done.out == "[0] attempt 0\n[0] attempt 1\n[0] attempt 2\n"
    assert len(re.findall("FAILED: rank 0", done.err)) == 1
    (run_dir,) = run_dirs(tmp_path)
    for attempt, folder in enumerate(("logs", "logs/attempt_1", "logs/attempt_2")):
        assert (run_dir / folder / "rank_00.out").read_text() == f"attempt {attempt}\n"


def test_twenty_restarts_of_twenty_succeed(run: Run, script: Script) -> None:
    pytest.importorskip("torch")
    script(
        "import os, torch, torch.distributed as dist\ndist.init_process_group('gloo')\nx ="
        " torch.ones(1)\ndist.all_reduce(x)\nassert x.item() == 2\nattempt ="
        " int(os.environ['TORCHELASTIC_RESTART_COUNT'])\nif dist.get_rank() == 1 and attempt < 20:"
        " raise RuntimeError(f'attempt {attempt} was to fail')\ndist.barrier()\nprint('done',"
        " attempt)\ndist.destroy_process_group()\n"
    )
    done = run(
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "20",
        "--restart-backoff",
        "0",
        "script.py",
        timeout_s=110,
    )
    assert done.lines == ["[0] done 20", "[1] done 20"], done.err[-3000:]
    assert done.code == 0
    # Each failure was the one that the script made: nothing failed because of the attempt before.
    for attempt in range(20):
        assert f"attempt {attempt} was to fail" in done.err


def test_a_process_that_an_attempt_left_behind_is_gone_before_the_next(
    method: str, run: Run, script: Script
) -> None:
    script(
        "import os, subprocess, sys\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        "    child = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "    open('pid', 'w').write(str(child.pid))\n"
        "    sys.exit(1)\n"
        "print(os.path.exists('/proc/' + open('pid').read()))\n"
    )
    done = run("--start", method, "--max-restarts", "1", "script.py")
    assert done.out == "[0] False\n"
    assert done.code == 0


def test_a_service_that_comes_up_late_is_waited_for(run: Run, script: Script) -> None:
    name = script(
        HEAD + "import socket\n"
        "with socket.socket() as service:\n"
        "    service.bind(('127.0.0.1', 0))\n"
        "    if attempt == 4: service.listen()\n"
        "    socket.create_connection(service.getsockname()).close()\n"
        "print('connected', flush=True)\n"
    )
    done = run("--nproc-per-node", "2", "--max-restarts", "5", "--restart-backoff", "0.01", name)
    assert (done.code, attempts_of(done.err)) == (0, 5), done.err
    assert done.err.count("ConnectionRefusedError: [Errno 111] Connection refused; starting") == 4
    assert done.lines == ["[0] connected", "[1] connected"]


def test_all_restarts_are_used_up_and_the_report_has_the_history(
    run: Run, script: Script, report: Report
) -> None:
    done = run(
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "3",
        "--restart-backoff",
        "0",
        script(HEAD + "if rank == 1: raise ValueError('always')\ntime.sleep(60)\n"),
    )
    assert attempts_of(done.err) == 4
    assert report()["attempt"] == 3
    assert report()["verdict"] == "all 3 restarts are used up"
    history = report()["history"]
    assert [line[:9] for line in history] == ["attempt 0", "attempt 1", "attempt 2"]
    assert "rank 1 failed, exit code 1: ValueError: always" in history[0]
    assert f"  before: {history[0]}\n" in done.err
    assert done.err.count("FAILED: ") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "import there_is_no_such_module",
            "another attempt would meet the same ModuleNotFoundError",
        ),
        ("print(undefined)", "another attempt would meet the same NameError"),
        ("sys.exit(2)", "exit code 2 at the start is a usage error"),
        (
            "import argparse; argparse.ArgumentParser().parse_args(['--wrong'])",
            "exit code 2 at the start is a usage error",
        ),
    ],
)
def test_what_cannot_heal_is_not_restarted(
    run: Run, script: Script, report: Report, text: str, reason: str
) -> None:
    done = run("--nproc-per-node", "2", "--max-restarts", "5", script(HEAD + text + "\n"))
    assert attempts_of(done.err) == 1
    assert report()["verdict"] == f"not restarted: {reason}"
    assert f"  not restarted: {reason}\n" in done.err


@pytest.mark.parametrize(
    ("codes", "code", "attempts"),
    [("77", 77, 1), ("64-78", 77, 1), ("3,64-78", 79, 3), ("137", 137, 1)],
)
def test_exit_codes_that_never_restart(
    run: Run, script: Script, report: Report, codes: str, code: int, attempts: int
) -> None:
    end = "os.kill(os.getpid(), 9)" if code == 137 else f"os._exit({code})"
    done = run(
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "2",
        "--restart-backoff",
        "0",
        "--no-restart-codes",
        codes,
        script(HEAD + f"if rank == 1: {end}\ntime.sleep(60)\n"),
    )
    assert (done.code, attempts_of(done.err)) == (code, attempts)
    assert ("names exit code" in report()["verdict"]) == (attempts == 1)


def test_budget_of_a_time_window_counts_beside_that_of_the_run(
    run: Run, script: Script, report: Report
) -> None:
    done = run(
        "--nproc-per-node",
        "1",
        "--max-restarts",
        "10",
        "--restart-limit",
        "2/600",
        "--restart-backoff",
        "0",
        script(HEAD + "os._exit(3)\n"),
    )
    assert attempts_of(done.err) == 3
    assert report()["verdict"] == "not restarted: --restart-limit allows 2 restarts in 600 s"


def test_first_restart_comes_at_once_and_the_second_after_a_pause(run: Run, script: Script) -> None:
    name = script(HEAD + "open(f'began{attempt}', 'w').write(str(time.monotonic()))\nos._exit(3)\n")
    done = run("--nproc-per-node", "1", "--max-restarts", "2", "--restart-backoff", "1", name)
    said = [line for line in done.err.splitlines() if "starting all ranks again" in line]
    assert said[0].endswith("; starting all ranks again")
    assert " again in " in said[1]


def test_signal_in_the_pause_before_a_restart_ends_the_run_at_once(
    start: Callable[..., Any], script: Script
) -> None:
    child = start(
        "--nproc-per-node",
        "1",
        "--max-restarts",
        "5",
        "--restart-backoff",
        "60",
        script(HEAD + "os._exit(3)\n"),
    )
    child.wait_for("starting all ranks again in ")
    child.send(15)
    assert child.finish(1.5).code == 143


def test_signal_to_the_launcher_is_no_failure_to_restart(
    start: Callable[..., Any], script: Script
) -> None:
    child = start(
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "5",
        script(HEAD + "print('ready', flush=True)\nsignal.pause()\n"),
    )
    child.wait_for("ready", 2)
    child.send(15)
    done = child.finish()
    assert (done.code, attempts_of(done.err)) == (143, 1)


def test_restart_works_after_a_first_attempt_that_had_reduced(
    run: Run, script: Script, method: str
) -> None:
    pytest.importorskip("torch")
    name = script(
        HEAD + "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "for step in range(5):\n"
        "    dist.all_reduce(torch.ones(1))\n"
        "    if attempt == 0 and step == 3 and rank == 1: raise ValueError(f'attempt {attempt}')\n"
        "dist.destroy_process_group()\nprint('reduced in', attempt, flush=True)\n"
    )
    for _ in range(TIMES if method == "warm" else 1):
        done = run(
            "--nproc-per-node",
            "2",
            "--start",
            method,
            "--max-restarts",
            "1",
            "--restart-backoff",
            "0",
            name,
        )
        assert done.code == 0, done.err
        assert done.out.count("reduced in 1") == 2
