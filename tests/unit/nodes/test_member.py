"""What a node tells its user while it waits for the others."""

from __future__ import annotations

from launcher.nodes.member import Member
from launcher.nodes.messages import Join


def make_member() -> Member:
    node = Join(
        member="word",
        hostname="h1",
        num_workers=1,
        node_rank=-1,
        min_nodes=2,
        max_nodes=3,
        max_restarts=0,
        alike={},
        address="",
        port=1,
        master_port=2,
    )
    member = Member(node, 600.0, 6.0, 0.0)
    member.begin()
    return member


def look(member: Member, *times: float) -> list[str]:
    """Look at the clock at these times; return what is new."""
    for now in times:
        member.tick(now)
    news, member.news = member.news, []
    return news


def test_the_user_knows_after_some_seconds_what_stands_in_the_way() -> None:
    member = make_member()
    member.miss("h1:29400 cannot be reached: connection refused", 0.1)
    assert look(member, 1.0, 9.0) == []
    assert look(member, 10.0, 11.0, 100.0) == [
        "no coordinator is found yet: h1:29400 cannot be reached: connection refused; waiting at"
        " most 600 s (--rdzv-conf join_timeout=SECONDS)"
    ]


def test_the_user_knows_after_some_seconds_that_others_have_not_come() -> None:
    member = make_member()
    member.open(0.1, is_own=True)
    assert look(member, 1.0, 9.0) == []
    assert look(member, 10.0, 11.0, 100.0) == [
        "waiting for other nodes, at most 600 s (--rdzv-conf join_timeout=SECONDS); 2 must come in"
        " all"
    ]
