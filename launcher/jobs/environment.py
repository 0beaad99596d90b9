"""Environments: in which Python, with which packages and variables a run's script runs.

Owns what is asked for and how it is kept under a name. With nothing asked for, that is the
interpreter which submits. Builds nothing.
"""

from __future__ import annotations

import copy
import json
import os
from typing import NamedTuple

from launcher.jobs.conda import CondaDependencies
from launcher.jobs.errors import EnvironmentException
from launcher.jobs.store import Store, check_name, read_json, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from launcher.jobs.workspace import Workspace

DEFAULT_CPU_IMAGE = "mcr.microsoft.com/azureml/intelmpi2018.3-ubuntu16.04"
DEFAULT_GPU_IMAGE = "mcr.microsoft.com/azureml/base-gpu:openmpi3.1.2-cuda10.1-cudnn7-ubuntu18.04"

_DEFINITION_FILE = "azureml_environment.json"
_CONDA_FILE = "conda_dependencies.yml"

# Names that the workspace answers itself.
_CURATED = ("azureml-", "launcher-current")

# What their names promise.
_CURATED_PACKAGES = ("torch", "torchvision", "horovod")


class Registry:
    """Where an image would be fetched from."""

    def __init__(self) -> None:
        self.address: str | None = None
        self.username: str | None = None
        self.password: str | None = None


class DockerSection:
    """What is asked of a container: kept with the run; none is started, and the run says so."""

    def __init__(self) -> None:
        self.enabled = False
        self.base_image: str | None = None
        self.base_dockerfile: str | None = None
        self.base_image_registry = Registry()
        self.shm_size: str | None = None
        self.arguments: list[str] = []
        self.shared_volumes = True


class PythonSection:
    """Which interpreter, and which packages it needs."""

    def __init__(self) -> None:
        self.interpreter_path = "python"
        self.user_managed_dependencies = False
        self.conda_dependencies = CondaDependencies()
        # Go on with the nearest versions where the exact ones cannot be had.
        self.nearest = False


