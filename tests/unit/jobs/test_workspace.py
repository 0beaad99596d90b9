"""Workspaces, environments and models, without any run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launcher.jobs import (
    AmlCompute,
    Environment,
    EnvironmentException,
    Experiment,
    Model,
    ModelNotFoundException,
    RunConfigurationException,
    StoreException,
    Workspace,
    index,
)
from launcher.jobs.store import default_root


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test here touches the stores of the user."""
    monkeypatch.setenv("LAUNCHER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("folder", ["", ".azureml", "aml_config"])
def test_the_config_of_azure_opens_a_workspace_of_its_name(
    home: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / folder).mkdir(exist_ok=True)
    (home / folder / "config.json").write_text(
        json.dumps({"subscription_id": "1", "resource_group": "r", "workspace_name": "birds"})
    )
    (home / "below").mkdir()
    monkeypatch.chdir(home / "below")
    workspace = Workspace.from_config()
    assert (workspace.name, workspace.location) == ("birds", "local")
    assert (workspace.subscription_id, workspace.resource_group) == ("1", "r")
    assert workspace._store.root == default_root("birds")


def test_without_a_config_one_line_says_where_runs_are_kept(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace.from_config()
    assert workspace.name == "default"
    assert capsys.readouterr().err == (
        f"launcher.jobs: no config.json here: runs are kept in {home}/home/default\n"
    )
    with pytest.raises(RunConfigurationException, match=r"no config\.json at"):
        Workspace.from_config(path=str(home))


def test_a_workspace_is_created_once() -> None:
    Workspace.create("birds")
    with pytest.raises(RunConfigurationException, match="already"):
        Workspace.create("birds")
    Workspace.create("birds", exist_ok=True).write_config()
    assert Workspace.from_config().name == "birds" and Workspace.get("birds").get_details()["id"]
    with pytest.raises(RunConfigurationException, match="no workspace cats"):
        Workspace.get("cats")


def test_a_store_of_a_later_layout_can_be_read_only(home: Path) -> None:
    workspace = Workspace.create("birds")
    path = Path(workspace._store.join("workspace.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    assert list(Experiment(workspace, "birds").get_runs()) == []
    with pytest.raises(StoreException, match="has layout 99"):
        Model.register(workspace, str(path), "birds")


def test_a_name_that_is_no_name_is_refused() -> None:
    for name in ("", "../up", "a/b", "-a", "x" * 200):
        with pytest.raises(StoreException, match="cannot be the name"):
            Experiment(Workspace.create("birds", exist_ok=True), name)


def test_an_environment_gets_a_version_unless_it_is_the_same() -> None:
    workspace = Workspace.create("birds")
    environment = Environment("mine")
    environment.environment_variables = {"A": "1"}
    assert environment.register(workspace).version == "1"
    assert environment.register(workspace).version == "1"
    environment.environment_variables["A"] = "2"
    assert environment.register(workspace).version == "2"
    assert Environment.get(workspace, "mine").environment_variables == {"A": "2"}
    assert Environment.get(workspace, "mine", "1").environment_variables == {"A": "1"}
    assert list(workspace.environments) == ["mine"]
    with pytest.raises(EnvironmentException, match="no environment nine"):
        Environment.get(workspace, "nine")


def test_a_curated_name_means_the_interpreter_that_you_are_in() -> None:
    workspace = Workspace.create("birds")
    curated = Environment.get(workspace, "AzureML-PyTorch-1.6-GPU")
    assert curated.python.user_managed_dependencies
    mine = curated.clone("mine")
    mine.register(workspace)
    with pytest.raises(EnvironmentException, match="cannot be registered"):
        curated.register(workspace)


def test_an_environment_is_saved_in_two_files(home: Path) -> None:
    pytest.importorskip("yaml")
    environment = Environment("mine")
    environment.python.conda_dependencies.add_pip_package("torch")
    environment.docker.enabled = True
    environment.docker.base_image = "hub.example/train:1"
    environment.docker.base_image_registry.username = "ada"
    environment.docker.base_image_registry.password = "secret"
    environment.docker.shared_volumes = False
    environment.docker.shm_size = "8g"
    environment.save_to_directory(str(home / "saved"))
    assert sorted(os.listdir(home / "saved")) == [
        *("azureml_environment.json", "conda_dependencies.yml")
    ]
    assert "secret" not in (home / "saved" / "azureml_environment.json").read_text()
    loaded = Environment.load_from_directory(str(home / "saved"))
    assert loaded.definition() == environment.definition()
    with pytest.raises(EnvironmentException, match="holds an environment already"):
        environment.save_to_directory(str(home / "saved"))


def test_a_target_names_an_argument_that_nobody_knows() -> None:
    make = AmlCompute.provisioning_configuration
    assert make(vm_size="STANDARD_NC6", max_nodes=4, vnet_name="lan").settings["max_nodes"] == 4
    with pytest.raises(RunConfigurationException, match=r"no argument max_node\. Is max_nodes m"):
        make(max_node=4)


def test_models_are_numbered_and_never_renumbered(home: Path) -> None:
    workspace = Workspace.create("birds")
    (home / "folder").mkdir()
    (home / "folder" / "weights").write_text("w")
    first = Model.register(workspace, str(home / "folder"), "birds", tags={"a": "1"})
    second = Model.register(workspace, str(home / "folder" / "weights"), "birds")
    assert (first.version, second.version) == (1, 2)
    assert first.created_time.utcoffset() is not None  # whatever the clock of this machine shows
    second.delete()
    assert Model(workspace, "birds").version == 1
    assert Model.register(workspace, str(home / "folder"), "birds").version == 3
    first.add_tags({"b": "2"})
    assert Model(workspace, "birds", tags=[["b", "2"]]).version == 1
    assert [model.id for model in Model.list(workspace, latest=True)] == ["birds:3"]
    assert os.listdir(first.download("there")) == ["weights"]
    with pytest.raises(Exception, match="exists already"):
        first.download("there")
    with pytest.raises(ModelNotFoundException, match="no model birds:7"):
        Model(workspace, "birds", version=7)


def test_a_run_is_kept_without_an_index_that_can_be_written(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace.create("birds")
    experiment = Experiment(workspace, "birds")
    with experiment.start_logging() as run:
        run.log("a", 1)
    monkeypatch.setattr(index, "place", lambda store: "/proc/nowhere/index.db")
    assert list(experiment.get_runs()) == [run]


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 100])
def test_a_damaged_index_is_made_anew(home: Path, damage: bytes) -> None:
    workspace = Workspace.create("birds")
    experiment = Experiment(workspace, "birds")
    runs = []
    for _ in range(3):
        runs.append(experiment.start_logging())
        runs[-1].complete()
    assert list(experiment.get_runs()) == runs[::-1]
    index.delete(workspace._store)
    Path(index.place(workspace._store)).write_bytes(damage)
    assert list(experiment.get_runs()) == runs[::-1]
    assert list(experiment.get_runs()) == runs[::-1]
