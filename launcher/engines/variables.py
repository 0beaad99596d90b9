"""Which of the user's variables go along to the hosts: those that decide what runs, and how.

What belongs to a machine, to a login or to a process stays where it is: HOME, TMPDIR,
CUDA_VISIBLE_DEVICES, RANK. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from launcher.engines.command import read_exports
from launcher.errors import UsageError
from launcher.options.spec import LaunchSpec

# What is taken along, and what it is for; a star stands for any end of a name. The table of
# docs/how-to/ssh.md is compared with it.
TAKEN: dict[str, str] = {
    "PATH": "where commands are found",
    "PYTHON*": "Python's own",
    "VIRTUAL_ENV": "the virtual environment",
    "CONDA_*": "the conda environment",
    "LD_LIBRARY_PATH": "where libraries are found",
    "LD_PRELOAD": "libraries that come first",
    "LANG": "language and encoding",
    "LC_*": "language and encoding",
    "TZ": "the time zone",
    "OMP_*": "OpenMP",
    "KMP_*": "OpenMP of Intel and LLVM",
    "MKL_*": "Intel's library for linear algebra",
    "OPENBLAS_*": "OpenBLAS",
    "NCCL_*": "NCCL",
    "GLOO_*": "Gloo",
    "UCX_*": "UCX",
    "FI_*": "libfabric",
    "TORCH_*": "torch",
    "TORCHINDUCTOR_*": "torch's compiler",
    "TRITON_*": "Triton",
    "PYTORCH_*": "torch's allocator and others",
    "CUDA_*": "CUDA, without CUDA_VISIBLE_DEVICES",
    "CUBLAS_*": "cuBLAS",
    "CUDNN_*": "cuDNN",
    "HOROVOD_*": "Horovod",
    "HF_*": "Hugging Face",
    "TRANSFORMERS_*": "Transformers",
    "TOKENIZERS_*": "Tokenizers",
    "WANDB_*": "Weights & Biases",
    "MLFLOW_*": "MLflow",
    "NO_COLOR": "no colours",
    "FORCE_COLOR": "colours",
}

# Which device is a rank's own is decided on each host.
_STAYS = ("CUDA_VISIBLE_DEVICES",)

_NAMES = frozenset(name for name in TAKEN if not name.endswith("*"))
_BEGINNINGS = tuple(name[:-1] for name in TAKEN if name.endswith("*"))


def select_variables(spec: LaunchSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to take along: the known ones, and those of --export.

    UsageError for what is no name, and for one without a value here.
    """
    taken = {
        name: value
        for name, value in environ.items()
        if (name in _NAMES or name.startswith(_BEGINNINGS)) and name not in _STAYS
    }
    given = dict(read_exports(spec))
    for item in spec.export:
        name = item.partition("=")[0]
        if name in given:
            taken[name] = given[name]
        elif name in environ:
            taken[name] = environ[name]
        else:
            raise UsageError(
                f"{spec.find_source('export')} {name}: there is no such variable here.",
                hint=f"Type: --export {name}=VALUE",
            )
    return taken
