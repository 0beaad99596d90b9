"""One look as a line of `resources.jsonl`."""

from __future__ import annotations

import json

from launcher.stats.figures import GpuUse, NodeUse, RankUse, Sample, decode_sample

RANK = RankUse(0, 17, 1.5, 0.5, 300, None, 400, 3, 2, 10, 20)
GPU = GpuUse(0, "H200", 5, 100, 7)
SAMPLE = Sample(12.5, 1, NodeUse("here", 1.5, 8, 1, 10, 0, 5, (GPU,)), (RANK,))


def test_what_is_written_is_read() -> None:
    full = RANK._replace(pss=250, gpu=5, steps=9, steps_per_s=1.5, waited_s=2.0, late_s=0.1, rank=1)
    sample = SAMPLE._replace(ranks=(RANK, full))
    assert decode_sample(json.loads(sample.to_json())) == sample


def test_what_nobody_knows_is_not_written() -> None:
    (rank,) = json.loads(SAMPLE.to_json())["ranks"]
    assert "pss" not in rank
    assert "steps" not in rank


def test_a_field_of_another_version_is_left_out() -> None:
    given = json.loads(SAMPLE.to_json())
    given["ranks"][0]["colour"] = given["node"]["colour"] = "green"
    assert decode_sample(given) == SAMPLE


def test_memory_is_what_a_rank_holds_alone_where_that_is_known() -> None:
    assert RANK.memory == 300
    assert RANK._replace(pss=250).memory == 250
    # It was taken at another moment.
    assert RANK._replace(pss=350).memory == 300
