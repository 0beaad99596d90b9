"""Of several ranks that end, the first cause is named, and those that only noticed it stand behind
it; also with a real process group.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, Script

pytestmark = pytest.mark.slow

Report = Callable[[], "dict[str, Any]"]

# How often each way to die is tried. The order of the events is a race, so one success proves
# little.
TIMES = int(os.environ.get("FIRST_CAUSE_TIMES", "2"))

TRAINING = """
import os, signal, sys, torch
import torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
for step in range(1_000_000):
    dist.all_reduce(torch.ones(10))
    if step == 20 and rank == 1:
        if sys.argv[1] == "exception": raise ValueError("the cause")
        if sys.argv[1] == "os._exit": os._exit(9)
        if sys.argv[1] == "sys.exit": sys.exit(3)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("way", "code"), [("exception", 1), ("os._exit", 9), ("sys.exit", 3), ("SIGKILL", 137)]
)
def test_rank_that_died_is_named_and_not_those_that_noticed(
    run: Run, script: Script, tmp_path: Path, report: Report, way: str, code: int
) -> None:
    pytest.importorskip("torch")
    name = script(TRAINING)
    for _ in range(TIMES):
        done = run("--nproc-per-node", "3", "--run-dir", "runs", "--rdzv-id", "only", name, way)
        assert done.code == code, done.err
        data = report()
        assert (data["rank"], data["exit_code"], done.code) == (1, code, code), done.err
        for other in data["others"]:
            assert other["what"].endswith("(because a peer had gone)")
        assert len(data["others"]) <= 1
        (tmp_path / "runs/only").rename(tmp_path / f"before-{os.urandom(4).hex()}")


def test_rank_that_logs_the_lost_connection_and_exits_is_not_named(
    run: Run, script: Script, report: Report
) -> None:
    # Rank 0 leaves no exception, and ends microseconds after the connection to rank 1 has gone.
    name = script(
        "import os, socket, time\nrank = int(os.environ['RANK'])\nif rank == 1:\n    listener ="
        " socket.socket(socket.AF_UNIX)\n    listener.bind('new')\n    listener.listen()\n   "
        " os.rename('new', 'peer')\n    peer, _ = listener.accept()\n    os._exit(4)\nwhile not"
        " os.path.exists('peer'): time.sleep(0.001)\npeer ="
        " socket.socket(socket.AF_UNIX)\npeer.connect('peer')\ntry: peer.recv(1)\nexcept OSError:"
        " pass\nos.write(2, b'RuntimeError: Connection closed by peer"
        " [127.0.0.1]:1234\\n')\nos._exit(1)\n"
    )
    done = run("--nproc-per-node", "2", name)
    assert (report()["rank"], report()["what"], done.code) == (1, "exit code 4", 4)
    assert [other["ranks"] for other in report()["others"]] in (
        [],
        [[0]],
    )  # it may have been stopped before


def test_the_first_failure_decides_and_not_those_that_it_causes(
    method: str, run: Run, script: Script
) -> None:
    script(
        "import os, signal, sys\n"
        "if os.environ['RANK'] == '2': sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, lambda *a: sys.exit(50 + int(os.environ['RANK'])))\n"
        "signal.pause()\n"
    )
    done = run("--start", method, "--nproc-per-node", "3", "script.py")
    assert done.code == 7
    assert "FAILED: rank 2" in done.err


def test_one_failure_among_successes_is_a_failure(method: str, run: Run, script: Script) -> None:
    script(
        "import os, sys, time\nfrom pathlib import Path\nrank = os.environ['RANK']\nPath('ended' +"
        " rank).touch()\nif rank == '1':\n    while not (Path('ended0').exists() and"
        " Path('ended2').exists()): time.sleep(0.01)\n    sys.exit(4)\n"
    )
    assert run("--start", method, "--nproc-per-node", "3", "script.py").code == 4


def test_last_lines_are_those_of_the_culprit(run: Run, script: Script, report: Report) -> None:
    name = script(
        "import os, signal\n"
        "rank = int(os.environ['RANK'])\n"
        "for number in range(100):\n    os.write(2, b'rank %d line %d\\n' % (rank, number))\n"
        "open(f'ready{rank}', 'w').close()\n"
        "if rank == 1:\n"
        "    while not os.path.exists('ready0'):\n        pass\n"
        "    os._exit(5)\n"
        "signal.pause()\n"
    )
    done = run("--nproc-per-node", "2", name)
    assert report()["last_lines"] == [f"rank 1 line {number}" for number in range(80, 100)]
    assert "  | rank 1 line 99\n" in done.err
    # What rank 0 said is there as its output alone, and not in the report.
    assert not [line for line in done.err.splitlines() if "rank 0" in line and line[0] != "["]


def test_other_failures_are_grouped_behind_the_first(
    run: Run, script: Script, report: Report
) -> None:
    # Rank 3 is first; 0 and 2 end alike, 1 in its own way. Nobody is gone before all have left
    # their exception.
    name = script(
        "import atexit, os, sys, time\nrank = int(os.environ['RANK'])\ndef wait_for(*ranks):\n   "
        " folder = os.path.dirname(os.environ['LAUNCHER_ERROR_FILE'])\n    while not"
        " all(os.path.exists(f'{folder}/rank_0{rank}.json') for rank in ranks):"
        " time.sleep(0.001)\natexit.register(wait_for, 0, 1, 2, 3)\nif rank == 3: raise"
        " ValueError('first')\nwait_for(3)\nraise KeyError('other') if rank == 1 else"
        " ValueError('later')\n"
    )
    done = run("--nproc-per-node", "4", name)
    data = report()
    assert data["rank"] == 3
    others = {other["what"]: other["ranks"] for other in data["others"]}
    assert others == {"ValueError: later": [0, 2], "KeyError: 'other'": [1]}
    assert "  also failed, later: ranks 0, 2: ValueError: later\n" in done.err
    assert done.err[done.err.index("FAILED: ") :].count("Traceback") == 1
