"""The file names of a run."""

from __future__ import annotations

import pytest

from launcher.contract.files import RunPaths, heartbeat_file, stack_file, torch_error_file


@pytest.mark.parametrize(
    ("world_size", "name"),
    [(1, "rank_00"), (100, "rank_00"), (101, "rank_000"), (10000, "rank_0000")],
)
def test_rank_files_sort_by_name_in_the_order_of_ranks(world_size: int, name: str) -> None:
    paths = RunPaths("/runs/x", "/runs/x/logs", world_size)
    names = [paths.log(0, rank, "out") for rank in range(world_size)]
    assert names == sorted(names)
    assert names[0] == f"/runs/x/logs/{name}.out"
    assert len(set(names)) == world_size


def test_each_attempt_has_files_of_its_own() -> None:
    paths = RunPaths("/runs/x", "/logs/x", 2)
    assert paths.log(0, 1, "err") == "/logs/x/rank_01.err"
    assert paths.log(2, 1, "err") == "/logs/x/attempt_2/rank_01.err"
    assert paths.error_file(2, 1) == "/runs/x/errors/attempt_2/rank_01.json"
    assert paths.filtered_log(0, "out") == "/logs/x/filtered_stdout.log"
    assert paths.report == "/runs/x/report.json"


def test_each_replacement_has_files_of_its_own() -> None:
    paths = RunPaths("/runs/x", "/logs/x", 2)
    assert paths.log(0, 1, "err", 1) == "/logs/x/rank_01.1.err"
    assert paths.error_file(2, 1, 3) == "/runs/x/errors/attempt_2/rank_01.3.json"


def test_what_a_worker_leaves_besides_its_error_lies_beside_it() -> None:
    path = RunPaths("/runs/x", "/logs/x", 2).error_file(0, 1)
    names = [torch_error_file(path), heartbeat_file(path), stack_file(path)]
    assert names == [f"{path}.torch", f"{path}.beat", f"{path}.stacks"]
