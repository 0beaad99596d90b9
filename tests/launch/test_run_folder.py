"""What really lies in a run's folder, and that docs/reference/files.md says just that."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Run, Script, Start, run_dirs, wait_until

RunDir = Callable[[], Path]

# One rank in need of everything that may leave a file: a restart, both streams, a failure.
FAILING = """
import os, sys, time
print('out', flush=True)
print('err', file=sys.stderr)
if os.environ['RANK'] == '1':
    raise ValueError('bad')
time.sleep(60)
"""


def documented() -> list[re.Pattern[str]]:
    """Return the paths of the page's first table as patterns, numbers for numbers."""
    text = (ROOT / "docs" / "reference" / "files.md").read_text().split("\n## ")[0]
    found = [
        path
        for line in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
        for path in re.findall(r"`([^`]+)`", line)
    ]
    return [re.compile(re.sub(r"\d+", r"\\d+", path.replace(".", r"\."))) for path in found]


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def read(run_dir: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / name).read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--duplicate-stdout-filters", "o", "--on-end", "true"]])
def test_every_file_of_a_run_is_documented(
    method: str, options: list[str], run: Run, script: Script, only_run_dir: RunDir
) -> None:
    script(FAILING)
    more = ["--start", method, "--max-restarts", "1", "--nproc-per-node", "2", *options]
    assert run(*more, "script.py").code == 1
    patterns = documented()
    found = files_in(only_run_dir())
    assert [f for f in found if not any(p.fullmatch(f) for p in patterns)] == []
    for name in ("plan.json", "end.json", "timeline.json", "report.json", "logs/rank_01.log"):
        assert name in found
    assert os.readlink(only_run_dir().parent / "latest") == only_run_dir().name


@pytest.mark.slow
def test_the_end_of_a_success_tells_of_every_rank(
    method: str, run: Run, script: Script, only_run_dir: RunDir
) -> None:
    script("data = bytearray(60 << 20)\nprint('fine')\n")
    assert run("--start", method, "--nproc-per-node", "2", "script.py").code == 0
    end = read(only_run_dir(), "end.json")
    about = [end[key] for key in ("version", "status", "exit_code", "attempts", "report")]
    assert about == [1, "succeeded", 0, 1, None]
    assert [rank["rank"] for rank in end["ranks"]] == [0, 1]
    for rank in end["ranks"]:
        assert end["started"] <= rank["started"] <= rank["first_output"] <= rank["ended"]
        assert rank["ended"] <= end["ended"]
        assert (rank["exit_code"], rank["how"]) == (0, "exit code 0")
        assert 60 << 20 < rank["peak_bytes"] < 400 << 20
    assert end["duration_s"] == pytest.approx(end["ended"] - end["started"], abs=1e-5)


@pytest.mark.slow
def test_the_end_of_a_failure_names_it(
    method: str, run: Run, script: Script, only_run_dir: RunDir
) -> None:
    script(FAILING)
    assert run("--start", method, "--nproc-per-node", "2", "script.py").code == 1
    end = read(only_run_dir(), "end.json")
    assert (end["status"], end["exit_code"]) == ("failed", 1)
    assert end["reason"] == "rank 1 failed, exit code 1: ValueError: bad"
    assert end["report"] == str(only_run_dir() / "report.json")
    assert [rank["exit_code"] for rank in end["ranks"]] == [143, 1]
    assert all(rank["peak_bytes"] > 1 << 20 for rank in end["ranks"])


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_end_by_a_signal_says_which(
    signum: int, code: int, start: Start, script: Script, only_run_dir: RunDir
) -> None:
    script("import time; print('ready', flush=True); time.sleep(60)\n")
    running = start("script.py")
    running.wait_for("ready")
    running.send(signum)
    assert running.finish().code == code
    end = read(only_run_dir(), "end.json")
    assert (end["status"], end["exit_code"], end["report"]) == ("stopped", code, None)
    assert end["reason"] == f"the launcher was sent {signal.Signals(signum).name}"


