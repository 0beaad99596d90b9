"""Rank arithmetic, also for nodes with different numbers of workers."""

from __future__ import annotations

import pytest

from launcher.ranks import format_ranks, format_short_ranges, make_places


def test_ranks_of_all_nodes_together_count_from_0_without_gaps() -> None:
    sizes = (2, 1, 3)
    places = [place for node in range(3) for place in make_places(node, sizes)]
    assert [place.rank for place in places] == list(range(6))
    assert [place.local_rank for place in places] == [0, 1, 0, 0, 1, 2]
    assert [place.node_rank for place in places] == [0, 0, 1, 2, 2, 2]
    assert {(place.world_size, place.num_nodes) for place in places} == {(6, 3)}
    assert [place.local_world_size for place in places] == [2, 2, 1, 3, 3, 3]


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ([3], "rank 3"),
        ([0, 1, 2, 5], "ranks 0-2, 5"),
        ([7, 6], "ranks 6-7"),
        ([4, 4], "rank 4"),
        ([0, 2, 4], "ranks 0, 2, 4"),
    ],
)
def test_ranks_are_written_as_a_person_would(ranks: list[int], text: str) -> None:
    assert format_ranks(ranks) == text


def test_ranges_are_written_as_an_option_takes_them() -> None:
    assert format_short_ranges([5, 1, 0, 2, 1]) == "0-2,5"
