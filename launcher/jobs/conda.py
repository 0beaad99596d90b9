"""Packages that a run asks for, in the words of a conda specification.

Reads and writes `conda_dependencies.yml`; builds nothing.
"""

from __future__ import annotations

import os

from launcher.jobs.errors import EnvironmentException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What the SDK asks for and the run layer is itself.
_SDK_PACKAGES = ("azureml-",)


def yaml_module() -> Any:
    """Return PyYAML, which only those need who have such files."""
    try:
        import yaml
    except ImportError:
        raise EnvironmentException(
            "A YAML file cannot be read or written without the package PyYAML.",
            hint="Type: pip install 'launcher[jobs]'",
        ) from None
    return yaml


class CondaDependencies:
    """Channels, conda packages and pip packages."""

    def __init__(
        self,
        conda_dependencies_file_path: str | None = None,
        _underlying_structure: dict[str, Any] | None = None,
    ) -> None:
        self._spec: dict[str, Any] = {"channels": [], "dependencies": []}
        if conda_dependencies_file_path:
            self._spec = _read(conda_dependencies_file_path)
        elif _underlying_structure:
            self._spec = _underlying_structure

    @classmethod
    def create(
        cls,
        pip_indexurl: str | None = None,
        pip_packages: list[str] | None = None,
        conda_packages: list[str] | None = None,
        python_version: str | None = None,
        pin_sdk_version: bool = True,
    ) -> CondaDependencies:
        """Return the dependencies with these packages."""
        made = cls()
        if python_version:
            made.set_python_version(python_version)
        if pip_indexurl:
            made.set_pip_option(f"--index-url {pip_indexurl}")
        for package in conda_packages or []:
            made.add_conda_package(package)
        for package in pip_packages or []:
            made.add_pip_package(package)
        return made

    def add_conda_package(self, conda_package: str) -> None:
        """Ask for a package of conda's."""
        _replace(self._spec.setdefault("dependencies", []), conda_package)

    def remove_conda_package(self, conda_package: str) -> None:
        """Ask no more for a package of conda's."""
        _remove(self._spec["dependencies"], conda_package)

    def add_pip_package(self, pip_package: str) -> None:
        """Ask for a package of pip's."""
        _replace(self._pip(), pip_package)

    def remove_pip_package(self, pip_package: str) -> None:
        """Ask no more for a package of pip's."""
        _remove(self._pip(), pip_package)

    def set_pip_option(self, pip_option: str) -> None:
        """Give pip an option, `--index-url URL` say."""
        self._pip().insert(0, pip_option)

    def add_channel(self, channel: str) -> None:
        """Search a channel, too."""
        if channel not in self._spec.setdefault("channels", []):
            self._spec["channels"].append(channel)

    def remove_channel(self, channel: str) -> None:
        """Search a channel no more."""
        self._spec["channels"] = [name for name in self._spec["channels"] if name != channel]

    def set_python_version(self, version: str) -> None:
        """Ask for a version of Python."""
        _replace(self._spec["dependencies"], f"python={version}")

    def _pip(self) -> list[str]:
        for item in self._spec.setdefault("dependencies", []):
            if isinstance(item, dict) and "pip" in item:
                found: list[str] = item["pip"]
                return found
        made: list[str] = []
        self._spec["dependencies"].append({"pip": made})
        return made

    @property
    def conda_channels(self) -> list[str]:
        return list(self._spec.get("channels") or [])

    @property
    def conda_packages(self) -> list[str]:
        """Packages of conda's, Python itself left out."""
        return [name for name in self._names() if package_name(name) != "python"]

    @property
    def pip_packages(self) -> list[str]:
        """Packages of pip's, with options left out."""
        return [name for name in self._pip_lines() if not name.startswith("-")]

    @property
    def pip_options(self) -> list[str]:
        return [line for line in self._pip_lines() if line.startswith("-")]

    @property
    def python_version(self) -> str | None:
        for name in self._names():
            if package_name(name) == "python":
                return name[len("python") :].lstrip("=<>! ") or None
        return None

    def _names(self) -> list[str]:
        return [item for item in self._spec.get("dependencies") or [] if isinstance(item, str)]

    def _pip_lines(self) -> list[str]:
        return [
            line
            for item in self._spec.get("dependencies") or []
            if isinstance(item, dict)
            for line in item.get("pip") or []
        ]

    def wanted_pip_packages(self) -> list[str]:
        """Return the packages of pip's that a run here needs: those of the SDK are not."""
        return [name for name in self.pip_packages if not name.startswith(_SDK_PACKAGES)]

    def as_dict(self) -> dict[str, Any]:
        """Return what a YAML file would hold."""
        return self._spec

    def serialize_to_string(self) -> str:
        """Return the text of the YAML file."""
        text: str = yaml_module().safe_dump(self._spec, sort_keys=False)
        return text

    def save_to_file(self, base_directory: str, conda_file_path: str | None = None) -> str:
        """Write the YAML file; return its path."""
        path = os.path.join(base_directory, conda_file_path or "conda_dependencies.yml")
        self.save(path)
        return path

    def save(self, path: str) -> None:
        """Write the YAML file."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.serialize_to_string())


def package_name(text: str) -> str:
    """Return the name in a requirement: `torch==1.6.0` asks for torch."""
    for index, letter in enumerate(text):
        if letter in "=<>!~[; ":
            return text[:index].strip().lower()
    return text.strip().lower()


def _replace(packages: list[Any], package: str) -> None:
    _remove(packages, package)
    at = len(packages)
    if packages and isinstance(packages[-1], dict):
        at -= 1  # pip's list stays last
    packages.insert(at, package)


def _remove(packages: list[Any], package: str) -> None:
    name = package_name(package)
    packages[:] = [
        item for item in packages if not isinstance(item, str) or package_name(item) != name
    ]


def _read(path: str) -> dict[str, Any]:
    yaml = yaml_module()
    try:
        with open(path, encoding="utf-8") as file:
            spec = yaml.safe_load(file)
    except OSError as error:
        raise EnvironmentException(f"{path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise EnvironmentException(f"{path} is no YAML: {error}.") from None
    if not isinstance(spec, dict):
        raise EnvironmentException(f"{path} is no conda specification: it holds no mapping.")
    return spec
