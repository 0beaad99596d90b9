"""Runs over simulated nodes: stories that once went wrong, each by its name."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from launcher.ranks import Assignment
from tests.unit.nodes.simulation.attempt import Fate
from tests.unit.nodes.simulation.network import Host, simulated
from tests.unit.nodes.simulation.supervisor import Setting, Supervisor
from tests.unit.nodes.simulation.world import World

NODE_TIMEOUT_S = 6.0


@pytest.fixture
def world() -> Iterator[World]:
    with simulated(World()) as world:
        yield world


def lasting(seconds: float) -> Callable[[Supervisor, Assignment], list[Fate]]:
    """Return workers that succeed after so many seconds."""
    return lambda supervisor, assignment: [Fate(seconds)] * len(assignment.places)


def failing_first(
    rank: int, seconds: float, then: float
) -> Callable[[Supervisor, Assignment], list[Fate]]:
    """Return workers of which one fails in the first attempt; later ones succeed."""

    def plan(supervisor: Supervisor, assignment: Assignment) -> list[Fate]:
        if assignment.attempt:
            return [Fate(then)] * len(assignment.places)
        fates = {rank: Fate(seconds, code=7)}
        return [fates.get(place.rank, Fate(60.0)) for place in assignment.places]

    return plan


def start(
    world: World,
    number: int,
    setting: Setting,
    plan: Callable[[Supervisor, Assignment], list[Fate]] | None = None,
    *,
    apart_s: float = 0.01,
    stop_s: Callable[[], float] = lambda: 0.02,
) -> list[Supervisor]:
    """Start supervisors on new hosts, one after the other; the first has the endpoint."""
    hosts = [world.add_host() for _ in range(number)]
    endpoint, plan = hosts[0].address, plan or lasting(2.0)
    nodes = [Supervisor(host, setting, plan, endpoint, stop_s=stop_s) for host in hosts]
    for number, node in enumerate(nodes):
        world.call_in(number * apart_s, node.begin)
    return nodes


def exit_codes(nodes: list[Supervisor]) -> list[int | None]:
    return [node.exit_code for node in nodes]


def test_all_nodes_run_one_attempt_and_end_with_its_exit_code(world: World) -> None:
    nodes = start(world, 3, Setting(3, 3, num_workers=2))
    assert world.run(10)
    assert exit_codes(nodes) == [0, 0, 0]
    assert [run.assignment.places[0].rank for node in nodes for run in node.runs] == [0, 2, 4]
    assert all(len(node.runs) == 1 for node in nodes)


def test_a_node_that_is_a_moment_before_its_coordinator_is_in_the_run_a_moment_after(
    world: World,
) -> None:
    hosts = [world.add_host() for _ in range(3)]
    nodes = [Supervisor(host, Setting(3, 3), lasting(2.0), hosts[0].address) for host in hosts]
    for node, after_s in zip(nodes, (0.02, 0.01, 0.0), strict=True):
        world.call_in(after_s, node.begin)
    assert world.run(0.04, until=lambda: all(node.runs for node in nodes))


def test_messages_that_come_often_do_not_keep_the_coordinator_from_its_clock(world: World) -> None:
    world.latency_s = (0.0, 0.3)
    nodes = start(world, 40, Setting(40, 40), lasting(60.0))
    world.call_in(5.0, nodes[7].lose_power)
    assert world.run(30)
    assert set(exit_codes(nodes)) == {1, None}
    assert world.now - nodes[7].ended_at < NODE_TIMEOUT_S + 1.5
    assert [node.reports for node in nodes] == [1] + 39 * [0]


@pytest.mark.parametrize("reporter", range(3))
def test_a_report_comes_after_the_last_words_of_all_nodes(world: World, reporter: int) -> None:
    world.latency_s = (0.0, 0.3)
    hosts = [world.add_host() for _ in range(3)]
    # The first host coordinates; the report is shown where rank 0 is.
    nodes = [
        Supervisor(
            host,
            Setting(3, 3, node_rank=(number - reporter) % 3),
            failing_first(1, 1.0, 5.0),
            hosts[0].address,
        )
        for number, host in enumerate(hosts)
    ]
    for node in nodes:
        node.begin()
    assert world.run(30)
    assert [node.reports for node in nodes] == [int(number == reporter) for number in range(3)]
    assert nodes[reporter].silent == []


def test_a_signal_while_ranks_of_a_failed_attempt_still_end_stops_all_nodes(world: World) -> None:
    nodes = start(world, 3, Setting(3, 3, max_restarts=3), failing_first(1, 1.0, 5.0))
    nodes[0].stop_s = lambda: 3.0
    # The others wait already for the next attempt.
    world.call_in(2.0, nodes[1].signal, signal.SIGTERM)
    assert world.run(20)
    assert exit_codes(nodes) == [143, 143, 143]
    assert all(len(node.runs) == 1 for node in nodes)


def test_a_signal_at_the_moment_of_a_restart_stops_all_nodes(world: World) -> None:
    nodes = start(world, 3, Setting(3, 3, max_restarts=1), failing_first(1, 1.0, 5.0))

    def has_started_again() -> bool:
        return len(nodes[0].runs) == 2

    assert world.run(20, until=has_started_again)
    # Its share of the second attempt is on its way to this node.
    assert len(nodes[2].runs) == 1
    nodes[2].signal(signal.SIGTERM)
    assert world.run(20)
    assert exit_codes(nodes) == [143, 143, 143]


def test_who_waits_at_a_coordinator_that_leaves_looks_for_another(world: World) -> None:
    nodes = start(world, 3, Setting(2, 4, last_call_s=2.0))
    world.call_in(1.0, nodes[0].signal, signal.SIGTERM)
    assert world.run(60)
    assert exit_codes(nodes) == [143, 3, 3]
    assert "In 20 s no coordinator was found" in str(nodes[1].error)


def test_a_verdict_that_comes_again_from_a_successor_finds_nodes_ready(world: World) -> None:
    nodes = start(world, 4, Setting(3, 4, max_restarts=3), failing_first(3, 1.0, 5.0))
    nodes[2].stop_s = lambda: 2.0  # and so the others wait for it
    world.call_in(2.0, nodes[0].crash)
    assert world.run(60)
    assert exit_codes(nodes) == [None, 0, 0, 0]
    assert [run.generation for run in nodes[1].runs] == [0, 1]


def num_runs_at_once(nodes: list[Supervisor], generation: int) -> int:
    """Return how many different attempts with this number there were."""
    runs = [run for node in nodes for run in node.runs]
    return len({run.key for run in runs if run.generation == generation})


@pytest.mark.parametrize("number", [2, 3])
def test_connections_that_break_while_both_ends_live_make_no_two_runs(
    world: World, number: int
) -> None:
    nodes = start(world, number, Setting(1, number, max_restarts=3), lasting(5.0))

    def break_all() -> None:
        for node in nodes[1:]:
            world.break_connections(nodes[0].host, node.host)

    world.call_in(2.0, break_all)
    assert world.run(60)
    assert num_runs_at_once(nodes, 1) == 1
    assert set(exit_codes(nodes)) == {0}


def start_again(
    host: Host, setting: Setting, plan: Callable[[Supervisor, Assignment], list[Fate]]
) -> Supervisor:
    """Start a supervisor on a host where there was one; the endpoint is on the first host."""
    endpoint = next(iter(host.world.hosts.values())).address
    node = Supervisor(host, setting, plan, endpoint)
    node.begin()
    return node


def test_a_launcher_that_comes_again_finds_the_one_node_that_is_left(world: World) -> None:
    nodes = start(world, 2, Setting(1, 2, max_restarts=3), lasting(6.0))
    world.call_in(1.0, nodes[0].crash)
    world.run(4)
    assert [run.num_nodes for run in nodes[1].runs] == [2, 1]
    nodes.append(start_again(nodes[0].host, nodes[0].setting, lasting(6.0)))
    assert world.run(60)
    assert exit_codes(nodes) == [None, 0, 0]
    assert [run.num_nodes for run in nodes[1].runs] == [2, 1, 2]


def test_who_comes_to_the_endpoint_again_begins_no_run_with_other_newcomers(world: World) -> None:
    setting = Setting(2, 2, max_restarts=3)
    nodes = start(world, 2, setting, lasting(6.0))
    world.call_in(1.0, nodes[0].crash)
    # It looks for the endpoint, where nobody is, while the node that is left waits for another one.
    stranger = Supervisor(world.add_host(), setting, lasting(6.0), nodes[0].host.address)
    world.call_in(1.5, stranger.begin)
    world.run(2.1)
    again = start_again(nodes[0].host, setting, lasting(6.0))
    assert world.run(60)
    nodes += [stranger, again]
    assert num_runs_at_once(nodes, 0) == 1
    assert [len(node.runs) for node in nodes[:2]] == [1, 2]


def test_half_of_the_nodes_do_not_go_on_when_the_other_half_went_on_and_ended(world: World) -> None:
    nodes = start(world, 4, Setting(1, 4, max_restarts=3, node_timeout_s=3.0), lasting(3.0))
    these, those = [node.host for node in nodes[:2]], [node.host for node in nodes[2:]]
    world.call_in(1.0, world.cut, these, those)
    world.call_in(6.0, world.heal, these, those)
    assert world.run(60)
    assert exit_codes(nodes) == [0, 0, 1, 1]
    assert [len(node.runs) for node in nodes] == [2, 2, 1, 1]


def test_a_node_that_gave_way_at_the_endpoint_can_follow_the_coordinator(world: World) -> None:
    setting = Setting(3, 3, max_restarts=2)
    world.latency_s = (0.001, 0.01)
    nodes = start(world, 3, setting, lasting(4.0))
    world.call_in(1.0, nodes[0].crash)
    world.run(3)
    nodes.append(start_again(nodes[0].host, setting, lasting(4.0)))
    world.run(2)
    assert nodes[1].coordinates
    assert [run.node_rank for run in nodes[3].runs] == [0]
    nodes[1].crash()
    world.run(2)
    assert nodes[3].coordinates
    assert not nodes[2].coordinates


def test_nodes_that_come_back_to_a_launcher_started_again_keep_their_order(world: World) -> None:
    setting = Setting(2, 4, max_restarts=3)
    world.latency_s = (0.0, 0.1)
    nodes = start(world, 4, setting, lasting(4.0))
    world.run(2)
    before = sorted(nodes[1:], key=lambda node: node.runs[-1].node_rank)
    nodes[0].crash()
    # Before the others can see that nobody listens there any more.
    nodes.append(start_again(nodes[0].host, setting, lasting(4.0)))
    assert world.run(60)
    assert exit_codes(nodes) == [None, 0, 0, 0, 0]
    after = sorted(nodes[1:], key=lambda node: node.runs[-1].node_rank)
    assert [node for node in after if node in before] == before


def test_what_was_meant_for_another_coordinator_is_not_taken_for_our_own_node(world: World) -> None:
    nodes = start(world, 3, Setting(1, 3, max_restarts=3), lasting(12.0))
    first, second, third = ([node.host] for node in nodes)
    # The third node asks the second one, which says that all is well, and is not heard; as it
    # gives up, the second one has to coordinate.
    world.call_in(1.0, world.cut, first, third)
    world.call_in(7.6, world.cut, second, third)
    world.call_in(9.5, nodes[0].crash)
    world.call_in(12.1, world.heal, second, third)
    assert world.run(120)
    assert exit_codes(nodes)[:2] == [None, 0]


@pytest.mark.parametrize("seed", range(4))
def test_a_signal_does_not_undo_the_success_that_a_lost_coordinator_has_told(seed: int) -> None:
    with simulated(World(seed)) as world:
        nodes = start(world, 3, Setting(3, 3), lasting(3.0))
        for node in nodes[:2]:
            assert world.run(
                10, until=lambda node=node: bool(node.runs) and node.runs[-1].is_finished
            )
            world.cut([nodes[0].host], [nodes[2].host])
        nodes[0].crash()
        world.heal([nodes[0].host], [nodes[2].host])
        world.heal([nodes[0].host], [nodes[2].host])
        nodes[2].signal(signal.SIGTERM, is_for_all=True)
        assert world.run(60)
        assert exit_codes(nodes) == [None, 0, 0]


def test_who_comes_back_to_a_launcher_started_again_is_sent_to_those_who_go_on(
    world: World,
) -> None:
    setting = Setting(2, 4, max_restarts=3)
    nodes = start(world, 4, setting, lasting(6.0))
    hosts = [node.host for node in nodes]
    world.run(2)
    # Two see that nobody is there any more; one looks when there is another launcher.
    nodes[3].pause()
    nodes[0].crash()
    world.run(0.01)
    world.cut(hosts[:1], hosts[1:3])
    nodes.append(start_again(hosts[0], setting, lasting(6.0)))
    world.run(1)
    nodes[3].proceed()
    world.call_in(4.0, world.heal, hosts[:1], hosts[1:3])
    assert world.run(60)
    assert num_runs_at_once(nodes, 1) == 1
    assert exit_codes(nodes) == [None, 0, 0, 0, 0]


@pytest.mark.parametrize("num_left", [1, 2, 3])
@pytest.mark.parametrize("apart_s", [0.0, 0.0003, 0.05, 0.5])
def test_whoever_is_left_goes_on_when_several_launchers_are_killed_with_the_coordinators(
    world: World, num_left: int, apart_s: float
) -> None:
    nodes = start(world, 5, Setting(1, 5, max_restarts=5), lasting(4.0))
    world.run(1)
    staying = nodes[1 : 1 + num_left]
    for number, node in enumerate(node for node in nodes if node not in staying):
        world.call_in(number * apart_s, node.crash)
    assert world.run(60)
    assert [node.exit_code for node in staying] == [0] * num_left
    assert {node.runs[-1].num_nodes for node in staying} == {num_left}


def test_nodes_that_have_left_are_no_other_part_of_the_run(world: World) -> None:
    nodes = start(world, 5, Setting(1, 5, max_restarts=3), lasting(4.0))
    nodes[4].stop_s = lambda: 1.0  # and so there is time to look before the restart
    for node in nodes[1:4]:
        world.call_in(1.0, node.signal, signal.SIGTERM)
    assert world.run(60)
    assert exit_codes(nodes) == [0, 143, 143, 143, 0]
