"""The public names and their homes, and the module tree of Azure ML's SDK in which they also stand.

With `sed s/azureml/launcher.jobs/` on its imports a notebook finds what it names: the modules of
that tree exist as soon as they are imported, and hold the names below. Imports nothing else.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

HOME = {
    "Run": "run",
    "ScriptRun": "run",
    "RunDetails": "widget",
    "Workspace": "workspace",
    "Experiment": "experiment",
    "Environment": "environment",
    "CondaDependencies": "conda",
    "DEFAULT_CPU_IMAGE": "environment",
    "DEFAULT_GPU_IMAGE": "environment",
    "DockerSection": "environment",
    "PythonSection": "environment",
    "ScriptRunConfig": "configuration",
    "RunConfiguration": "configuration",
    "PyTorchConfiguration": "configuration",
    "MpiConfiguration": "configuration",
    "DockerConfiguration": "configuration",
    "ComputeTarget": "compute",
    "AmlCompute": "compute",
    "BatchAiCompute": "compute",
    "LocalTarget": "compute",
    "MpiHosts": "compute",
    "SlurmCompute": "compute",
    "Model": "model",
    "Estimator": "estimators",
    "PyTorch": "estimators",
    "Mpi": "estimators",
    "Nccl": "estimators",
    "Gloo": "estimators",
    "Dataset": "data",
    "Datastore": "data",
    "DataReference": "data",
    "FileDataset": "data",
    "ActivityFailedException": "errors",
    "ComputeTargetException": "errors",
    "ModelNotFoundException": "errors",
    "EnvironmentException": "errors",
    "RunEnvironmentException": "errors",
    "RunConfigurationException": "errors",
    "StoreException": "errors",
    "set_diagnostics_collection": "telemetry",
    "VERSION": "telemetry",
}

# Modules of the SDK and what of ours stands in them.
_TREE = {
    "core": (
        "VERSION Workspace Experiment ScriptRunConfig Environment ComputeTarget Run Model"
        " RunConfiguration Dataset Datastore"
    ),
    "core.workspace": "Workspace",
    "core.experiment": "Experiment",
    "core.run": "Run",
    "core.script_run": "ScriptRun",
    "core.model": "Model",
    "core.environment": (
        "Environment DEFAULT_CPU_IMAGE DEFAULT_GPU_IMAGE CondaDependencies DockerSection"
        " PythonSection"
    ),
    "core.compute": "ComputeTarget AmlCompute BatchAiCompute LocalTarget",
    "core.compute_target": "ComputeTargetException ComputeTarget LocalTarget",
    "core.conda_dependencies": "CondaDependencies",
    "core.runconfig": (
        "RunConfiguration PyTorchConfiguration MpiConfiguration DockerConfiguration"
        " CondaDependencies DEFAULT_CPU_IMAGE DEFAULT_GPU_IMAGE"
    ),
    "core.script_run_config": "ScriptRunConfig",
    "exceptions": "ActivityFailedException ComputeTargetException",
    "_common": "",
    "_common.exceptions": "ActivityFailedException",
    "core.dataset": "Dataset",
    "core.datastore": "Datastore",
    "train": "",
    "train.dnn": "PyTorch Mpi Nccl Gloo",
    "train.estimator": "Estimator Mpi",
    "train.widgets": "RunDetails",
    "widgets": "RunDetails",
    "telemetry": "set_diagnostics_collection",
}


def resolve(name: str) -> object:
    """Return what a public name stands for."""
    home = HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'launcher.jobs' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"launcher.jobs.{home}"), name)


def has(module: str, name: str) -> bool:
    """Tell whether a module of the SDK's tree has this name, or is a part of it, here."""
    below = f"{module}.{name}".strip(".")
    return below in _TREE or name in _TREE.get(module, "").split()


class _Finder:
    """Makes the modules of the SDK's tree when they are imported, below one package."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        prefix, _, module = name.partition(self._package + ".")
        if prefix or module not in _TREE:
            return None
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to python."""

    def exec_module(self, module: ModuleType) -> None:
        below = module.__name__[len(self._package) + 1 :]
        wanted = _TREE[below].split()

        def get(name: str) -> object:
            if name in wanted:
                value = resolve(name)
                setattr(module, name, value)
                return value
            raise AttributeError(
                f"module {module.__name__!r} has no attribute {name!r}; launcher.jobs has:"
                f" {', '.join(wanted) or 'nothing of this module'}"
            )

        module.__getattr__ = get  # type: ignore[method-assign]
        module.__all__ = wanted  # type: ignore[attr-defined]
        module.__path__ = []


def install(package: str) -> None:
    """Let the SDK's modules be found below `package`."""
    sys.meta_path.append(_Finder(package))
