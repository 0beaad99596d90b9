"""`python -m launcher.jobs`, command by command."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, NamedTuple

import pytest

from launcher.jobs import Experiment, Run, ScriptRunConfig, Workspace
from launcher.jobs.__main__ import _HOMES, main
from tests.conftest import Running
from tests.jobs.conftest import Submit, wait_for_text


class Said(NamedTuple):
    """What one command answered."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> object:
        return json.loads(self.out)


Jobs = Callable[..., Said]


@pytest.fixture
def jobs(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Jobs:
    """Run one command in the folder of the test, on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str) -> Said:
        capsys.readouterr()
        code = main(list(words))
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(
        "import os, sys\n"
        "from launcher.jobs import Run\n"
        "run = Run.get_context()\n"
        "lr = float(sys.argv[2])\n"
        "for step in range(4): run.log('loss', lr / (step + 1), step=step)\n"
        "open('outputs/model.pt', 'w').write(str(lr))\n"
        "print('rank', os.environ['RANK'])\n"
        "if lr > 1: raise ValueError('lr is too high')\n"
    )
    return path


def test_from_a_script_to_a_registered_model(jobs: Jobs, script: Path, tmp_path: Path) -> None:
    done = jobs("run", "-e", "birds", "--tag", "owner=ada", "train.py", "--lr", "0.5")
    assert done.code == 0 and "rank 0\n" in done.out
    assert done.out.splitlines()[-1].endswith(" Completed")
    assert jobs("register", "@", "outputs/model.pt", "birds").out == "birds:1\n"
    table = jobs("models").out.splitlines()
    assert table[0].split() == ["MODEL", "VERSION", "AGE", "SIZE", "RUN", "TAGS"]
    assert table[1].split()[:2] == ["birds", "1"]
    assert jobs("download", "@", "outputs", "--to", "there").code == 0
    assert (tmp_path / "there" / "outputs" / "model.pt").read_text() == "0.5"
    assert jobs("files", "@").out.splitlines()[1] == "outputs/model.pt"


def test_the_exit_code_is_the_runs(jobs: Jobs, script: Path) -> None:
    done = jobs("run", "train.py", "--lr", "3")
    assert done.code == 1
    assert done.out.splitlines()[-1].endswith(" Failed: rank 0: ValueError: lr is too high")
    assert jobs("wait", "@").code == 1
    assert "ValueError: lr is too high" in jobs("show", "@").out


def test_a_run_that_waits_is_followed_waited_for_and_canceled(jobs: Jobs, submit: Submit) -> None:
    run = submit("import signal\nprint('there', flush=True)\nsignal.pause()")
    wait_for_text(run, "there")
    assert jobs("wait", "@", "--timeout", "0").code == 124
    assert jobs("delete", "@").code == 1  # it goes on
    assert jobs("cancel", "@").out == f"{run.id} Canceled\n"
    assert jobs("cancel", "@").out == f"{run.id} had ended: Canceled\n"
    assert jobs("wait", "@").code == 130
    assert jobs("logs", "-f", "@").out.startswith("there\n")


def test_the_log_of_one_rank(jobs: Jobs, script: Path) -> None:
    assert jobs("run", "-n", "2", "train.py", "--lr", "0.5").code == 0
    assert sorted(jobs("logs", "@").out.splitlines()) == ["[0] rank 0", "[1] rank 1"]
    assert jobs("logs", "@", "--rank", "1").out == "rank 1\n"
    assert jobs("logs", "@", "--rank", "one").code == 2


def test_ctrl_c_cancels_the_run_that_is_shown(
    start_command: Callable[..., Running], workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text("import signal\nprint('there', flush=True)\nsignal.pause()")
    shown = start_command([sys.executable, "-m", "launcher.jobs", "run", "train.py"])
    shown.wait_for("there")
    shown.send(signal.SIGINT)
    done = shown.finish()
    assert done.code == 130 and done.out.splitlines()[-1].partition(": ")[0].endswith(" Canceled")


def test_the_list_fits_80_columns_and_can_be_filtered(jobs: Jobs, experiment: Experiment) -> None:
    for number in range(3):
        with experiment.start_logging(display_name=f"run {number}") as run:
            run.log("accuracy", number / 10)
            run.tag("owner", "ada" if number else "a name that is longer than the line" * 3)
    lines = jobs("list").out.splitlines()
    assert lines[0].split() == ["RUN", "EXPERIMENT", "STATUS", "AGE", "TIME", "N", "WHAT"]
    assert len(lines) == 4 and max(map(len, lines)) <= 80
    for filters, count in (
        (["accuracy>0.05"], 2),
        (["accuracy>=0.1", "tag.owner=ada"], 2),
        (["metric.accuracy=0.2"], 1),
        (["status=Failed"], 0),
        (["since=1h", "experiment=birds"], 3),
        (["until=1h"], 0),
        (["tag.owner~longer"], 1),
    ):
        found = jobs("list", "--json", *filters).data
        assert isinstance(found, list) and len(found) == count, filters
    assert "0.2" in jobs("list", "--columns", "accuracy", "-n", "1").out
    assert jobs("list", "nonsense").code == 2


def test_a_run_has_many_names(jobs: Jobs, experiment: Experiment) -> None:
    runs = [experiment.start_logging(display_name=f"try {n}") for n in range(2)]
    for run in runs:
        run.complete()
    first, second = runs
    for name in (first.id, first.id[:-1], first.id[-8:], "@2", "try 0"):
        assert jobs("show", name).out.startswith(f"run:     {first.id}\n"), name
    assert jobs("show", "@").out.startswith(f"run:     {second.id}\n")
    several = jobs("show", "birds")
    assert several.code == 2 and "2 runs begin with birds" in several.err
    assert jobs("show", "@9").code == 1 and jobs("show", "nothing").code == 1
    assert "There are 2 runs in " in jobs("show", "@9").err
    assert jobs("show", "@0").code == 2


def test_metrics_are_shown_plotted_and_written(jobs: Jobs, experiment: Experiment) -> None:
    with experiment.start_logging() as run:
        for value in (1.0, 0.5, 0.25):
            run.log("loss", value)
    assert jobs("metrics", "@").out.splitlines()[1].split() == ["loss", "3", "0.25", "0.25", "1"]
    assert jobs("metrics", "@", "loss").out == "1.0\n0.5\n0.25\n"
    plotted = jobs("metrics", "@", "loss", "--plot").out
    assert plotted.startswith("loss: 3 values, last 0.25\n") and plotted.count("•") == 3
    assert jobs("metrics", "@", "--csv").out.splitlines()[0] == "name,number,step,time,value"
    assert jobs("metrics", "@", "--json").data == {"loss": [1.0, 0.5, 0.25]}
    assert jobs("metrics", "@", "lass").code == 2


def test_what_differs_between_two_runs(jobs: Jobs, script: Path) -> None:
    for lr in ("0.5", "0.25"):
        assert jobs("run", "train.py", "--lr", lr).code == 0
    rows = [line.split() for line in jobs("compare", "@2", "@").out.splitlines()[1:]]
    assert ["arguments", "lr", "0.5", "0.25"] in rows
    assert ["metrics", "loss", "0.125", "0.0625"] in rows
    assert jobs("diff", "@", "@2").out == "no difference\n"
    script.write_text(script.read_text() + "print('more')\n")
    assert "+print('more')" in jobs("diff", "@").out
    assert jobs("compare", "@").code == 2


def test_the_same_run_once_more(jobs: Jobs, script: Path, workspace: Workspace) -> None:
    assert jobs("run", "train.py", "--lr", "0.5").code == 0
    script.write_text("raise SystemExit('the code of now, not of then')")
    done = jobs("reproduce", "@")
    assert done.code == 0 and done.out == "no difference\n\nreproduced: the same metrics\n"
    new = str(jobs("retry", "@2", "--json").data["id"])  # type: ignore[index]
    assert jobs("wait", new).code == 0
    assert "retry_of" in Run.get(workspace, new).get_properties()
    resumed = str(jobs("resume", new, "--json").data["id"])  # type: ignore[index]
    assert jobs("wait", resumed).code == 0


def test_a_resumed_run_finds_the_outputs_of_the_old_one(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import os\n"
        "old = os.environ.get('LAUNCHER_RESUME_FROM')\n"
        "print('from', open(f'{old}/state').read() if old else 'the start')\n"
        "open('outputs/state', 'w').write('step 3')\n"
    )
    assert "from the start\n" in jobs("run", "train.py").out
    jobs("resume", "@")
    assert jobs("wait", "@").code == 0
    assert jobs("logs", "@").out == "from step 3\n"


def test_many_metrics_are_shown_on_80_columns(jobs: Jobs, experiment: Experiment) -> None:
    with experiment.start_logging() as run:
        for number in range(30):
            run.log(f"accuracy of\nbird {number}", number)
    shown = jobs("show", "@").out.splitlines()
    assert sum("bird" in line for line in shown) > 5
    assert max(len(line) for line in shown if not line.startswith(("folder:", "run:"))) <= 80


def test_words_about_a_run(jobs: Jobs, experiment: Experiment) -> None:
    experiment.start_logging().complete()
    assert jobs("tag", "@", "owner=ada", "good").out == "owner=ada good\n"
    assert jobs("tag", "@", "good-").out == "owner=ada\n"
    assert jobs("note", "@", "worth", "a", "look").code == 0
    shown = jobs("show", "@").out
    assert "note:    worth a look" in shown and "tags:    owner=ada" in shown


def test_what_is_deleted_can_come_back_until_it_is_purged(
    jobs: Jobs, submit: Submit, workspace: Workspace
) -> None:
    run = submit("pass")
    run.wait_for_completion()
    assert jobs("delete", "@").out == f"{run.id}\n"
    assert jobs("list").out == "no runs\n"
    assert jobs("undelete", "@").out == f"{run.id}\n"
    assert run.get_status() == "Completed" and jobs("list", "--json").data
    jobs("delete", "@")
    assert jobs("purge", "--older-than", "1d").out.startswith("0 runs removed")
    assert jobs("purge").out.startswith("1 runs removed")
    assert jobs("undelete", run.id).code == 2


def test_runs_leave_as_zip_and_csv(jobs: Jobs, submit: Submit, tmp_path: Path) -> None:
    run = submit("from launcher.jobs import Run; Run.get_context().log('a', 1)")
    run.wait_for_completion()
    path = str(jobs("export", "@", "--json").data["path"])  # type: ignore[index]
    done = subprocess.run([sys.executable, "-m", "zipfile", "-l", path], capture_output=True)
    assert f"{run.id}/run.json".encode() in done.stdout
    header, row = jobs("export", "--to", "csv").out.splitlines()
    assert header.endswith(",metric.a") and row.startswith(run.id) and row.endswith(",1")


class _Client:
    """Stands in for MLflow's, and remembers what it was told."""

    said: ClassVar[list[tuple[object, ...]]] = []

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return "7"

    def create_run(self, experiment_id: str, **options: object) -> object:
        return SimpleNamespace(info=SimpleNamespace(run_id="theirs"))

    def log_batch(self, run_id: str, metrics: object = (), params: object = ()) -> None:
        self.said.append((run_id, metrics or params))

    def log_artifacts(self, run_id: str, folder: str, path: str) -> None:
        self.said.append((run_id, path))

    def set_terminated(self, run_id: str, status: str, end_time: int) -> None:
        self.said.append((run_id, status))


def test_a_run_leaves_for_mlflow(jobs: Jobs, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs("run", "train.py", "--lr", "0.5").code == 0
    entities = SimpleNamespace(Metric=lambda *point: point[:2], Param=lambda *pair: pair)
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=_Client))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    assert jobs("export", "@", "--to", "mlflow").out.endswith(" is theirs there\n")
    losses = [("loss", 0.5 / step) for step in (1, 2, 3, 4)]
    assert _Client.said == [
        ("theirs", [("lr", "0.5")]),
        ("theirs", losses),
        ("theirs", "outputs"),
        ("theirs", "FINISHED"),
    ]
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert "pip install mlflow-skinny" in jobs("export", "@", "--to", "mlflow").err


