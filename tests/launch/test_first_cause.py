"""With a real process group, the rank that died is named, not those that noticed it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.contract.error_file import WorkerError
from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.diagnosis.report import make_report
from launcher.exits import shell_code
from tests.conftest import Run, Script

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

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
    run: Run,
    script: Script,
    tmp_path: Path,
    report: Callable[[], dict[str, Any]],
    way: str,
    code: int,
) -> None:
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
    run: Run, script: Script, report: Callable[[], dict[str, Any]]
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


def worker(rank: int, returncode: int, ended_at: float, **more: Any) -> WorkerOutcome:
    return WorkerOutcome(rank, 100 + rank, returncode, ended_at=ended_at, order=rank, **more)


PEER_GONE = WorkerError(
    "RuntimeError", "Connection closed by peer", "Traceback", monotonic_ns=10**9
)


@pytest.mark.parametrize(
    ("returncode", "evidence"), [(9, ""), (-11, ""), (-9, "by the out-of-memory killer")]
)
def test_end_that_is_heard_of_just_after_the_stop_began_is_the_cause(
    returncode: int, evidence: str
) -> None:
    late = worker(1, returncode, 1.02, asked_to_stop_at=1.01, evidence=evidence)
    report = make_report(
        AttemptOutcome(0, (worker(0, 1, 1.0, error=PEER_GONE), late)), hostname="n", run_dir=None
    )
    assert (report.rank, report.exit_code) == (1, shell_code(returncode))


@pytest.mark.parametrize(
    ("returncode", "ended_at"), [(-15, 1.02), (143, 1.02), (0, 1.02), (-9, 1.02), (9, 5.0)]
)
def test_end_that_the_stop_brought_about_is_no_cause(returncode: int, ended_at: float) -> None:
    late = worker(1, returncode, ended_at, asked_to_stop_at=1.01)
    report = make_report(
        AttemptOutcome(0, (worker(0, 1, 1.0, error=PEER_GONE), late)), hostname="n", run_dir=None
    )
    assert report.rank == 0