@pytest.mark.slow
def test_a_killed_run_has_a_plan_and_no_end(
    start: Start, script: Script, only_run_dir: RunDir
) -> None:
    script("import time; print('ready', flush=True); time.sleep(60)\n")
    running = start("script.py", "--api-key", "abc", env={"MY_TOKEN": "t-123"})
    running.wait_for("ready")
    plan = read(only_run_dir(), "plan.json")
    running.send(signal.SIGKILL)
    running.finish()
    assert not (only_run_dir() / "end.json").exists()
    assert plan["process"]["pid"] == running.pid
    assert plan["command"][1:] == ["-m", "launcher", "script.py", "--api-key", "***"]
    assert plan["environment"]["MY_TOKEN"] == "***"
    assert "t-123" not in (only_run_dir() / "plan.json").read_text()
    assert plan["layout"]["ranks"][0]["variables"]["RANK"] == "0"


@pytest.mark.slow
def test_versions_are_found_without_an_import(
    run: Run, script: Script, only_run_dir: RunDir, tmp_path: Path
) -> None:
    (tmp_path / "own" / "torch").mkdir(parents=True)
    (tmp_path / "own" / "torch" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "own" / "torch" / "version.py").write_text("__version__ = '9.9'\n")
    script("print('fine')\n")
    path = os.pathsep.join((str(tmp_path / "own"), os.environ["PYTHONPATH"]))
    assert run("script.py", env={"PYTHONPATH": path}).code == 0
    versions = read(only_run_dir(), "plan.json")["versions"]
    assert versions["torch"] == "9.9"
    assert sorted(versions) == ["launcher", "python", "system", "torch"]


@pytest.mark.slow
def test_the_timeline_has_a_thread_for_each_rank_and_each_attempt(
    run: Run, script: Script, only_run_dir: RunDir
) -> None:
    script(FAILING)
    run("--nproc-per-node", "2", "--max-restarts", "1", "script.py")
    events = read(only_run_dir(), "timeline.json")["traceEvents"]
    names = [e["args"]["name"] for e in events if e["name"] == "thread_name"]
    assert names == ["launcher", "rank 0", "rank 1"]
    slices = [(e["tid"], e["name"]) for e in events if e["ph"] == "X"]
    for attempt in (0, 1):
        assert all((tid, f"attempt {attempt}") in slices for tid in (0, 1, 2))
    assert (2, "until its first output") in slices
    moments = [e["name"] for e in events if e["ph"] == "i"]
    assert moments == ["failure", "restart", "failure"]
    for event in events:
        assert event["ph"] in ("X", "i", "M")
        assert event["ph"] != "X" or (event["dur"] >= 0 and event["ts"] > 1e15)


@pytest.mark.slow
def test_joined_is_known_where_launcher_init_joins_the_ranks(
    run: Run, script: Script, only_run_dir: RunDir
) -> None:
    pytest.importorskip("torch")
    script("import launcher\nctx = launcher.init('gloo')\nctx.barrier()\n")
    assert run("--nproc-per-node", "2", "script.py", timeout_s=120.0).code == 0
    for rank in read(only_run_dir(), "end.json")["ranks"]:
        assert rank["started"] < rank["joined"] < rank["ended"]
    assert not (only_run_dir() / "errors").exists()


@pytest.mark.slow
def test_the_file_of_both_streams_has_every_line_whole(
    method: str, run: Run, script: Script, only_run_dir: RunDir
) -> None:
    script(
        "import sys\n"
        "for i in range(20000):\n"
        "    sys.stdout.write(f'out {i} ' + 'x' * (i % 97) + '\\n')\n"
        "    sys.stderr.write(f'err {i}\\n')\n"
    )
    env = {"PYTHONUNBUFFERED": "0"}
    assert run("--start", method, "--nproc-per-node", "2", "script.py", env=env).code == 0
    for rank in ("00", "01"):
        lines = (only_run_dir() / "logs" / f"rank_{rank}.log").read_bytes().split(b"\n")
        for stream in ("out", "err"):
            own = (only_run_dir() / "logs" / f"rank_{rank}.{stream}").read_bytes().split(b"\n")
            assert [li for li in lines if li.startswith(stream.encode())] == own[:-1]
        assert len(lines) == 40001


