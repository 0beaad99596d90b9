"""What a node tells its user while it waits for the others."""

from __future__ import annotations

from launcher.nodes.member import Member
from launcher.nodes.messages import Join, Pong
from launcher.nodes.rendezvous import Rendezvous
from launcher.nodes.restart import RestartPolicy
from launcher.nodes.rules import OWN, Route, Rules


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
    member.open(0.1)
    assert look(member, 1.0, 4.0) == []
    member.take(Pong(), 5.0)
    assert look(member, 10.0, 10.5) == [
        "waiting for other nodes, at most 600 s (--rdzv-conf join_timeout=SECONDS)"
    ]


def test_who_coordinates_names_those_that_have_come() -> None:
    run = Rendezvous(Rules("run", 2, 2, RestartPolicy(), hostname="h1"), 0.0)
    run.handle(OWN, make_member().join._replace(max_nodes=2, node_rank=0), 0.0, Route())
    other = make_member().join._replace(member="other", hostname="h2", node_rank=0)
    run.handle(1, other, 1.0, Route("10.0.0.2", "10.0.0.1"))
    assert run.news == ["h2 was refused: --nnodes 2:3 on h2 contradicts --nnodes 2 on h1"]
    run.news.clear()
    for now in (9.0, 10.0, 11.0, 100.0):
        run.tick(now)
    assert run.news == [
        "1 of 2 nodes have come (h1); node rank 1 is missing; waiting for others, at most 600 s"
        " (--rdzv-conf join_timeout=SECONDS)"
    ]
    run.outbox.clear()
    run.tick(600.0)
    ((_, refused),) = run.outbox
    assert refused.message == (
        "In 600 s 1 of 2 nodes have come (h1); node rank 1 is missing. Refused: --nnodes 2:3 on h2"
        " contradicts --nnodes 2 on h1."
    )
