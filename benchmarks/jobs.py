"""Measure the run layer: submit, first line, one metric, a long list, a big folder, the agent.

    python benchmarks/jobs.py [--repeat 5] [--only NAME ...] [--mlflow PYTHON] [--runs 10000]

--mlflow names an interpreter of its own in which mlflow (or mlflow-skinny with sqlalchemy and
alembic) is installed; it is measured beside, and never needed. One table is printed and written to
benchmarks/results/.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import machine

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Both sides log a first line with the time at which it runs.
_FIRST_LINE = "import time; open({path!r}, 'w').write(str(time.time()))\n"
_TIMEOUT_S = 600.0

_SUBMIT = """
import sys, time
from launcher.jobs import Experiment, ScriptRunConfig, Workspace
experiment = Experiment(Workspace.from_config(), "b")
config = ScriptRunConfig(sys.argv[1], "train.py")
began = time.perf_counter()
run = experiment.submit(config)
print(time.perf_counter() - began)
run.wait_for_completion()
"""
_LOG = """
import time
from launcher.jobs import Experiment, Workspace
run = Experiment(Workspace.from_config(), "b").start_logging()
began = time.perf_counter()
for n in range(20_000): run.log("loss", n / 3)
print((time.perf_counter() - began) / 20_000)
run.complete()
"""
_MLFLOW_LOG = """
import sys, time, mlflow
mlflow.set_tracking_uri(sys.argv[1])
with mlflow.start_run():
    mlflow.log_metric("loss", 0.0)
    began = time.perf_counter()
    for n in range(500): mlflow.log_metric("loss", n / 3, step=n)
    print((time.perf_counter() - began) / 500)
"""
_MLFLOW_FILL = """
import sys, mlflow
client = mlflow.MlflowClient(sys.argv[1])
for n in range(int(sys.argv[2])):
    run = client.create_run("0")
    client.log_metric(run.info.run_id, "loss", n / 3)
"""
_MLFLOW_LIST = """
import sys, time, mlflow
client = mlflow.MlflowClient(sys.argv[1])
began = time.perf_counter()
found, token = [], None
while True:
    page = client.search_runs(["0"], max_results=10_000, page_token=token)
    found += page
    token = page.token
    if not token: break
