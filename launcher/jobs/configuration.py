"""What is asked of a run: script or command, arguments, environment, target, processes.

Owns the checks that need no run to exist: a mistake is raised by `submit` before anything is made.
"""

from __future__ import annotations

import copy
import os
import shlex
from typing import NamedTuple

from launcher.jobs.environment import Environment
from launcher.jobs.environment import from_definition as environment_from_definition
from launcher.jobs.errors import RunConfigurationException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# 30 days, as in the SDK.
_LONGEST_S = 2_592_000

# Letters that mean something to a shell; `$` is left to it.
_SPECIAL = "'\"\\*?;<>|&()`#~"

# Words that stay what they are: `"pip install . && python train.py".split()` is a command, too.
_JOINING = ("&&", "||")


class PyTorchConfiguration:
    """Ranks of torch.distributed: `process_count` in all, spread evenly over the nodes."""

    communicator = "PyTorch"

    def __init__(
        self,
        communication_backend: str = "Nccl",
        process_count: int | None = None,
        node_count: int = 1,
    ) -> None:
        self.communication_backend = communication_backend
        self.process_count = process_count
        self.node_count = node_count

    @property
    def num_processes(self) -> int:
        return self.process_count or self.node_count


class MpiConfiguration:
    """Ranks of MPI or Horovod, so many on each node."""

    communicator = "Mpi"

    def __init__(self, process_count_per_node: int = 1, node_count: int = 1) -> None:
        self.process_count_per_node = process_count_per_node
        self.node_count = node_count

    @property
    def num_processes(self) -> int:
        return self.process_count_per_node * self.node_count


class DockerConfiguration:
    """What is asked of a container."""

    def __init__(
        self,
        use_docker: bool | None = None,
        shared_volumes: bool | None = None,
        arguments: list[str] | None = None,
        shm_size: str | None = None,
    ) -> None:
        self.use_docker = use_docker
        self.shared_volumes = shared_volumes
        self.arguments = arguments or []
        self.shm_size = shm_size


class MpiSection:
    """Processes on each node, as a run configuration has it."""

    def __init__(self, process_count_per_node: int = 1) -> None:
        self.process_count_per_node = process_count_per_node


class RunConfiguration:
    """Everything about a run but its source folder; may be filled in piece by piece."""

    def __init__(
        self,
        script: str | None = None,
        arguments: list[Any] | None = None,
        framework: str | None = None,
        communicator: str | None = None,
        conda_dependencies: Any = None,
        **_: object,
    ) -> None:
        self.script = script
        self.command: list[Any] | str | None = None
        self.arguments: list[Any] = list(arguments or [])
        self.framework = framework or "Python"
        self.communicator = communicator or "None"
        self.target: Any = "local"
        self.node_count = 1
        self.mpi = MpiSection()
        self.pytorch: PyTorchConfiguration | None = None
        self.docker: DockerConfiguration | None = None
        self.environment = Environment("default")
        if conda_dependencies is not None:
            self.environment.python.conda_dependencies = conda_dependencies
        self.environment_variables: dict[str, str] = {}
        self.max_run_duration_seconds: int | None = _LONGEST_S
        self.data_references: dict[str, Any] = {}

    def save(
        self,
        path: str | None = None,
        name: str | None = None,
        separate_environment_yaml: bool = False,
    ) -> None:
        """Write this configuration as `<path>/.azureml/<name>.runconfig`."""
        from launcher.jobs.conda import yaml_module

        folder = os.path.join(path or ".", ".azureml")
        os.makedirs(folder, exist_ok=True)
        text: str = yaml_module().safe_dump(make_definition(self), sort_keys=False)
        with open(os.path.join(folder, f"{name or 'run'}.runconfig"), "w") as file:
            file.write(text)

    @staticmethod
    def load(path: str, name: str | None = None) -> RunConfiguration:
        """Return the configuration that `save` wrote, or a file of that kind."""
        from launcher.jobs.conda import yaml_module

        if not os.path.isfile(path):
            path = os.path.join(path, ".azureml", f"{name or 'run'}.runconfig")
        try:
            with open(path) as file:
                kept = yaml_module().safe_load(file) or {}
        except OSError as error:
            raise RunConfigurationException(f"{path} cannot be read: {error.strerror}.") from None
        return from_definition(kept)


