"""The estimators of 2018 and 2020 become what is submitted today."""

from __future__ import annotations

import pytest

from launcher.jobs import (
    Datastore,
    Gloo,
    Mpi,
    MpiConfiguration,
    Nccl,
    PyTorch,
    RunConfigurationException,
    Workspace,
)
from launcher.jobs.configuration import Shape, make_definition, shape_of
from launcher.jobs.environment import container_asked_for

pytestmark = pytest.mark.filterwarnings("ignore:PyTorch has been replaced:DeprecationWarning")


def definition_of(**options: object) -> dict[str, object]:
    estimator = PyTorch(**{"source_directory": ".", "entry_script": "train.py", **options})
    return make_definition(estimator.as_script_run_config().run_config)


def test_parameters_become_arguments_in_their_order() -> None:
    found = definition_of(
        script_params={"--num_epochs": 30, "--amp": "", "--output_dir": "./outputs"},
        compute_target="gpu-cluster",
        use_gpu=True,
        framework_version="1.13",
        pip_packages=["pillow==5.4.1"],
    )
    assert found["arguments"] == ["--num_epochs", "30", "--amp", "--output_dir", "./outputs"]
    assert found["target"] == "gpu-cluster" and found["script"] == "train.py"
    spec = found["environment"]["python"]["condaDependencies"]  # type: ignore[index]
    assert spec["dependencies"] == [{"pip": ["pillow==5.4.1"]}]


@pytest.mark.parametrize(
    ("options", "communicator", "shape"),
    [
        ({}, "None", Shape(1, 1, False)),
        ({"node_count": 2, "distributed_training": Mpi()}, "Mpi", Shape(2, 2, False)),
        ({"node_count": 2, "distributed_training": MpiConfiguration()}, "Mpi", Shape(2, 2, False)),
        ({"distributed_training": Mpi(4)}, "Mpi", Shape(1, 4, False)),
        (
            {"node_count": 2, "process_count_per_node": 2, "distributed_backend": "mpi"},
            "Mpi",
            Shape(2, 4, False),
        ),
        ({"node_count": 2, "distributed_backend": "gloo"}, "PyTorch", Shape(2, 2, False)),
        (
            {"process_count_per_node": 2, "distributed_training": Nccl()},
            "PyTorch",
            Shape(1, 2, False),
        ),
        ({"distributed_training": Gloo()}, "PyTorch", Shape(1, 1, False)),
    ],
)
def test_how_many_processes_an_estimator_asks_for(
    options: dict[str, object], communicator: str, shape: Shape
) -> None:
    found = definition_of(**options)
    assert found["communicator"] == communicator and shape_of(found) == shape


def test_a_datastore_may_be_a_parameter(tmp_path: object) -> None:
    datastore = Datastore(Workspace(store=str(tmp_path)))
    found = definition_of(script_params={"--data_dir": datastore.path("birds").as_mount()})
    assert found["arguments"] == ["--data_dir", f"{tmp_path}/data/workspaceblobstore/birds"]


def test_an_estimator_says_that_it_is_old_and_wants_a_script() -> None:
    with pytest.warns(DeprecationWarning, match="replaced by ScriptRunConfig"):
        PyTorch(".", entry_script="train.py")
    with pytest.raises(RunConfigurationException, match="entry_script is missing"):
        PyTorch(".")


def test_an_estimator_names_an_argument_that_nobody_knows() -> None:
    with pytest.raises(RunConfigurationException, match=r"no argument node_counts\. Is node_count"):
        definition_of(node_counts=2)


def test_an_estimators_image_is_kept_with_the_run() -> None:
    found = definition_of(custom_docker_image="hub.example/train:1", use_gpu=True, shm_size="8g")
    assert container_asked_for(found) == "the image hub.example/train:1"
    assert found["docker"]["shmSize"] == "8g"  # type: ignore[index]