class Environment:
    """A named description of what a script runs in."""

    def __init__(self, name: str, **_: object) -> None:
        self.name = name
        self.version: str | None = None
        self.python = PythonSection()
        self.docker = DockerSection()
        self.environment_variables: dict[str, str] = {}
        self.inferencing_stack_version: str | None = None

    def __repr__(self) -> str:
        return f"Environment(Name: {self.name},\nVersion: {self.version})"

    @staticmethod
    def from_conda_specification(name: str, file_path: str) -> Environment:
        """Return an environment with the packages of a conda specification."""
        made = Environment(name)
        made.python.conda_dependencies = CondaDependencies(file_path)
        return made

    @staticmethod
    def from_pip_requirements(
        name: str, file_path: str, pip_version: str | None = None
    ) -> Environment:
        """Return an environment with the packages of a requirements file."""
        try:
            with open(file_path, encoding="utf-8") as file:
                lines = [line.partition(" #")[0].strip() for line in file]
        except OSError as error:
            raise EnvironmentException(f"{file_path} cannot be read: {error.strerror}.") from None
        packages = [line for line in lines if line and not line.startswith("#")]
        made = Environment(name)
        made.python.conda_dependencies = CondaDependencies.create(pip_packages=packages)
        return made

    @staticmethod
    def from_docker_image(
        name: str,
        image: str,
        container_registry: Registry | None = None,
        conda_specification: str | None = None,
        pip_requirements: str | None = None,
    ) -> Environment:
        """Return an environment with the packages of a specification, which also names an image."""
        made = Environment(name)
        if conda_specification:
            made = Environment.from_conda_specification(name, conda_specification)
        elif pip_requirements:
            made = Environment.from_pip_requirements(name, pip_requirements)
        made.docker.base_image = image
        made.docker.base_image_registry = container_registry or Registry()
        return made

    @staticmethod
    def from_dockerfile(
        name: str,
        dockerfile: str,
        conda_specification: str | None = None,
        pip_requirements: str | None = None,
    ) -> Environment:
        """Return the same with a Dockerfile: its path, or its text."""
        made = Environment.from_docker_image(name, "", None, conda_specification, pip_requirements)
        made.docker.base_image = None
        made.docker.base_dockerfile = dockerfile
        if os.path.isfile(dockerfile):
            with open(dockerfile, encoding="utf-8") as file:
                made.docker.base_dockerfile = file.read()
        return made

    @staticmethod
    def get(
        workspace: Workspace, name: str, version: str | None = None, label: str | None = None
    ) -> Environment:
        """Return a registered environment, or one of those that every workspace has."""
        found = Environment.list(workspace).get(name) if version is None else None
        if found is not None:
            return found
        if version is not None:
            kept = read_json(_path(workspace._store, name, version))
            if kept is not None:
                return from_definition(kept)
        if name.lower().startswith(_CURATED):
            return _curated(name)
        near = [known for known in Environment.list(workspace) if known[:3] == name[:3]]
        raise EnvironmentException(
            f"There is no environment {name}" + (f", version {version}" if version else "") + ".",
            hint=f"Near are: {', '.join(near)}." if near else "Register it with env.register(ws).",
        )

    @staticmethod
    def list(workspace: Workspace) -> dict[str, Environment]:
        """Return the newest version of each registered environment, by name."""
        folder = workspace._store.join("environments")
        found = {}
        for name in sorted(_names_in(folder)):
            versions = sorted(int(file[:-5]) for file in _versions_in(os.path.join(folder, name)))
            if versions:
                kept = read_json(_path(workspace._store, name, str(versions[-1])))
                if kept is not None:
                    found[name] = from_definition(kept)
        return found

    def clone(self, new_name: str) -> Environment:
        """Return a copy under another name."""
        made = copy.deepcopy(self)
        made.name, made.version = new_name, None
        return made

    def register(self, workspace: Workspace) -> Environment:
        """Keep this environment under its name, as a new version unless it is the newest one."""
        if self.name.lower().startswith(_CURATED):
            raise EnvironmentException(
                f"{self.name} cannot be registered: such names are those of curated environments.",
                hint="Take another: env.clone('my-environment').register(ws)",
            )
        store = workspace._store
        folder = store.join("environments", check_name(self.name, "an environment"))
        os.makedirs(folder, exist_ok=True)
        while True:
            versions = sorted(int(file[:-5]) for file in _versions_in(folder))
            newest = versions[-1] if versions else 0
            if newest:
                kept = read_json(_path(store, self.name, str(newest))) or {}
                if {**kept, "version": None} == {**self.definition(), "version": None}:
                    self.version = str(newest)
                    return self
            self.version = str(newest + 1)
            try:
                # The name is taken before anything stands in it: two cannot have one version.
                open(os.path.join(folder, f"{newest + 1}.json"), "x").close()
            except FileExistsError:
                continue
            write_json(_path(store, self.name, self.version), self.definition())
            return self

    def save_to_directory(self, path: str, overwrite: bool = False) -> None:
        """Write the definition and the conda specification into a folder."""
        if os.path.exists(os.path.join(path, _DEFINITION_FILE)) and not overwrite:
            raise EnvironmentException(
                f"{path} holds an environment already.", hint="overwrite=True replaces it."
            )
        os.makedirs(path, exist_ok=True)
        write_json(os.path.join(path, _DEFINITION_FILE), self.definition())
        self.python.conda_dependencies.save(os.path.join(path, _CONDA_FILE))

    @staticmethod
    def load_from_directory(path: str) -> Environment:
        """Return the environment that `save_to_directory` wrote."""
        kept = read_json(os.path.join(path, _DEFINITION_FILE))
        if kept is None:
            raise EnvironmentException(f"{path} holds no {_DEFINITION_FILE}.")
        made = from_definition(kept)
        conda_file = os.path.join(path, _CONDA_FILE)
        if os.path.exists(conda_file):
            made.python.conda_dependencies = CondaDependencies(conda_file)
        return made

    def definition(self) -> dict[str, Any]:
        """Return what is kept of this environment; no password is."""
        return {
            "name": self.name,
            "version": self.version,
            "python": {
                "interpreterPath": self.python.interpreter_path,
                "userManagedDependencies": self.python.user_managed_dependencies,
                "condaDependencies": copy.deepcopy(self.python.conda_dependencies.as_dict()),
                "baseCondaEnvironment": None,
                "nearest": self.python.nearest,
            },
            "environmentVariables": dict(self.environment_variables),
            "docker": {
                "enabled": self.docker.enabled,
                "baseImage": self.docker.base_image,
                "baseDockerfile": self.docker.base_dockerfile,
                "baseImageRegistry": {
                    "address": self.docker.base_image_registry.address,
                    "username": self.docker.base_image_registry.username,
                    "password": None,
                },
                "shmSize": self.docker.shm_size,
                "arguments": list(self.docker.arguments),
                "sharedVolumes": self.docker.shared_volumes,
            },
            "inferencingStackVersion": self.inferencing_stack_version,
        }

    def serialize_to_string(self) -> str:
        """Return the definition as JSON."""
        return json.dumps(self.definition(), indent=1)


