"""Where nodes find each other, and rank 0: by the addresses over which they have come."""

from __future__ import annotations

from typing import Any

from launcher.nodes.layout import Layout
from launcher.nodes.messages import Assigned
from launcher.nodes.roster import Roster
from launcher.nodes.rules import OWN, Route
from tests.unit.nodes.coming import make_join, make_rules

FAR_1 = Route("10.0.0.1", "10.0.0.100")
FAR_2 = Route("10.9.0.2", "10.9.0.100")  # over another network
NEAR = Route("127.0.0.1", "127.0.0.1")


def assign(
    *routes: Route, joins: dict[int, dict[str, Any]] | None = None, **rules: Any
) -> dict[int, Assigned]:
    """Return the parts of nodes that have come on these routes after the coordinator's own."""
    layout, roster = lay_out(*routes, joins=joins, **rules)
    chosen = roster.rank_next()
    roster.seat(chosen, 3)
    return dict(layout.assign(chosen, 3, 2))


def lay_out(
    *routes: Route, joins: dict[int, dict[str, Any]] | None = None, **rules: Any
) -> tuple[Layout, Roster]:
    roster = Roster(6.0, 0.0)
    for key, route in enumerate((Route(), *routes)):
        fields = {"port": 4000 + key, "master_port": 29500 + key, **(joins or {}).get(key, {})}
        roster.add(key, make_join(f"host{key}", **fields), route, 0.0)
    return Layout(make_rules(len(roster), **rules), roster), roster


def test_ranks_are_counted_over_the_nodes() -> None:
    joins = {0: {"num_workers": 2}, 1: {"num_workers": 4}, 2: {"num_workers": 1}}
    parts = assign(FAR_1, FAR_2, joins=joins)
    assert [(parts[key].node_rank, parts[key].first_rank) for key in range(3)] == [
        (0, 0),
        (1, 2),
        (2, 6),
    ]
    assert {part.world_size for part in parts.values()} == {7}
    assert {part.num_nodes for part in parts.values()} == {3}
    assert {(part.generation, part.num_failures) for part in parts.values()} == {(3, 2)}
    assert {part.run_name for part in parts.values()} == {"run"}
    assert {part.hostname_width for part in parts.values()} == {len("host0")}
    assert {part.hosts for part in parts.values()} == {"host0 2,host1 4,host2 1"}


def test_each_node_finds_rank_0_by_the_address_that_it_has_come_to() -> None:
    parts = assign(FAR_1, FAR_2)
    assert parts[1].master_addr == "10.0.0.100"
    assert parts[2].master_addr == "10.9.0.100"
    assert {part.master_port for part in parts.values()} == {29500}
    # Its own workers use what the first node of another host has found.
    assert parts[OWN].master_addr == "10.0.0.100"


def test_a_second_node_of_the_same_host_uses_loopback_only_if_nobody_is_far() -> None:
    assert {part.master_addr for part in assign(NEAR).values()} == {"127.0.0.1"}
    parts = assign(NEAR, FAR_1)
    assert parts[1].master_addr == "10.0.0.100"
    assert parts[1].address == "10.0.0.100"


def test_a_node_alone_is_where_others_knew_it() -> None:
    assert assign()[OWN].address == "127.0.0.1"
    roster = Roster(6.0, 0.0)
    roster.add(OWN, make_join("h0"), Route(), 0.0)
    layout = Layout(make_rules(1), roster, "10.0.0.7")
    chosen = roster.rank_next()
    roster.seat(chosen, 0)
    assert dict(layout.assign(chosen, 0, 0))[OWN].address == "10.0.0.7"


def test_rank_0_may_be_on_another_host_than_the_coordinator() -> None:
    joins = {0: {"node_rank": 1}, 1: {"node_rank": 0, "horovod": "4711/secret"}}
    parts = assign(FAR_1, joins=joins)
    assert (parts[1].node_rank, parts[OWN].node_rank) == (0, 1)
    assert {(part.master_addr, part.master_port) for part in parts.values()} == {
        ("10.0.0.1", 29501)
    }
    assert {part.horovod for part in parts.values()} == {"4711/secret"}
    assert {(part.coordinator_rank, part.coordinator_host) for part in parts.values()} == {
        (1, "h0")
    }


def test_an_address_that_a_node_was_given_is_the_one_for_all() -> None:
    parts = assign(FAR_1, FAR_2, joins={0: {"address": "192.168.0.1"}, 2: {"address": "fe80::2"}})
    assert {part.master_addr for part in parts.values()} == {"192.168.0.1"}
    assert [parts[key].address for key in range(3)] == ["192.168.0.1", "10.0.0.1", "fe80::2"]


def test_what_the_user_says_of_rank_0_holds() -> None:
    parts = assign(FAR_1, master_addr="node-a.example", master_port=1234)
    assert {(part.master_addr, part.master_port) for part in parts.values()} == {
        ("node-a.example", 1234)
    }


def test_deputies_are_the_others_of_the_attempt_by_rank() -> None:
    layout, roster = lay_out(FAR_1, FAR_2, FAR_1)
    chosen = roster.rank_next()[:3]
    roster.seat([chosen[2], chosen[0], chosen[1]], 0)
    assert [(one.hostname, one.host, one.port, one.node_rank) for one in layout.deputies] == [
        ("host2", "10.9.0.2", 4002, 0),
        ("host1", "10.0.0.1", 4001, 2),
    ]
    parts = dict(layout.assign([chosen[2], chosen[0], chosen[1]], 0, 0))
    assert {part.deputies for part in parts.values()} == {layout.deputies}


def test_a_name_for_the_workers_is_no_address_at_which_a_launcher_is_reached() -> None:
    joins = {1: {"address": "node-b.example"}, 2: {"address": "192.168.0.2"}}
    layout, roster = lay_out(FAR_1, FAR_2, joins=joins)
    roster.seat(roster.rank_next(), 0)
    assert [one.host for one in layout.deputies] == ["10.0.0.1", "192.168.0.2"]


def test_not_all_of_a_thousand_nodes_are_deputies() -> None:
    layout, roster = lay_out(*[FAR_1] * 1000)
    roster.seat(roster.rank_next(), 0)
    assert [one.node_rank for one in layout.deputies] == list(range(1, 9))
