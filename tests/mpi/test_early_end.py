"""A rank of mpirun that ends well while the others still expect it: they notice, and the report
says who it was.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.engines import needs_mpirun

pytestmark = needs_mpirun

# The model keeps the process group, and so its connections, to the very end of the process.
UNEVEN = """
import sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
for _ in range(2 - (dist.get_rank() == EARLY)):
    model(torch.ones(1)).sum().backward()
"""


@pytest.mark.parametrize("early", [0, 1])
def test_a_rank_with_less_data_ends_the_job_and_is_named(mpirun: Any, early: int) -> None:
    done = mpirun(2, UNEVEN.replace("EARLY", str(early)), env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.code == 1
    assert f"FAILED: rank {1 - early} " in done.err
    assert f"hint: rank {early} had ended with exit code 0 while others still waited" in done.err


def test_ranks_that_leave_their_process_group_open_end_well(mpirun: Any) -> None:
    done = mpirun(2, UNEVEN.replace("EARLY", "-1"), env={"CUDA_VISIBLE_DEVICES": ""})
    assert (done.code, "Abort" in done.err, "FAILED" in done.err) == (0, False, False), done.err