class Needs(NamedTuple):
    """What has to be there before a script of this environment can run."""

    interpreter: str  # "" where one has to be built
    python_version: str | None
    conda_packages: list[str]
    conda_channels: list[str]
    pip_packages: list[str]
    pip_options: list[str]


def needs_of(definition: dict[str, Any], interpreter: str) -> Needs:
    """Return what an environment's definition asks for, on top of the submitting interpreter."""
    python = definition.get("python") or {}
    path = python.get("interpreterPath") or "python"
    if python.get("userManagedDependencies"):
        return Needs(interpreter if path == "python" else path, None, [], [], [], [])
    packages = CondaDependencies(_underlying_structure=python.get("condaDependencies"))
    wanted = packages.wanted_pip_packages()
    if not wanted and not packages.conda_packages:
        return Needs(interpreter if path == "python" else path, None, [], [], [], [])
    return Needs(
        "",
        packages.python_version,
        packages.conda_packages,
        packages.conda_channels,
        wanted,
        packages.pip_options,
    )


def container_asked_for(definition: dict[str, Any]) -> str:
    """Return which container a run's definition asks for, in words; "" where it asks for none."""
    docker = (definition.get("environment") or {}).get("docker") or {}
    use = (definition.get("docker") or {}).get("useDocker")
    image = docker.get("baseImage") or ("of a Dockerfile" if docker.get("baseDockerfile") else "")
    is_wanted = bool(image or docker.get("enabled")) if use is None else use
    return f"the image {image}" if is_wanted and image else "a container" if is_wanted else ""


def meaning_of(definition: dict[str, Any], python: str, packages: Mapping[str, str]) -> str:
    """Return what a curated name means for a run, where its environment has one; else "".

    python, packages: the versions of the interpreter that submits.
    """
    name = (definition.get("environment") or {}).get("name") or ""
    if not name.lower().startswith(_CURATED):
        return ""
    have = [f"{one} {packages[one]}" for one in _CURATED_PACKAGES if one in packages]
    return f"{name} means Python {python}" + (f" with {', '.join(have)}" if have else "")


def _curated(name: str) -> Environment:
    """Return the environment that a curated name means here: the interpreter that submits."""
    made = Environment(name)
    made.version = "1"
    made.python.user_managed_dependencies = True
    return made


def from_definition(kept: dict[str, Any]) -> Environment:
    """Return the environment that a kept definition describes."""
    made = Environment(kept["name"])
    made.version = kept.get("version")
    python, docker = kept.get("python") or {}, kept.get("docker") or {}
    made.python.interpreter_path = python.get("interpreterPath", "python")
    made.python.user_managed_dependencies = bool(python.get("userManagedDependencies"))
    made.python.nearest = bool(python.get("nearest"))
    spec = python.get("condaDependencies")
    if spec is not None:
        made.python.conda_dependencies = CondaDependencies(_underlying_structure=spec)
    made.environment_variables = dict(kept.get("environmentVariables") or {})
    made.docker.enabled = bool(docker.get("enabled"))
    made.docker.base_image = docker.get("baseImage")
    made.docker.base_dockerfile = docker.get("baseDockerfile")
    registry = docker.get("baseImageRegistry") or {}
    made.docker.base_image_registry.address = registry.get("address")
    made.docker.base_image_registry.username = registry.get("username")
    made.docker.shm_size = docker.get("shmSize")
    made.docker.arguments = list(docker.get("arguments") or [])
    made.docker.shared_volumes = bool(docker.get("sharedVolumes", True))
    made.inferencing_stack_version = kept.get("inferencingStackVersion")
    return made


def _path(store: Store, name: str, version: str) -> str:
    return store.join("environments", name, f"{version}.json")


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _versions_in(folder: str) -> list[str]:
    return [name for name in _names_in(folder) if name.endswith(".json") and name[:-5].isdigit()]
