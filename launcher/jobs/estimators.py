"""The estimators of 2018 and 2020: fronts that become a ScriptRunConfig, and say that they are old.

Owns their words; everything that they do is a ScriptRunConfig's.
"""

from __future__ import annotations

import warnings

from launcher.jobs.conda import CondaDependencies
from launcher.jobs.configuration import (
    MpiConfiguration,
    PyTorchConfiguration,
    RunConfiguration,
    ScriptRunConfig,
)
from launcher.jobs.environment import Environment
from launcher.jobs.errors import RunConfigurationException
from launcher.jobs.meaningless import OF_ESTIMATORS, refuse_unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Mpi:
    """Ranks of MPI or Horovod: so many on each node."""

    def __init__(self, process_count_per_node: int = 1) -> None:
        self.process_count_per_node = process_count_per_node


class Nccl:
    """Ranks of torch.distributed over NCCL."""


class Gloo:
    """Ranks of torch.distributed over Gloo."""


class Estimator:
    """A script and what it runs in, in the words of before ScriptRunConfig."""

    def __init__(
        self,
        source_directory: str,
        *,
        compute_target: Any = None,
        entry_script: str | None = None,
        script_params: dict[str, Any] | None = None,
        node_count: int = 1,
        process_count_per_node: int = 1,
        distributed_backend: str | None = None,
        distributed_training: Mpi | MpiConfiguration | Nccl | Gloo | None = None,
        conda_packages: list[str] | None = None,
        pip_packages: list[str] | None = None,
        conda_dependencies_file: str | None = None,
        conda_dependencies_file_path: str | None = None,
        pip_requirements_file: str | None = None,
        pip_requirements_file_path: str | None = None,
        environment_variables: dict[str, str] | None = None,
        environment_definition: Environment | None = None,
        resume_from: Any = None,
        max_run_duration_seconds: int | None = None,
        custom_docker_image: str | None = None,
        custom_docker_base_image: str | None = None,
        shm_size: str | None = None,
        **ignored: object,
    ) -> None:
        warnings.warn(
            f"{type(self).__name__} has been replaced by ScriptRunConfig.",
            DeprecationWarning,
            stacklevel=2,
        )
        if not entry_script:
            raise RunConfigurationException(
                "entry_script is missing.", hint="Give the script's name in source_directory."
            )
        refuse_unknown(type(self).__name__, ignored, OF_ESTIMATORS, Estimator)
        self.ignored = sorted(ignored)
        self.source_directory = source_directory
        environment = environment_definition or _make_environment(
            conda_dependencies_file or conda_dependencies_file_path,
            pip_requirements_file or pip_requirements_file_path,
            conda_packages or [],
            pip_packages or [],
        )
        environment.environment_variables.update(environment_variables or {})
        docker = environment.docker
        docker.base_image = custom_docker_image or custom_docker_base_image or docker.base_image
        docker.shm_size = shm_size or docker.shm_size
        self.run_config = RunConfiguration(entry_script, _flatten(script_params or {}))
        self.run_config.environment = environment
        self.run_config.max_run_duration_seconds = max_run_duration_seconds
        if compute_target is not None:
            self.run_config.target = compute_target
        self._resume_from = resume_from
        self._distributed = _make_distribution(
            distributed_training or distributed_backend, node_count, process_count_per_node
        )

    @property
    def conda_dependencies(self) -> CondaDependencies:
        return self.run_config.environment.python.conda_dependencies

    def as_script_run_config(self) -> ScriptRunConfig:
        """Return the configuration that `submit` takes."""
        return ScriptRunConfig(
            self.source_directory,
            run_config=self.run_config,
            distributed_job_config=self._distributed,
            resume_from=self._resume_from,
        )


class PyTorch(Estimator):
    """The estimator for PyTorch; `framework_version` means the torch that you have."""


def _make_environment(
    conda_file: str | None, pip_file: str | None, conda: list[str], pip: list[str]
) -> Environment:
    if conda_file:
        environment = Environment.from_conda_specification("estimator", conda_file)
    elif pip_file:
        environment = Environment.from_pip_requirements("estimator", pip_file)
    else:
        environment = Environment("estimator")
    for package in conda:
        environment.python.conda_dependencies.add_conda_package(package)
    for package in pip:
        environment.python.conda_dependencies.add_pip_package(package)
    return environment


def _flatten(script_params: dict[str, Any]) -> list[Any]:
    """Return parameters as arguments, in their order; an empty value makes a flag alone."""
    arguments: list[Any] = []
    for name, value in script_params.items():
        arguments += [name] if value == "" else [name, value]
    return arguments


def _make_distribution(
    wanted: Mpi | MpiConfiguration | Nccl | Gloo | str | None,
    node_count: int,
    process_count_per_node: int,
) -> MpiConfiguration | PyTorchConfiguration | None:
    if isinstance(wanted, (Mpi, MpiConfiguration)):
        return MpiConfiguration(
            max(wanted.process_count_per_node, process_count_per_node), node_count
        )
    if wanted == "mpi":
        return MpiConfiguration(process_count_per_node, node_count)
    if wanted is not None:
        backend = wanted if isinstance(wanted, str) else type(wanted).__name__
        return PyTorchConfiguration(backend, node_count * process_count_per_node, node_count)
    if node_count > 1 or process_count_per_node > 1:
        return PyTorchConfiguration("Nccl", node_count * process_count_per_node, node_count)
    return None