class ScriptRunConfig:
    """A source folder, what of it is run, and how."""

    def __init__(
        self,
        source_directory: str | None = None,
        script: str | None = None,
        arguments: list[Any] | None = None,
        run_config: RunConfiguration | None = None,
        _telemetry_values: object = None,
        compute_target: Any = None,
        environment: Environment | None = None,
        distributed_job_config: PyTorchConfiguration | MpiConfiguration | None = None,
        resume_from: Any = None,
        max_run_duration_seconds: int | None = _LONGEST_S,
        command: list[Any] | str | None = None,
        docker_runtime_config: DockerConfiguration | None = None,
    ) -> None:
        self.source_directory = source_directory or "."
        self.resume_from = resume_from
        if command is not None and (script is not None or arguments is not None):
            raise RunConfigurationException(
                "Both a command and a script were given.",
                hint="Give command=[...] alone, or script= with arguments=.",
            )
        config = copy.copy(run_config) if run_config is not None else RunConfiguration()
        if script is not None:
            config.script = script
        if arguments is not None:
            config.arguments = arguments
        if command is not None:
            config.command = command
        if compute_target is not None:
            config.target = compute_target
        if environment is not None:
            config.environment = environment
        if docker_runtime_config is not None:
            config.docker = docker_runtime_config
        if max_run_duration_seconds != _LONGEST_S or run_config is None:
            config.max_run_duration_seconds = max_run_duration_seconds
        self.run_config = config
        if distributed_job_config is not None:
            self._distribute(distributed_job_config)

    def _distribute(self, wanted: PyTorchConfiguration | MpiConfiguration) -> None:
        config = self.run_config
        config.communicator = wanted.communicator
        config.node_count = wanted.node_count
        if isinstance(wanted, PyTorchConfiguration):
            config.framework = "PyTorch"
            config.pytorch = wanted
        else:
            config.mpi = MpiSection(wanted.process_count_per_node)

    @property
    def script(self) -> str | None:
        return self.run_config.script

    @property
    def arguments(self) -> list[Any]:
        return self.run_config.arguments

    def __repr__(self) -> str:
        what = self.run_config.script or self.run_config.command
        return f"ScriptRunConfig({what!r} in {self.source_directory!r})"


class Shape(NamedTuple):
    """How many processes a definition asks for."""

    num_nodes: int
    num_processes: int
    # The command is started once per node, and starts the ranks itself.
    is_command: bool


def target_name(target: Any) -> str:
    """Return the name of a target that may be an object."""
    return str(getattr(target, "name", target) or "local")


def make_definition(config: RunConfiguration) -> dict[str, Any]:
    """Return a configuration as it is kept, under the names that a .runconfig file has."""
    pytorch = config.pytorch
    docker = config.docker
    return {
        "script": config.script,
        "command": make_command(config.command),
        "useAbsolutePath": False,
        "arguments": [make_argument(argument) for argument in config.arguments],
        "framework": config.framework,
        "communicator": config.communicator,
        "target": target_name(config.target),
        "dataReferences": {},
        "data": {},
        "outputData": {},
        "jobName": None,
        "maxRunDurationSeconds": config.max_run_duration_seconds,
        "nodeCount": config.node_count,
        "priority": None,
        "environment": config.environment.definition(),
        "history": {
            "outputCollection": True,
            "directoriesToWatch": ["logs"],
            "snapshotProject": True,
        },
        "mpi": {"processCountPerNode": config.mpi.process_count_per_node},
        "pyTorch": {
            "communicationBackend": pytorch.communication_backend if pytorch else "nccl",
            "processCount": pytorch.process_count if pytorch else None,
        },
        "docker": {
            "useDocker": docker.use_docker if docker else config.environment.docker.enabled or None,
            "sharedVolumes": docker.shared_volumes if docker else None,
            "arguments": [*docker.arguments] if docker else [],
            "shmSize": docker.shm_size if docker else config.environment.docker.shm_size,
        },
        "environmentVariables": {
            name: str(value) for name, value in config.environment_variables.items()
        },
    }