def test_a_code_that_is_restored(jobs: Jobs, submit: Submit, tmp_path: Path) -> None:
    submit("print('kept')").wait_for_completion()
    assert jobs("restore-code", "@", "then").code == 0
    assert (tmp_path / "then" / "train.py").read_text() == "print('kept')"
    assert jobs("restore-code", "@", "then").code == 2


def test_the_store_is_looked_after(jobs: Jobs, submit: Submit, workspace: Workspace) -> None:
    submit("pass").wait_for_completion()
    assert jobs("doctor").code == 0
    assert jobs("reindex").out.startswith("1 runs in ")
    assert jobs("du").out.splitlines()[1].startswith("runs")
    assert jobs("compute", "--add", "gpu", "--slots", "2").out.splitlines()[2].split() == [
        *("gpu", "AmlCompute", "2", "0")
    ]
    assert jobs("envs").out == "no environments\n"
    Path(workspace._store.run("empty").path).mkdir()
    assert jobs("doctor").code == 1


def test_a_notebook_is_migrated(jobs: Jobs, tmp_path: Path) -> None:
    source = [
        "from azureml.core import Workspace, Experiment\n",
        "from azureml.train.hyperdrive import HyperDriveConfig\n",
        "import azureml.core\n",
    ]
    path = tmp_path / "train.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": source}]}))
    done = jobs("migrate", "train.ipynb", "--write")
    assert done.code == 1  # not everything has a counterpart
    assert "no counterpart: azureml.train.hyperdrive.HyperDriveConfig" in done.out
    (cell,) = json.loads(path.read_text())["cells"]
    assert cell["source"][0] == "from launcher.jobs.core import Workspace, Experiment\n"
    assert cell["source"][2] == "import launcher.jobs.core, launcher.jobs as azureml\n"
    path.write_text("[]")
    assert jobs("migrate", "train.ipynb").err == (
        "launcher.jobs: error: train.ipynb is no notebook: it holds no JSON object.\n"
    )


