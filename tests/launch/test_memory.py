"""Deaths that have to do with memory: the kernel's out-of-memory killer, a full /dev/shm, a killed
data worker.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, Script, command
from tests.launch.conftest import Failing

pytestmark = pytest.mark.slow

Report = Callable[[], "dict[str, Any]"]

LIMIT = 150 << 20

EAT = """
data = []
while True:
    data.append(bytearray(b"x") * (1 << 20))
"""

LOADER = """
import os, signal, sys
from torch import zeros
from torch.utils.data import DataLoader, Dataset

class Data(Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, index):
        if index == 10 and os.environ["RANK"] == "1":
            if sys.argv[1] == "eat":
                data = [bytearray(b"x") * (1 << 20) for _ in range(4096)]
            os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        return zeros(3)

for batch in DataLoader(Data(), batch_size=4, num_workers=1):
    pass
signal.pause()
"""


@pytest.fixture
def memory_cgroup() -> Iterator[Path]:
    """A memory cgroup with a limit, made in whichever version of cgroups this machine has."""
    for root, limit in (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ("/sys/fs/cgroup", "memory.max"),
    ):
        folder = Path(root) / f"launcher-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        if (folder / limit).exists():
            (folder / limit).write_text(str(LIMIT))
            if (folder / "memory.swap.max").exists():
                (folder / "memory.swap.max").write_text("0")
            break
        folder.rmdir()
    else:
        pytest.skip("needs the right to make a memory cgroup")
    try:
        yield folder
    finally:
        folder.rmdir()


def inside(folder: Path, *args: str) -> list[str]:
    """Return the command of the launcher with these arguments, run inside of a cgroup."""
    return [
        "bash",
        "-c",
        'echo $$ >"$0"/cgroup.procs && exec "$@"',
        str(folder),
        *map(str, command(*args)),
    ]


def test_out_of_memory_killer_is_named_with_the_figures(
    run_command: Run, only_rank_1: Script, report: Report, memory_cgroup: Path, method: str
) -> None:
    done = run_command(
        inside(memory_cgroup, "--nproc-per-node", "2", "--start", method, only_rank_1(EAT))
    )
    assert done.code == 137
    evidence = report()["evidence"]
    assert report()["rank"] == 1
    assert evidence.startswith("by the kernel's out-of-memory killer")
    assert "it held " in evidence or "the limit of its cgroup is 150 MiB" in evidence
    assert "the rank's peak was 1" in evidence  # between 100 and 199 MiB
    assert "the node uses " in evidence
    assert "somebody sent SIGKILL" not in done.err


def test_second_attempt_killed_by_hand_is_not_blamed_on_the_kill_before_it(
    run_command: Run, only_rank_1: Script, report: Report, memory_cgroup: Path
) -> None:
    text = (
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '1': os.kill(os.getpid(),"
        f" signal.SIGKILL)\n{EAT.strip()}"
    )
    done = run_command(
        inside(memory_cgroup, "--nproc-per-node", "2", "--max-restarts", "1", only_rank_1(text))
    )
    assert done.code == 137
    assert report()["evidence"].startswith("no sign of the out-of-memory killer")


@pytest.fixture
def small_shm() -> list[str]:
    """Words in front of a command that give it a /dev/shm of 1 MiB."""
    words = [
        "unshare",
        "-m",
        "sh",
        "-c",
        'mount -t tmpfs -o size=1m none /dev/shm && exec "$@"',
        "sh",
    ]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*words, "true"], capture_output=True, check=False).returncode != 0
    ):
        pytest.skip("needs the right to mount a small /dev/shm")
    return words


def test_full_shared_memory_is_explained(
    run_command: Run, only_rank_1: Script, report: Report, small_shm: list[str]
) -> None:
    text = (
        "import mmap\nfd = os.open('/dev/shm/batch', os.O_RDWR | os.O_CREAT)\nos.ftruncate(fd, 4 <<"
        " 20)\nmemory = mmap.mmap(fd, 4 << 20)\nfor at in range(0, 4 << 20, 4096): memory[at] = 1"
    )
    done = run_command([*small_shm, *map(str, command("--nproc-per-node", "2", only_rank_1(text)))])
    assert done.code == 135
    assert "killed by SIGBUS (7)" in report()["what"]
    assert report()["evidence"].startswith("/dev/shm has 1 MiB, 100 % of it in use")
    assert "--shm-size" in report()["evidence"]


def test_killed_data_worker_is_explained(run: Run, script: Script, report: Report) -> None:
    pytest.importorskip("torch")
    run("--nproc-per-node", "2", script(LOADER), "SIGKILL")
    assert report()["rank"] == 1
    assert report()["hint"].startswith("a data worker of this rank has died")
    assert report()["evidence"] == ""


def test_data_worker_with_a_bus_error_points_to_shared_memory(failing: Failing) -> None:
    # What torch says when the signal is seen before the broken connection.
    words = (
        "DataLoader worker (pid 17) is killed by signal: Bus error. It is possible that"
        " dataloader's workers are out of shared memory."
    )
    _, report = failing(f"raise RuntimeError({words!r})")
    assert report["evidence"].startswith("/dev/shm has ")
    assert report["hint"].startswith("shared memory is full")


def test_data_worker_killed_for_memory_is_told_from_one_killed_by_hand(
    run_command: Run, script: Script, report: Report, memory_cgroup: Path
) -> None:
    pytest.importorskip("torch")
    for limit in ("memory.limit_in_bytes", "memory.max"):
        if (memory_cgroup / limit).exists():
            (memory_cgroup / limit).write_text(str(1200 << 20))
    run_command(inside(memory_cgroup, "--nproc-per-node", "2", script(LOADER), "eat"))
    assert report()["rank"] == 1
    assert report()["evidence"].startswith("the kernel's out-of-memory killer ended process ")