def from_definition(kept: dict[str, Any]) -> RunConfiguration:
    """Return the configuration that a kept definition describes."""
    config = RunConfiguration(kept.get("script"), kept.get("arguments"))
    config.command = kept.get("command") or None
    config.framework = kept.get("framework") or "Python"
    config.communicator = kept.get("communicator") or "None"
    config.target = kept.get("target") or "local"
    config.node_count = int(kept.get("nodeCount") or 1)
    config.max_run_duration_seconds = kept.get("maxRunDurationSeconds")
    config.mpi = MpiSection(int((kept.get("mpi") or {}).get("processCountPerNode") or 1))
    if config.communicator.lower() == "pytorch":
        count = (kept.get("pyTorch") or {}).get("processCount")
        config.pytorch = PyTorchConfiguration("Nccl", count, config.node_count)
    if kept.get("environment"):
        config.environment = environment_from_definition({"name": "default", **kept["environment"]})
    config.environment_variables = dict(kept.get("environmentVariables") or {})
    docker = kept.get("docker") or {}
    if any(value not in (None, []) for value in docker.values()):
        config.docker = DockerConfiguration(
            docker.get("useDocker"),
            docker.get("sharedVolumes"),
            docker.get("arguments"),
            docker.get("shmSize"),
        )
    return config


def make_argument(argument: Any) -> str:
    """Return one argument as the script gets it."""
    path = getattr(argument, "as_argument", None)
    return str(path()) if path is not None else str(argument)


def make_command(command: list[Any] | str | None) -> str | None:
    """Return a command as one line for a shell; `$NAME` in it is the shell's to replace."""
    if command is None or isinstance(command, str):
        return command
    return " ".join(_quote(make_argument(word)) for word in command)


def _quote(word: str) -> str:
    """Quote a word for the shell, but leave one in which the shell is to replace something."""
    is_plain = word and not any(letter.isspace() or letter in _SPECIAL for letter in word)
    return word if is_plain or word in _JOINING else shlex.quote(word)


def shape_of(definition: dict[str, Any]) -> Shape:
    """Return how many nodes and processes a definition asks for."""
    asked_nodes = definition.get("nodeCount")
    nodes = 1 if asked_nodes is None else int(asked_nodes)
    if definition.get("command"):
        return Shape(nodes, nodes, True)
    communicator = str(definition.get("communicator") or "None").lower()
    if communicator == "pytorch":
        count = (definition.get("pyTorch") or {}).get("processCount")
        return Shape(nodes, int(count or nodes), False)
    if communicator in ("mpi", "openmpi", "intelmpi"):
        per_node = int((definition.get("mpi") or {}).get("processCountPerNode") or 1)
        return Shape(nodes, nodes * per_node, False)
    return Shape(nodes, nodes, False)


def main_file(script: str) -> str:
    """Return the file that is executed for a script: of a folder, which is a package, its main."""
    return os.path.join(script, "__main__.py") if os.path.isdir(script) else script


def check(definition: dict[str, Any], source_directory: str) -> None:
    """Raise what can be known to be wrong before there is a run."""
    script, command = definition.get("script"), definition.get("command")
    if not os.path.isdir(source_directory):
        raise RunConfigurationException(
            f"source_directory={source_directory!r} is no folder.",
            hint="Give the folder of the script.",
        )
    if not script and not command:
        raise RunConfigurationException(
            "Neither a script nor a command was given.",
            hint="Type for example: ScriptRunConfig(source_directory='.', script='train.py')",
        )
    if script and command:
        raise RunConfigurationException(
            "Both a command and a script were given.", hint="Leave one of them out."
        )
    if script and not os.path.isfile(main_file(os.path.join(source_directory, script))):
        scripts = [name for name in sorted(os.listdir(source_directory)) if name.endswith(".py")]
        raise RunConfigurationException(
            f"There is no {script} in {os.path.abspath(source_directory)}.",
            hint=f"The folder has: {', '.join(scripts[:8])}." if scripts else "",
        )
    shape = shape_of(definition)
    if shape.num_nodes < 1 or shape.num_processes < 1:
        raise RunConfigurationException(
            f"node_count={shape.num_nodes} with {shape.num_processes} processes starts nothing."
        )
    if not shape.is_command and shape.num_processes % shape.num_nodes:
        raise RunConfigurationException(
            f"process_count={shape.num_processes} does not spread evenly over"
            f" node_count={shape.num_nodes} nodes.",
            hint="process_count is the number of all processes: make it a multiple of node_count.",
        )
