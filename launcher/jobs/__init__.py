"""The run layer, by its public names: submit, follow, compare and keep runs on your own machines.

Owns where each name lives; all are resolved at first use, because every rank that logs a metric
imports this package.
"""

from launcher.jobs import names

# A constant that type checkers know; importing it from typing would cost every rank 5 ms.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.jobs.compute import (
        AmlCompute,
        BatchAiCompute,
        ComputeTarget,
        LocalTarget,
        MpiHosts,
        SlurmCompute,
    )
    from launcher.jobs.conda import CondaDependencies
    from launcher.jobs.configuration import (
        DockerConfiguration,
        MpiConfiguration,
        PyTorchConfiguration,
        RunConfiguration,
        ScriptRunConfig,
    )
    from launcher.jobs.data import DataReference, Dataset, Datastore, FileDataset
    from launcher.jobs.environment import (
        DEFAULT_CPU_IMAGE,
        DEFAULT_GPU_IMAGE,
        DockerSection,
        Environment,
        PythonSection,
    )
    from launcher.jobs.errors import (
        ActivityFailedException,
        ComputeTargetException,
        EnvironmentException,
        ModelNotFoundException,
        RunConfigurationException,
        RunEnvironmentException,
        StoreException,
    )
    from launcher.jobs.estimators import Estimator, Gloo, Mpi, Nccl, PyTorch
    from launcher.jobs.experiment import Experiment
    from launcher.jobs.model import Model
    from launcher.jobs.run import Run, ScriptRun
    from launcher.jobs.telemetry import VERSION, set_diagnostics_collection
    from launcher.jobs.widget import RunDetails
    from launcher.jobs.workspace import Workspace

__all__ = [
    "DEFAULT_CPU_IMAGE",
    "DEFAULT_GPU_IMAGE",
    "VERSION",
    "ActivityFailedException",
    "AmlCompute",
    "BatchAiCompute",
    "ComputeTarget",
    "ComputeTargetException",
    "CondaDependencies",
    "DataReference",
    "Dataset",
    "Datastore",
    "DockerConfiguration",
    "DockerSection",
    "Environment",
    "EnvironmentException",
    "Estimator",
    "Experiment",
    "FileDataset",
    "Gloo",
    "LocalTarget",
    "Model",
    "ModelNotFoundException",
    "Mpi",
    "MpiConfiguration",
    "MpiHosts",
    "Nccl",
    "PyTorch",
    "PyTorchConfiguration",
    "PythonSection",
    "Run",
    "RunConfiguration",
    "RunConfigurationException",
    "RunDetails",
    "RunEnvironmentException",
    "ScriptRun",
    "ScriptRunConfig",
    "SlurmCompute",
    "StoreException",
    "Workspace",
    "set_diagnostics_collection",
]


def __getattr__(name: str) -> object:
    value = names.resolve(name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


names.install("launcher.jobs")
