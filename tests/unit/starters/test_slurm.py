"""Slurm's node lists and counts, written out."""

from __future__ import annotations

import pytest

from launcher.errors import UsageError
from launcher.starters.slurm import expand_counts, expand_nodes


@pytest.mark.parametrize(
    ("nodelist", "nodes"),
    [
        ("alpha", ["alpha"]),
        ("alpha,beta", ["alpha", "beta"]),
        ("host[1,5-9],other3", ["host1", "host5", "host6", "host7", "host8", "host9", "other3"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[1-2,04]", ["n1", "n2", "n04"]),
        ("n[1, 3]", ["n1", "n3"]),
        ("alpha,n[1-2]", ["alpha", "n1", "n2"]),
        ("1.2.3.[089,100-101]", ["1.2.3.089", "1.2.3.100", "1.2.3.101"]),
        ("n[1-2].cluster.org", ["n1.cluster.org", "n2.cluster.org"]),
        ("r[1-2]n[01-02]", ["r1n01", "r1n02", "r2n01", "r2n02"]),
        ("c-3-[7-8]", ["c-3-7", "c-3-8"]),
        ("n[9-10]", ["n9", "n10"]),
    ],
)
def test_a_node_list_is_written_out_in_its_order(nodelist: str, nodes: list[str]) -> None:
    assert expand_nodes(nodelist) == nodes


@pytest.mark.parametrize(
    "nodelist",
    [
        "",
        "n[1-2",
        "n1-2]",
        "n[[1]]",
        "n[]",
        "n[a-b]",
        "n[5-1]",
        "n[1-999999999]",
        "a,,b",
        "n[1-9999][1-9999]",
    ],
)
def test_a_broken_node_list_is_refused_by_name(nodelist: str) -> None:
    with pytest.raises(UsageError) as caught:
        expand_nodes(nodelist)
    assert repr(nodelist) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "counts"), [("4", [4]), ("3,1", [3, 1]), ("2(x3),1", [2, 2, 2, 1]), ("1(x2)", [1, 1])]
)
def test_counts_per_node_are_written_out(text: str, counts: list[int]) -> None:
    assert expand_counts(text) == counts


@pytest.mark.parametrize("text", ["", "x", "2(x", "2(xx)", "2(x999999999)", "-1"])
def test_broken_counts_are_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        expand_counts(text)
    assert repr(text) in str(caught.value)
