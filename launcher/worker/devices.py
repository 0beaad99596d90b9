"""Which GPU is this rank's: pure arithmetic on what the starter said and what can be seen.

Owns the case of a starter that shows each rank only its own GPU. Names no library; the count of
GPUs is an argument, so that it is tested without any. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from launcher.errors import LauncherError
from launcher.ranks import Place


def choose_gpu(place: Place, num_gpus: int, environ: Mapping[str, str]) -> int:
    """Return the index of this rank's GPU among those it sees; LauncherError if there is none."""
    if num_gpus == 0:
        raise LauncherError(
            "backend='nccl' needs a GPU, and PyTorch sees none here.",
            hint="Use backend='gloo' or 'auto', or look at nvidia-smi and CUDA_VISIBLE_DEVICES.",
        )
    if num_gpus == 1 and _sees_one_by_choice(environ):
        # A GPU of its own (srun --gpus-per-task=1, --virtual-local-rank): no index to look for.
        return 0
    if place.local_rank >= num_gpus:
        raise LauncherError(
            f"Local rank {place.local_rank} has no GPU of its own: PyTorch sees {num_gpus} here.",
            hint=f"Use --nproc-per-node {num_gpus}, or backend='gloo' for the CPU.",
        )
    return place.local_rank


def _sees_one_by_choice(environ: Mapping[str, str]) -> bool:
    names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
    return any(environ.get(name, "").strip() and "," not in environ[name] for name in names)
