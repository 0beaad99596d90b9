"""Which of the user's variables go along to the hosts: those that decide what runs, and how.

What belongs to a machine, to a login or to a process stays where it is: HOME, TMPDIR,
CUDA_VISIBLE_DEVICES, RANK. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launcher.errors import UsageError
from launcher.options.option import PROG

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


def select_variables(environ: Mapping[str, str], exports: Sequence[str]) -> dict[str, str]:
    """Return the variables to take along. exports: `NAME` or `NAME=VALUE`, of --export.

    UsageError for what is no name, and for one without a value here.
    """
    taken = {
        name: value
        for name, value in environ.items()
        if (name in _NAMES or name.startswith(_BEGINNINGS)) and name not in _STAYS
    }
    for export in exports:
        name, equals, value = export.partition("=")
        if not name.replace("_", "a").isalnum() or name[0].isdigit():
            raise UsageError(
                f"--export {export}: must be names of variables, or NAME=VALUE, with commas"
                " between them.",
                hint=f"Type for example: {PROG} --export HF_HOME,DEBUG=1 SCRIPT",
            )
        if not equals and name not in environ:
            raise UsageError(
                f"--export {name}: there is no such variable here.",
                hint=f"Type: --export {name}=VALUE",
            )
        taken[name] = value if equals else environ[name]
    return taken