@pytest.mark.slow
def test_a_rank_of_one_stream_has_its_log_once(
    run: Run, script: Script, only_run_dir: RunDir
) -> None:
    script("print('only out')\n")
    run("script.py")
    assert os.readlink(only_run_dir() / "logs" / "rank_00.log") == "rank_00.out"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_disk_that_takes_nothing_changes_no_exit_code(
    kind: str, run_command: Run, script: Script, tmp_path: Path
) -> None:
    """The folder is on a file system of its own, in a namespace of its own."""
    script("import sys\nprint('x' * 300_000)\nprint('err', file=sys.stderr)\nsys.exit(7)\n")
    launch = "python -m launcher --run-dir disk script.py; echo code $?"
    mount = "mount -t tmpfs -o size=64k none disk"
    if kind == "read-only":
        mount += " && mount -o remount,ro disk"
        launch = f"TMPDIR=$PWD/disk {launch}"
    (tmp_path / "disk").mkdir()
    shell = ["unshare", "-rm", "sh", "-c", f"{mount} && {launch}; ls disk/*"]
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no namespaces of one's own here")
    done = run_command(shell, env={"PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}"})
    assert "code 7\n" in done.out
    assert "x" * 300_000 in done.out
    assert ".tmp" not in done.out


@pytest.mark.slow
def test_a_restart_that_can_make_no_folders_any_more_has_them_elsewhere(
    run: Run, script: Script, tmp_path: Path
) -> None:
    script(
        "import os, sys\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        "    os.rename('runs', 'gone')\n    open('runs', 'w').close()\n    sys.exit(3)\n"
        "print('again', flush=True)\n"
    )
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    done = run("--max-restarts", "1", "script.py", env={"TMPDIR": str(elsewhere)})
    assert (done.code, "again" in done.out) == (0, True), done.err
    assert f"the log files of this run are in {elsewhere}" in done.err
    assert [path.read_text() for path in elsewhere.rglob("rank_00.out")] == ["again\n"]


@pytest.mark.slow
def test_latest_leads_to_the_newest_and_spares_what_has_its_name(
    run: Run, script: Script, tmp_path: Path
) -> None:
    script("print('fine')\n")
    for name in ("a", "b"):
        assert run("--rdzv-id", name, "script.py").code == 0
        assert (tmp_path / "runs" / "latest").resolve().name == name
    (tmp_path / "runs" / "latest").unlink()
    for name in ("latest", "c"):
        assert run("--rdzv-id", name, "script.py").err == ""
    assert not (tmp_path / "runs" / "latest").is_symlink()
    assert (tmp_path / "runs" / "latest" / "end.json").exists()


@pytest.mark.slow
def test_keep_spares_what_runs_and_what_is_not_a_run(
    run: Run, start: Start, script: Script, tmp_path: Path
) -> None:
    script("import sys, time\nprint('ready', flush=True)\ntime.sleep(float(sys.argv[1]))\n")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    running = [start("--rdzv-id", name, "script.py", "60") for name in ("lives", "killed")]
    for each in running:
        each.wait_for("ready")
    running[1].send(signal.SIGKILL)
    running[1].finish()
    for name in ("1", "2", "3"):
        run("--rdzv-id", name, "--keep", "2", "script.py", "0")
    left = [path.name for path in run_dirs(tmp_path)]
    assert left == ["2", "3", "lives", "mine"]
    running[0].send(signal.SIGTERM)
    running[0].finish()
    wait_until(lambda: (tmp_path / "runs" / "lives" / "end.json").exists(), "its end")
