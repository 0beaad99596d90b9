"""Many ranks on few processors."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engines import needs_mpirun

pytestmark = needs_mpirun


@pytest.mark.parametrize("ranks", [16, 64])
def test_all_of_many_ranks_run_and_are_heard(mpirun: Any, ranks: int) -> None:
    text = "import os\nprint(os.environ['RANK'], os.environ['LOCAL_WORLD_SIZE'])\n"
    done = mpirun(ranks, text, flags=["--tag-output"])
    assert (done.code, done.err) == (0, "")
    expected = sorted(f"[1,{rank}]<stdout>:{rank} {ranks}" for rank in range(ranks))
    assert done.lines == expected


def test_one_of_many_fails_and_the_report_comes_first(mpirun: Any) -> None:
    text = "import os, time\nif os.environ['RANK'] == '11': raise SystemExit(7)\ntime.sleep(600)\n"
    done = mpirun(16, text)
    assert done.code == 7
    assert done.err.startswith("FAILED: rank 11 (pid "), done.err
    assert done.err.count("FAILED:") == 1
