"""What ranks use: in the run's folder, in a summary at the end, and in warnings."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run, Script, Start, command, find_free_port, wait_until

pytestmark = pytest.mark.slow

# Rank 1 comes 60 ms later to each step than rank 0, which waits for it.
SLOW = """
import os, time
from launcher.worker.pace import Pacer
rank, pacer = os.environ["RANK"], Pacer(os.environ["LAUNCHER_ERROR_FILE"])
for step in range(1, 21):
    if rank == "1":
        time.sleep(0.06)
    pacer.beat()
    open(f"{rank}.{step}", "w").close()
    with pacer.waiting():
        while not (os.path.exists(f"0.{step}") and os.path.exists(f"1.{step}")):
            time.sleep(0.001)
pacer.close()
"""


def test_the_summary_tells_memory_cpu_time_and_who_was_slow(
    run: Run, script: Script, method: str
) -> None:
    done = run("--nproc-per-node", "2", "--stats", "--start", method, script(SLOW))
    assert done.code == 0
    title, header, first, second, last = done.err.splitlines()
    assert title == f"what the ranks on {os.uname().nodename} used:"
    assert "".join(header.split()) == "rankpeakmemoryCPUtimeCPUstepssteps/swaitedlate"
    figures = r" +\d +\d+ MiB +\d+\.\d s +\d+% +20 +[\d.]+ +[\d.]+ s +\d+ ms"
    assert re.fullmatch(figures, first)
    assert re.fullmatch(figures, second)
    assert last.startswith("slowest: rank 1, which came ")


def test_a_run_that_is_over_at_once_has_a_summary(run: Run, script: Script, method: str) -> None:
    done = run("--nproc-per-node", "2", "--stats", "--quiet", "--start", method, script("pass"))
    lines = done.err.splitlines()
    assert len(lines) == 4
    for line in lines[2:]:
        assert int(line.split()[1]) >= 5  # MiB, of an interpreter at least


def test_a_report_is_the_last_thing_on_the_screen(run: Run, script: Script) -> None:
    name = script(
        "import os, sys, time\nif os.environ['RANK'] == '1': sys.exit('the reason')\n"
        "time.sleep(100)\n"
    )
    done = run("--nproc-per-node", "2", "--stats", name)
    assert done.code == 1
    before, title, rest = done.err.partition("what the ranks on")
    summary, _, report = rest.partition("rank 1 ")
    assert title and "\n   0 " in summary and "\n   1 " in summary
    assert "exit code 1" in report and "the reason" in report
    assert "exit code 1" not in before


@pytest.mark.parametrize(
    ("failing", "host", "options"),
    [(0, 0, ()), (1, 1, ("--max-restarts", "2", "--no-restart-codes", "1"))],
    ids=["the last attempt", "given up early, where another node decides"],
)
def test_a_report_comes_after_the_figures_of_all_nodes_on_one_screen(
    failing: int,
    host: int,
    options: tuple[str, ...],
    start_command: Start,
    script: Script,
    tmp_path: Path,
    suite_mark: str,
) -> None:
    endpoint = f"127.0.0.1:{find_free_port()}"
    name = script(
        "import os, sys, time\nopen(os.environ['RANK'], 'w').close()\n"
        "while not (os.path.exists('0') and os.path.exists('1')): time.sleep(0.01)\n"
        f"if os.environ['RANK'] == '{failing}': sys.exit('the reason')\n"
        "time.sleep(100)\n"
    )
    where = ("--nnodes", "2", "--rdzv-endpoint", endpoint, "--rdzv-id", suite_mark, "--stats")
    is_host = [f"--rdzv-conf=is_host={int(rank == host)}" for rank in range(2)]
    environ = {"LAUNCHER_SECRET": suite_mark, "LAUNCHER_QUIET": "0"}
    with (tmp_path / "screen").open("ab") as screen:
        nodes = [
            start_command(
                command(*where, *options, is_host[rank], "--node-rank", str(rank), name),
                env=environ,
                stdout=screen,
                stderr=screen,
            )
            for rank in range(2)
        ]
    assert [node.finish().code for node in nodes] == [1, 1]
    *tables, report = (tmp_path / "screen").read_text().split(f"FAILED: rank {failing} ")
    assert len(tables) == 1, tables
    assert tables[0].count("what the ranks on") == 2
    assert "the ranks" not in report


def test_figures_are_in_the_folder_of_the_run(
    start: Start, script: Script, only_run_dir: Callable[[], Path], tmp_path: Path
) -> None:
    name = script(
        "import os, time\nbig = bytearray(os.urandom(1) * (50 << 20))\n"
        "print('ready', flush=True)\n"
        "while not os.path.exists('go'): pass\n"
    )
    child = start("--nproc-per-node", "2", "--stats", name)
    child.wait_for("ready", 2)

    def samples() -> list[dict[str, object]]:
        path = only_run_dir() / "resources.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    wait_until(lambda: any(len(sample["ranks"]) == 2 for sample in samples()), "both ranks are in")  # type: ignore[arg-type]
    wait_until(lambda: len(samples()) >= 3, "there are several looks")
    (tmp_path / "go").touch()
    assert child.finish().code == 0
    last = samples()[-1]
    ranks: list[dict[str, float]] = last["ranks"]  # type: ignore[assignment]
    assert [rank["rank"] for rank in ranks] == [0, 1]
    assert all(rank["rss"] > 50 << 20 and rank["cpu_s"] > 0 for rank in ranks)
    assert last["node"]["host"] == os.uname().nodename  # type: ignore[index]


def test_a_full_dev_shm_is_warned_of_once(
    start_command: Start, script: Script, tmp_path: Path
) -> None:
    mounts = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    words = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*words, "true"], capture_output=True, check=False).returncode != 0
    ):
        pytest.skip("needs the right to mount")
    name = script(
        "import os, time\n"
        "if os.environ['RANK'] == '0': open('/dev/shm/x', 'wb').write(bytes(1000 << 10))\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
    )
    running = start_command([*words, *command("--nproc-per-node", "2", "--stats", name)])
    running.wait_for("[launcher] /dev/shm is nearly full: 1000 KiB of 1 MiB")
    (tmp_path / "go").touch()
    done = running.finish()
    assert done.code == 0
    assert done.err.count("nearly full") == 1