print(time.perf_counter() - began)
assert len(found) == int(sys.argv[2]), len(found)
"""
_AGENT = """
import json, sys, time
from launcher.jobs import Experiment, ScriptRunConfig, Workspace
run = Experiment(Workspace.from_config(), "b").submit(ScriptRunConfig(sys.argv[1], "train.py"))
while run.get_status() != "Running": time.sleep(0.01)
time.sleep(0.5)
pid = json.load(open(run._folder.agent))["pid"]
text = open(f"/proc/{pid}/status").read()
print(int(text.partition("VmRSS:")[2].split()[0]) * 1024)
run.cancel()
run.wait_for_completion()
"""


class Bench:
    """A folder with a source, a store, and the two interpreters."""

    def __init__(self, folder: str, mlflow: str | None, num_runs: int) -> None:
        self.folder = folder
        self.mlflow = mlflow
        self.num_runs = num_runs
        self.environ = {
            **os.environ,
            "PYTHONPATH": ROOT,
            "LAUNCHER_STORE": os.path.join(folder, "store"),
            "LAUNCHER_CACHE": os.path.join(folder, "cache"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_ALLOW_FILE_STORE": "true",
        }

    def python(self, code: str, *arguments: str, interpreter: str = sys.executable) -> str:
        """Run a program; return the last word that it printed."""
        done = subprocess.run(
            [interpreter, "-c", code, *arguments],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"a measurement failed:\n{done.stderr}")
        return done.stdout.split()[-1] if done.stdout.strip() else ""

    def source(self, name: str, script: str) -> str:
        """Write a folder with a script; return its path."""
        path = os.path.join(self.folder, name)
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, "train.py"), "w") as file:
            file.write(script)
        return path


def submit_small(bench: Bench) -> float:
    return float(bench.python(_SUBMIT, bench.source("small", "pass\n")))


def first_line(bench: Bench) -> float:
    """From the start of the command to the first line of the script."""
    mark = os.path.join(bench.folder, "mark")
    folder = bench.source("first", _FIRST_LINE.format(path=mark))
    command = [sys.executable, "-m", "launcher.jobs", "run", "--source", folder, "train.py"]
    return _until_mark(bench, command, mark)


def first_line_mlflow(bench: Bench) -> float:
    mark = os.path.join(bench.folder, "mark")
    folder = bench.source("first_mlflow", _FIRST_LINE.format(path=mark))
    with open(os.path.join(folder, "MLproject"), "w") as file:
        file.write("name: b\nentry_points:\n  main:\n    command: 'python train.py'\n")
    command = [str(bench.mlflow), "-m", "mlflow", "run", "--env-manager", "local", folder]
    return _until_mark(bench, command, mark)


def _until_mark(bench: Bench, command: list[str], mark: str) -> float:
    if os.path.exists(mark):
        os.unlink(mark)
    began = time.time()
    subprocess.run(
        command, cwd=bench.folder, env=bench.environ, capture_output=True, timeout=_TIMEOUT_S
    )
    with open(mark) as file:
        return float(file.read()) - began


def one_metric(bench: Bench) -> float:
    return float(bench.python(_LOG))


def one_metric_mlflow(bench: Bench, kind: str) -> float:
    uri = f"sqlite:///{bench.folder}/log.db" if kind == "sqlite" else f"file://{bench.folder}/ml"
    return float(bench.python(_MLFLOW_LOG, uri, interpreter=str(bench.mlflow)))


def long_list(bench: Bench) -> float:
    """The whole command, once the index knows the runs."""
    _fill(bench)
    command = [sys.executable, "-m", "launcher.jobs", "list", "--all"]
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=bench.folder, env=_with_filled_store(bench), capture_output=True, check=True
    )
    took = time.perf_counter() - began
    assert done.stdout.count(b"\n") == bench.num_runs + 1
    return took


def _with_filled_store(bench: Bench) -> dict[str, str]:
    return {**bench.environ, "LAUNCHER_STORE": os.path.join(bench.folder, "filled")}


def _fill(bench: Bench) -> None:
    """Make run folders as runs leave them, once."""
    root = os.path.join(bench.folder, "filled")
    if os.path.exists(root):
        return
    os.makedirs(os.path.join(root, "changes"))
    with open(os.path.join(root, "workspace.json"), "w") as file:
        json.dump({"version": 1, "id": "filled", "name": "filled"}, file)
    for number in range(bench.num_runs):
        run_id = f"birds_{1_700_000_000 + number}_{number:08x}"
        folder = os.path.join(root, "runs", run_id)
        os.makedirs(os.path.join(folder, "journal"))
        definition = {"script": "train.py", "arguments": ["--lr", str(number)], "target": "local"}
        asked = {
            "id": run_id,
            "experiment": "birds",
            "type": "azureml.scriptrun",
            "created": 1_700_000_000 + number,
            "definition": definition,
            "tags": {"owner": "ada"},
        }
        loss = {"count": 1, "last": number / 3, "min": number / 3, "max": number / 3}
        end = {"status": "Completed", "ended": asked["created"], "metrics": {"loss": loss}}
        for name, value in (("run.json", asked), ("end.json", end)):
            with open(os.path.join(folder, name), "w") as file:
                json.dump(value, file)
    command = [sys.executable, "-m", "launcher.jobs", "reindex"]
    subprocess.run(command, env=_with_filled_store(bench), capture_output=True, check=True)


def long_list_mlflow(bench: Bench) -> float:
    uri = f"sqlite:///{bench.folder}/filled.db"
    if not os.path.exists(os.path.join(bench.folder, "filled.db")):
        bench.python(_MLFLOW_FILL, uri, str(bench.num_runs), interpreter=str(bench.mlflow))
    found = bench.python(_MLFLOW_LIST, uri, str(bench.num_runs), interpreter=str(bench.mlflow))
    return float(found)


def agent_memory(bench: Bench) -> float:
    return float(bench.python(_AGENT, bench.source("wait", "import signal; signal.pause()\n")))


def second_submit(bench: Bench) -> float:
    """5,000 files and 400 MB of which nothing has changed."""
    folder = os.path.join(bench.folder, "big")
    if not os.path.exists(folder):
        bench.source("big", "pass\n")
        for number in range(5000):
            below = os.path.join(folder, f"data{number % 50}")
            os.makedirs(below, exist_ok=True)
            with open(os.path.join(below, f"{number}.bin"), "wb") as file:
                file.write(os.urandom(80_000))
        time.sleep(2.5)  # a file that was just written is read again
        bench.python(_SUBMIT, folder)
    return float(bench.python(_SUBMIT, folder))


Measure = Callable[[Bench], float]

# Name -> ours, the peer's name, the peer, how a figure is shown.
ROWS: dict[str, tuple[Measure, str, Measure | None, Callable[[float], str]]] = {
    "submit a small folder": (submit_small, "", None, lambda s: f"{s:.3f} s"),
    "command to first line": (
        *(first_line, "mlflow run --env-manager local", first_line_mlflow),
        lambda s: f"{s:.2f} s",
    ),
    "one metric": (
        *(one_metric, "MLflow, SQLite store", lambda bench: one_metric_mlflow(bench, "sqlite")),
        lambda s: f"{s * 1e6:.1f} us",
    ),
    "one metric, files": (
        *(one_metric, "MLflow, file store", lambda bench: one_metric_mlflow(bench, "file")),
        lambda s: f"{s * 1e6:.1f} us",
    ),
    "list of all runs": (
        *(long_list, "MLflow search_runs, SQLite", long_list_mlflow),
        lambda s: f"{s:.2f} s",
    ),
    "memory of the agent": (agent_memory, "", None, lambda b: f"{b / (1 << 20):.1f} MiB"),
    "second submit, 5,000 files and 400 MB": (second_submit, "", None, lambda s: f"{s:.2f} s"),
}


def main() -> None:
    """Measure ours and the peer in turns, and print the table."""
    parser = machine.make_parser(__doc__, ROWS)
    parser.add_argument("--mlflow", metavar="PYTHON", help="an interpreter that has mlflow")
    parser.add_argument("--runs", type=int, default=10_000, help="length of the list")
    args = parser.parse_args()
    rows = []
    folder = tempfile.mkdtemp(prefix="launcher-jobs-")
    try:
        bench = Bench(folder, args.mlflow, args.runs)
        for name in args.only:
            rows.append(_measure(bench, name, args.repeat))
            print(*rows[-1], sep="  ", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = machine.table(["what", "launcher.jobs", "peer", "its figure", "ratio"], rows)
    version = _mlflow_version(args.mlflow)
    title = f"medians of {args.repeat} alternating runs, a list of {args.runs} runs:"
    head = "\n".join([*machine.describe(), *([version] if version else [])])
    print(text)
    page = f"# The run layer\n\n{head}\n\n`benchmarks/jobs.py`, {title}\n\n{text}\n"
    machine.write(machine.results_path(args.results, "-jobs"), page)


def _measure(bench: Bench, name: str, repeat: int) -> list[str]:
    ours, peer_name, peer, show = ROWS[name]
    samples: list[float] = []
    theirs: list[float] = []
    for _ in range(repeat):
        samples.append(ours(bench))
        if peer is not None and bench.mlflow:
            theirs.append(peer(bench))
    median = statistics.median(samples)
    if not theirs:
        return [name, show(median), "", "", ""]
    other = statistics.median(theirs)
    return [name, show(median), peer_name, show(other), f"{median / other:.3f}"]


def _mlflow_version(interpreter: str | None) -> str:
    if not interpreter:
        return ""
    code = "import mlflow; print('mlflow', mlflow.__version__)"
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
