"""Which GPU a rank takes, without any GPU."""

from __future__ import annotations

import pytest

from launcher.errors import LauncherError
from launcher.ranks import Place
from launcher.worker.devices import choose_gpu

ONE, TWO = {"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "2,3"}


@pytest.mark.parametrize(
    ("local_rank", "num_gpus", "environ", "index"),
    [
        (0, 1, {}, 0),
        (1, 2, {}, 1),
        (1, 2, TWO, 1),
        (3, 1, ONE, 0),  # srun --gpus-per-task=1: each rank sees its own GPU only
        (0, 1, ONE, 0),  # --virtual-local-rank
        (1, 1, {"ROCR_VISIBLE_DEVICES": "GPU-1"}, 0),
    ],
)
def test_a_rank_takes_the_gpu_of_its_local_rank_or_the_only_one_shown_to_it(
    local_rank: int, num_gpus: int, environ: dict[str, str], index: int
) -> None:
    assert (
        choose_gpu(Place("contract", local_rank=local_rank, world_size=8), num_gpus, environ)
        == index
    )


@pytest.mark.parametrize(
    ("local_rank", "num_gpus", "words"),
    [(0, 0, ["'nccl'", "'gloo'"]), (1, 1, ["Local rank 1", "sees 1", "--nproc-per-node 1"])],
)
def test_a_rank_without_a_gpu_is_told_what_works(
    local_rank: int, num_gpus: int, words: list[str]
) -> None:
    with pytest.raises(LauncherError) as caught:
        choose_gpu(Place("contract", local_rank=local_rank, world_size=8), num_gpus, {})
    for word in words:
        assert word in str(caught.value)