def test_a_workspace_is_made_and_found(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAUNCHER_STORE")
    assert jobs("init", "birds", "--store", "kept").code == 0
    assert json.loads((tmp_path / ".azureml" / "config.json").read_text())["workspace_name"] == (
        "birds"
    )
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    found = Workspace.from_config()
    assert found.name == "birds" and found._store.root == str(tmp_path / "kept")


def test_a_workspace_that_a_folder_has_stays_its_workspace(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAUNCHER_STORE")
    config = tmp_path / "config.json"
    text = f'{{"workspace_name": "birds", "store": "{tmp_path}/s", "environments": "nearest"}}'
    config.write_text(text)
    assert jobs("init").out == f"config.json: runs are kept in {tmp_path}/s\n"
    assert jobs("init", "birds").code == 0 and config.read_text() == text
    done = jobs("init", "cats")
    assert done.code == 2 and f"names the workspace birds in {tmp_path}/s" in done.err
    assert jobs("init", "birds", "--store", "elsewhere").code == 2
    assert not (tmp_path / ".azureml").exists()


def test_every_command_has_data_for_programs(jobs: Jobs, script: Path, tmp_path: Path) -> None:
    """In an order in which each finds something; `cancel` of what has ended changes nothing."""
    lines = """
        init; submit train.py --lr 0.1; wait @; run train.py --lr 0.2; cancel @; retry @; resume @
        wait @; wait @2; reproduce @4; tag @ a=b; note @ words; register @ outputs/model.pt birds
        list; show @; logs @; logs @ -f; metrics @; metrics @ loss --plot; metrics @ --csv; files @
        models; compare @ @2; diff @; compute; envs; du; doctor; download @ outputs --to here
        restore-code @ code; delete @; undelete @; purge; export @; export --to csv; reindex
    """.replace("\n", ";")
    asked = [line.split() for line in lines.split(";") if line.strip()]
    assert {words[0] for words in asked} == set(_HOMES) - {"migrate"}
    for command, *words in asked:
        done = jobs(command, "--json", *words)
        assert done.code == 0 and done.data is not None, (command, done)
    assert jobs("migrate", "--json", "train.py").data == {"lines": 0, "missing": []}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit; the source folder is a part of it."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    source = tmp_path / "checkout" / "source"
    source.mkdir(parents=True)
    (source / "train.py").write_text("print('before')\n")
    who = ("-c", "user.name=ada", "-c", "user.email=ada@example.org")
    for words in (("init", "-q", "-b", "main"), ("add", "."), (*who, "commit", "-qm", "first")):
        subprocess.run(["git", *words], cwd=source.parent, check=True)
    return source


def test_what_is_not_committed_is_kept_with_the_run(
    experiment: Experiment, checkout: Path, workspace: Workspace, jobs: Jobs
) -> None:
    config = ScriptRunConfig(str(checkout), "train.py")
    clean = experiment.submit(config)
    (checkout / "train.py").write_text("print('now')\n")
    dirty = experiment.submit(config)
    for run in (clean, dirty):
        run.wait_for_completion()
    assert "azureml.git.dirty" not in clean.get_properties()
    assert not Path(clean._folder.diff).exists()
    assert dirty.get_properties()["azureml.git.dirty"] == "True"
    kept = Path(dirty._folder.diff).read_text()
    assert kept.startswith("diff --git a/train.py b/train.py\n")
    assert kept.endswith("-print('before')\n+print('now')\n")
    assert " main with the changes in git.diff\n" in jobs("show", "@").out
    again = workspace.get_run(str(jobs("retry", "@").out.strip()))
    again.wait_for_completion()
    assert Path(again._folder.diff).read_text() == kept
    assert "with the changes" in jobs("show", "@").out


@pytest.mark.parametrize("command", ["", *sorted(_HOMES)])
def test_the_help_fits_80_columns(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0 and shown.startswith("usage: python -m launcher.jobs")
    assert max(map(len, shown.splitlines())) <= 80


def test_the_command_itself_starts_and_says_what_it_can(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "launcher.jobs"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "Exit codes: 0 done" in done.stdout
    done = subprocess.run([*command, "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
