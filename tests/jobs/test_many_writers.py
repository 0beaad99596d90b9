"""Sixteen processes at once: nobody waits for a lock, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from launcher.jobs import Experiment, Model, Workspace, index

_WRITER = """
import sys
from launcher.jobs import Experiment, Model, ScriptRunConfig, Workspace
ws = Workspace.from_config()
experiment = Experiment(ws, "birds")
run = experiment.start_logging()
for n in range(20):
    run.log("n", n)
    run.tag(f"tag{n}", sys.argv[1])
list(experiment.get_runs())
Model.register(ws, "model.pt", "birds")
run.complete()
experiment.submit(ScriptRunConfig("source", "train.py")).wait_for_completion()
list(experiment.get_runs(tags={"tag3": sys.argv[1]}))
"""


def test_sixteen_processes_submit_tag_and_register_at_once(
    workspace: Workspace, experiment: Experiment, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "train.py").write_text("print('ran')")
    (tmp_path / "model.pt").write_text("weights")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(n)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for n in range(16)
    ]
    for writer in writers:
        _, said = writer.communicate(timeout=60)
        assert writer.returncode == 0, said.decode()
    runs = list(experiment.get_runs())
    assert len(runs) == 32 and {run.get_status() for run in runs} == {"Completed"}
    assert sorted(model.version for model in Model.list(workspace)) == list(range(1, 17))
    for n in range(16):
        (run,) = experiment.get_runs(tags={"tag3": str(n)})
        assert run.get_metrics() == {"n": list(range(20))} and len(run.get_tags()) == 20
    index.delete(workspace._store)
    assert list(experiment.get_runs()) == runs
