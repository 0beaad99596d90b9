"""From a configuration to a registered model, as the articles' readers type it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.jobs import (
    ActivityFailedException,
    AmlCompute,
    ComputeTarget,
    ComputeTargetException,
    Environment,
    Experiment,
    Model,
    Run,
    RunConfigurationException,
    RunDetails,
    ScriptRunConfig,
    Workspace,
)
from launcher.jobs.again import submit_again
from tests.jobs.conftest import Submit

_TRAIN = """
import argparse, os, sys
from launcher.jobs import Run

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
lr = parser.parse_args().lr
run = Run.get_context()
run.log("lr", lr)
for epoch in range(3):
    run.log("best_val_acc", epoch / 10)
run.log_list("squares", (n * n for n in range(3)))
run.log_row("rows", a=1, b=2)
run.log_row("rows", a=3, b=4)
run.log_table("table", {"x": [1, 2]})
run.tag("owner", "ada")
os.makedirs("outputs", exist_ok=True)
with open("./outputs/model.pt", "w") as file:
    file.write("weights")
with open("logs/notes.txt", "w") as file:
    file.write("note")
run.upload_file("data/extra.txt", "outputs/model.pt")
print("trained", flush=True)
print("a warning", file=sys.stderr)
run.complete()
"""


def test_a_run_leads_to_a_registered_model(
    submit: Submit, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = submit(_TRAIN, "--lr", 0.1)
    assert run.id.startswith("birds_") and repr(run).startswith("Run(Experiment: birds,\nId: ")
    capsys.readouterr()

    details = run.wait_for_completion(show_output=True)

    shown = capsys.readouterr().out
    name = "azureml-logs/70_driver_log.txt"
    assert shown.startswith(f"RunId: {run.id}\nWeb View: file://")
    assert f"\nStreaming {name}\n{'=' * (len(name) + 10)}\n\n" in shown
    assert "trained\n" in shown and "a warning\n" in shown
    assert "\nExecution Summary\n=================\n" in shown
    assert details["status"] == "Completed" and details["endTimeUtc"] > details["startTimeUtc"]
    assert details["runDefinition"]["arguments"] == ["--lr", "0.1"]
    assert run.get_metrics() == {
        "lr": 0.1,
        "best_val_acc": [0.0, 0.1, 0.2],
        "squares": [0, 1, 4],
        "rows": {"a": [1, 3], "b": [2, 4]},
        "table": {"x": [1, 2]},
    }
    assert run.get_tags() == {"owner": "ada"}
    assert run.get_file_names() == [
        "azureml-logs/70_driver_log.txt",
        "data/extra.txt",
        "logs/notes.txt",
        "outputs/model.pt",
        "user_logs/std_log.txt",
    ]
    run.download_file(name="./outputs/model.pt", output_file_path="here/model.pt")
    assert (tmp_path / "here" / "model.pt").read_text() == "weights"
    run.download_files(prefix="outputs", output_directory="all")
    assert (tmp_path / "all" / "outputs" / "model.pt").read_text() == "weights"

    model = run.register_model("birds", model_path="outputs/model.pt", tags={"area": "birds"})
    assert (model.name, model.id, model.version) == ("birds", "birds:1", 1)
    assert run.register_model("birds", "./outputs").version == 2
    assert Model(workspace, "birds").version == 2 and Model(workspace, id="birds:1").run == run
    path = Model(workspace, "birds", version=1).download(str(tmp_path / "model"))
    assert Path(path).read_text() == "weights"
    assert [one.id for one in Model.list(workspace)] == ["birds:2", "birds:1"]
    assert [one.id for one in Model.list(workspace, tags=["area"])] == ["birds:1"]


def test_the_details_have_what_the_log_shows(submit: Submit) -> None:
    run = submit("print('hello')\nprint('no newline', end='')")
    run.wait_for_completion()
    logs = run.get_details_with_logs()["logFiles"]
    assert logs["azureml-logs/70_driver_log.txt"].startswith("hello\nno newline")


def test_a_failure_names_rank_and_cause(submit: Submit, capsys: pytest.CaptureFixture[str]) -> None:
    run = submit("raise ValueError('image 17 is empty')")
    with pytest.raises(ActivityFailedException, match="rank 0: ValueError: image 17 is empty"):
        run.wait_for_completion()
    details = run.wait_for_completion(show_output=True, raise_on_error=False)
    error = details["error"]["error"]
    assert error["message"] == "rank 0: ValueError: image 17 is empty" and error["rank"] == 0
    assert 'raise ValueError("image' in error["details"]["traceback"].replace("'", '"')
    assert "\nError:\n" in capsys.readouterr().out


def test_a_script_can_say_that_it_has_failed(submit: Submit) -> None:
    run = submit("from launcher.jobs import Run; Run.get_context().fail('the loss is nan', 'Nan')")
    details = run.wait_for_completion(raise_on_error=False)
    assert details["status"] == "Failed"
    assert details["error"]["error"] == {"code": "Nan", "message": "the loss is nan"}


def test_a_command_runs_in_a_shell(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    command = ["echo", "$NODE_RANK of $WORLD_SIZE,", "two words", "&&", "pwd"]
    run = experiment.submit(ScriptRunConfig(str(tmp_path / "source"), command=" ".join(command)))
    run.wait_for_completion()
    assert Path(run._folder.driver_log).read_text() == (
        f"0 of 1, two words\n{os.path.realpath(run._folder.code)}\n"
    )


def test_the_environments_variables_reach_the_script(submit: Submit) -> None:
    environment = Environment("mine")
    environment.environment_variables = {"COLOUR": "red"}
    run = submit("import os; print(os.environ['COLOUR'])", environment=environment)
    run.wait_for_completion()
    assert Path(run._folder.driver_log).read_text() == "red\n"
    assert run.get_environment().environment_variables == {"COLOUR": "red"}


def test_a_secret_reaches_the_script_and_no_record(
    submit: Submit, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = Environment("mine")
    environment.environment_variables = {"WANDB_API_KEY": "very-secret", "MONKEY": "ape"}
    run = submit(
        "import os; print(len(os.environ['WANDB_API_KEY']), os.environ['MONKEY'])",
        environment=environment,
    )
    run.wait_for_completion()
    assert Path(run._folder.driver_log).read_text() == "11 ape\n"
    for path in Path(run._folder.path).rglob("*"):
        assert not path.is_file() or b"very-secret" not in path.read_bytes(), path
    again = submit_again(run._look())
    assert "WANDB_API_KEY is a secret, which no run keeps: this" in capsys.readouterr().err
    assert Run._at(again.path).wait_for_completion(raise_on_error=False)["statusReason"] == (
        "rank 0: KeyError: 'WANDB_API_KEY'"
    )


def test_a_script_for_the_sdk_runs_unchanged(submit: Submit) -> None:
    run = submit(
        "from azureml.core.run import Run\n"
        "from azureml.core import Workspace, Model\n"
        "run = Run.get_context()\n"
        "run.log('accuracy', 0.5)\n"
        "print(run.experiment.workspace.name, run.parent)\n"
    )
    run.wait_for_completion()
    assert run.get_metrics() == {"accuracy": 0.5}
    assert Path(run._folder.driver_log).read_text() == "test None\n"


def test_a_real_sdk_comes_before_the_stand_in(submit: Submit, tmp_path: Path) -> None:
    real = tmp_path / "real" / "azureml"
    (real / "core").mkdir(parents=True)  # a namespace package, as the real one is
    (real / "core" / "__init__.py").write_text("Run = 'the real one'\n")
    environment = Environment("real")
    environment.environment_variables = {"PYTHONPATH": str(tmp_path / "real")}
    run = submit("from azureml.core import Run; print(Run)", environment=environment)
    run.wait_for_completion()
    assert Path(run._folder.driver_log).read_text() == "the real one\n"


def test_the_code_of_a_run_is_that_of_its_submission(submit: Submit, tmp_path: Path) -> None:
    first = submit("print('first')")
    second = submit("print('second')")
    for run, text in ((first, "first\n"), (second, "second\n")):
        run.wait_for_completion()
        assert Path(run._folder.driver_log).read_text() == text
    archive = first.restore_snapshot(path=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "zipfile", "-e", archive, str(tmp_path / "code")], check=True
    )
    assert done.returncode == 0
    assert (tmp_path / "code" / "train.py").read_text() == "print('first')"


def test_a_script_may_be_a_package(experiment: Experiment, tmp_path: Path) -> None:
    package = tmp_path / "source" / "tools" / "train"
    package.mkdir(parents=True)
    (package / "recipe.py").write_text("LR = 0.1\n")
    (package / "__main__.py").write_text(
        "import sys\nfrom tools.train.recipe import LR\nprint(LR, sys.argv[1:])\n"
    )
    run = experiment.submit(ScriptRunConfig("source", script="tools/train", arguments=["--fast"]))
    run.wait_for_completion()
    assert Path(run._folder.driver_log).read_text() == "0.1 ['--fast']\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"script": "no.py"}, r"There is no no\.py in .*source\. The folder has: train\.py\."),
        ({"script": "."}, r"There is no \. in .*source"),
        ({}, "Neither a script nor a command"),
        ({"script": "train.py", "command": ["ls"]}, "Both a command and a script"),
        ({"script": "train.py", "compute_target": "gpu"}, "no compute target gpu"),
        ({"source_directory": "nowhere", "script": "train.py"}, "is no folder"),
    ],
)
def test_a_mistake_is_raised_before_there_is_a_run(
    experiment: Experiment, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "train.py").write_text("")
    with pytest.raises((RunConfigurationException, ComputeTargetException), match=message):
        experiment.submit(ScriptRunConfig(**{"source_directory": "source", **options}))
    assert list(experiment.get_runs()) == []


def test_the_compute_block_of_the_articles(
    workspace: Workspace, submit: Submit, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        try:
            target = ComputeTarget(workspace=workspace, name="gpu-cluster")
            print("Found existing compute target.")
        except ComputeTargetException:
            print("Creating a new compute target...")
            config = AmlCompute.provisioning_configuration(vm_size="STANDARD_NC6", max_nodes=4)
            target = ComputeTarget.create(workspace, "gpu-cluster", config)
            target.wait_for_completion(show_output=True, min_node_count=None)
    shown = capsys.readouterr().out
    assert shown.startswith("Creating a new compute target...\nCreating\nSucceeded\n")
    assert shown.endswith("Found existing compute target.\n")
    status = target.get_status().serialize()
    assert status["scaleSettings"]["maxNodeCount"] == 4 and status["vmSize"] == "STANDARD_NC6"
    assert set(workspace.compute_targets) == {"local", "gpu-cluster"}
    run = submit("print('there')", compute_target=target)
    assert run.wait_for_completion()["target"] == "gpu-cluster"


def test_runs_are_found_by_tag_and_newest_first(submit: Submit, experiment: Experiment) -> None:
    runs = [submit("pass") for _ in range(3)]
    runs[0].tag("quality", "good")
    runs[1].tag("quality", "bad")
    assert [run.id for run in experiment.get_runs()] == [run.id for run in reversed(runs)]
    assert list(experiment.get_runs(tags="quality")) == [runs[1], runs[0]]
    assert list(experiment.get_runs(tags={"quality": "good"})) == [runs[0]]
    assert [run.number for run in runs] == [1, 2, 3]
    for run in runs:
        run.wait_for_completion()
    runs[2].tag("quality", "good")  # after its end
    assert list(experiment.get_runs(tags={"quality": "good"})) == [runs[2], runs[0]]
    with pytest.raises(Exception, match="cannot be changed"):
        runs[0].add_properties({"a": "1"})
        runs[0].add_properties({"a": "2"})


def test_a_run_that_a_script_submits_outlives_it(
    submit: Submit, workspace: Workspace, tmp_path: Path
) -> None:
    text = (
        "import os, sys\n"
        "from launcher.jobs import Run, ScriptRunConfig\n"
        "run = Run.get_context()\n"
        "if len(sys.argv) == 2:\n"
        "    run.submit_child(ScriptRunConfig('.', 'train.py', [sys.argv[1], 'child']))\n"
        "else:\n"
        "    while not os.path.exists(sys.argv[1]): pass\n"
        "    print('rank', os.environ['RANK'], 'of', run.parent.id)\n"
    )
    run = submit(text, str(tmp_path / "go"))
    run.wait_for_completion()
    (child,) = run.get_children()
    assert child.get_status() not in ("Failed", "Canceled", "Completed")
    (tmp_path / "go").touch()
    child.wait_for_completion()
    assert Path(child._folder.driver_log).read_text() == f"rank 0 of {run.id}\n"
    assert child.parent == run and list(run.experiment.get_runs()) == [run]


def test_an_interactive_run_has_children(experiment: Experiment) -> None:
    with experiment.start_logging(display_name="by hand") as run:
        run.log("accuracy", 0.5)
        with run.child_run(name="fold 1") as child:
            child.log("accuracy", 0.25)
        (one, two) = run.create_children(tag_key="fold", tag_values=[2, 3])
        assert run.get_status() == "Running"
        one.complete()
        two.fail("no data")
    assert run.get_status() == "Completed" and run.display_name == "by hand"
    assert [found.get_status() for found in run.get_children()] == [
        *("Failed", "Completed", "Completed")
    ]
    assert run.get_metrics(recursive=True)[child.id] == {"accuracy": 0.25}
    assert list(experiment.get_runs()) == [run] and child.parent == run


def test_an_interactive_run_ends_with_its_process(
    experiment: Experiment, workspace: Workspace
) -> None:
    code = (
        "from launcher.jobs import Experiment, Workspace\n"
        "run = Experiment(Workspace.from_config(), 'birds').start_logging()\n"
        "run.log('a', 1)\n"
    )
    for rest, status in (
        ("", "Completed"),
        ("raise ValueError('bad')", "Failed"),
        ("import os; os.kill(os.getpid(), 9)", "Failed"),
    ):
        subprocess.run([sys.executable, "-c", code + rest], stderr=subprocess.DEVNULL, check=False)
        run = next(experiment.get_runs())
        assert run.get_status() == status
    assert "was killed" in run.get_details()["statusReason"]


def test_a_widget_shows_what_was_logged(submit: Submit, capsys: pytest.CaptureFixture[str]) -> None:
    run = submit("from launcher.jobs import Run; Run.get_context().log('a', 1)")
    run.wait_for_completion()
    RunDetails(run).show()
    assert "Status: Completed)\na: 1\n" in capsys.readouterr().out
    assert "<td>Completed</td>" in run._repr_html_()


def test_without_a_run_the_script_says_what_it_would_log(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = Run.get_context()
    run.log("x", 1)
    assert capsys.readouterr().out == "Attempted to log scalar metric x:\n1\n"
    assert run.id.startswith("OfflineRun_") and run.get_metrics() == {"x": 1}
    assert run.get_status() == "Running"
