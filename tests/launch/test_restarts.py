"""`--max-restarts`: all ranks again, in a world of their own each time."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import Run, Script

REPORT_ATTEMPT = (
    "import json, os\nprint(json.dumps({n: os.environ[n] for n in ('RANK', 'MASTER_PORT',"
    " 'TORCHELASTIC_RESTART_COUNT')}))\n"
)


@pytest.mark.slow
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


@pytest.mark.slow
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
    (run_dir,) = (tmp_path / "runs").iterdir()
    for attempt, folder in enumerate(("logs", "logs/attempt_1", "logs/attempt_2")):
        assert (run_dir / folder / "rank_00.out").read_text() == f"attempt {attempt}\n"


@pytest.mark.slow
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


@pytest.mark.slow
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
