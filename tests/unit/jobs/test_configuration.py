"""What is asked of a run, and what of it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.jobs import (
    CondaDependencies,
    DockerConfiguration,
    Environment,
    MpiConfiguration,
    PyTorchConfiguration,
    RunConfiguration,
    RunConfigurationException,
    ScriptRunConfig,
)
from launcher.jobs.configuration import Shape, make_command, make_definition, shape_of
from launcher.jobs.environment import container_asked_for, meaning_of


@pytest.mark.parametrize(
    ("wanted", "shape"),
    [
        (None, Shape(1, 1, False)),
        (PyTorchConfiguration(), Shape(1, 1, False)),
        (PyTorchConfiguration(process_count=4, node_count=2), Shape(2, 4, False)),
        (PyTorchConfiguration(node_count=2), Shape(2, 2, False)),
        (MpiConfiguration(), Shape(1, 1, False)),
        (MpiConfiguration(process_count_per_node=2, node_count=3), Shape(3, 6, False)),
    ],
)
def test_how_many_processes_are_asked_for(wanted: object, shape: Shape) -> None:
    config = ScriptRunConfig(".", "train.py", distributed_job_config=wanted)  # type: ignore[arg-type]
    assert shape_of(make_definition(config.run_config)) == shape


def test_arguments_become_texts() -> None:
    config = ScriptRunConfig(".", "train.py", ["--epochs", 50, "--lr", 0.1, "$LOCAL_RANK"])
    definition = make_definition(config.run_config)
    assert definition["arguments"] == ["--epochs", "50", "--lr", "0.1", "$LOCAL_RANK"]


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("a  b", "a  b"),
        (["python", "train.py", "--lr", 0.1], "python train.py --lr 0.1"),
        (["echo", "two words", "$NODE_RANK", ""], "echo 'two words' $NODE_RANK ''"),
        (["a", "&&", "b", "||", "c", "&"], "a && b || c '&'"),
    ],
)
def test_a_command_is_one_line_for_a_shell(command: list[object] | str, line: str) -> None:
    assert make_command(command) == line


def test_a_script_and_a_command_exclude_each_other() -> None:
    with pytest.raises(RunConfigurationException, match="Both a command and a script"):
        ScriptRunConfig(".", script="train.py", command=["ls"])


def test_a_configuration_can_be_filled_in_later() -> None:
    config = ScriptRunConfig(".", "train.py")
    config.run_config.target = "gpu"
    config.run_config.environment = Environment("mine")
    definition = make_definition(config.run_config)
    assert definition["target"] == "gpu" and definition["environment"]["name"] == "mine"


def test_a_configuration_is_saved_and_loaded(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    config = RunConfiguration("train.py", ["--lr", "0.1"])
    config.communicator, config.node_count = "PyTorch", 2
    config.pytorch = PyTorchConfiguration(process_count=4, node_count=2)
    config.environment_variables = {"A": "b"}
    config.save(str(tmp_path), "gpu")
    loaded = RunConfiguration.load(str(tmp_path), "gpu")
    saved, again = make_definition(config), make_definition(loaded)
    assert {**saved, "framework": again["framework"]} == {**again, "pyTorch": saved["pyTorch"]}
    assert shape_of(again) == Shape(2, 4, False)


def test_what_is_asked_of_a_container_is_saved_and_loaded(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    config = RunConfiguration("train.py")
    config.docker = DockerConfiguration(True, False, ["--cpus", "2"], "8g")
    config.save(str(tmp_path), "gpu")
    docker = RunConfiguration.load(str(tmp_path), "gpu").docker
    assert docker is not None and vars(docker) == vars(config.docker)


def test_which_container_a_run_asks_for() -> None:
    config = RunConfiguration("train.py")
    assert container_asked_for(make_definition(config)) == ""
    config.environment.docker.enabled = True
    assert container_asked_for(make_definition(config)) == "a container"
    config.environment = Environment.from_docker_image("mine", "hub.example/train:1")
    assert container_asked_for(make_definition(config)) == "the image hub.example/train:1"
    config.environment = Environment.from_dockerfile("mine", "FROM scratch\n")
    assert container_asked_for(make_definition(config)) == "the image of a Dockerfile"
    config.docker = DockerConfiguration(use_docker=False)
    assert container_asked_for(make_definition(config)) == ""
    config.docker, config.environment = DockerConfiguration(use_docker=True), Environment("plain")
    assert container_asked_for(make_definition(config)) == "a container"


def test_what_a_curated_name_means_is_said() -> None:
    config = RunConfiguration("train.py")
    packages = {"torch": "2.14.1", "numpy": "2.4"}
    assert meaning_of(make_definition(config), "3.11.2", packages) == ""
    config.environment = Environment("AzureML-PyTorch-1.6-GPU")
    assert meaning_of(make_definition(config), "3.11.2", packages) == (
        "AzureML-PyTorch-1.6-GPU means Python 3.11.2 with torch 2.14.1"
    )


_CONDA = """\
channels:
- conda-forge
dependencies:
- python=3.6.2
- pip:
  - azureml-defaults
  - torch==1.6.0
  - pillow
"""


def test_the_specification_of_the_articles(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    path = tmp_path / "conda_dependencies.yml"
    path.write_text(_CONDA)
    packages = Environment.from_conda_specification("env", str(path)).python.conda_dependencies
    assert packages.python_version == "3.6.2"
    assert packages.pip_packages == ["azureml-defaults", "torch==1.6.0", "pillow"]
    assert packages.wanted_pip_packages() == ["torch==1.6.0", "pillow"]
    assert packages.conda_packages == [] and packages.conda_channels == ["conda-forge"]
    assert packages.serialize_to_string() == _CONDA


def test_packages_are_added_replaced_and_removed() -> None:
    packages = CondaDependencies.create(
        pip_packages=["torch==1.6.0"], conda_packages=["numpy"], python_version="3.11"
    )
    packages.add_pip_package("torch==2.0")
    packages.add_conda_package("scipy>=1")
    packages.remove_conda_package("numpy")
    packages.add_channel("pytorch")
    assert packages.pip_packages == ["torch==2.0"] and packages.conda_packages == ["scipy>=1"]
    assert packages.python_version == "3.11"


def test_requirements_become_pip_packages(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("# for training\ntorch>=2  # new\n\npillow\n--index-url https://a/b\n")
    packages = Environment.from_pip_requirements("env", str(path)).python.conda_dependencies
    assert packages.pip_packages == ["torch>=2", "pillow"]
    assert packages.pip_options == ["--index-url https://a/b"]
