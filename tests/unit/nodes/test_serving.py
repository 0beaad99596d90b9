"""What a node serves: the run, if it coordinates it; else a port at which it may be asked to."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.nodes.endpoint import Endpoint
from launcher.nodes.losses import Loss
from launcher.nodes.messages import (
    Assigned,
    Decided,
    Deputy,
    Join,
    Message,
    Ping,
    Pong,
    Relocate,
    Settled,
    Stop,
    Well,
)
from launcher.nodes.rules import RESUME_S, Past
from launcher.nodes.serving import Serving
from launcher.nodes.wire import Credentials, Moved
from tests.conftest import find_free_port
from tests.unit.nodes.coming import make_account, make_join, make_rules
from tests.unit.nodes.meeting import CREDENTIALS, OTHER_RUN, Caller, Place, make_group


class OwnNode:
    """Takes the place of the member: what it was told."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.opened: list[bool] = []
        self.port = 0
        self.address, self.run_name = "127.0.0.1", "run-of-h0"

    def open(self, now: float, *, is_own: bool = False) -> None:
        self.opened.append(is_own)

    def take(self, message: Message, now: float) -> None:
        self.heard.append(message)

    def note_port(self, port: int) -> None:
        self.port = port


class Node:
    """A node that may serve, with what it would tell the others of itself."""

    def __init__(
        self,
        place: Place,
        host: str = "127.0.0.1",
        port: int = 0,
        credentials: Credentials = CREDENTIALS,
        **rules: Any,
    ) -> None:
        self.place = place
        self.own = OwnNode()
        self.names: list[str] = []
        self.relocated: list[Relocate] = []
        self.endpoint = Endpoint(
            make_group(host, port or find_free_port(host)), place.loop, lambda line: None, self.act
        )
        self.endpoint.look_up(lambda: None)
        self.serving = Serving(
            *(place.loop, credentials, make_rules(2, **rules)._replace(run_name="")),
            member=self.own,  # type: ignore[arg-type]
            endpoint=self.endpoint,
            claim_name=self._claim_name,
            act=self.act,
            on_relocate=self.relocated.append,
        )
        place.at_end.append(self.serving.close)

    def _claim_name(self) -> str:
        self.names.append("run-1")
        return self.names[-1]

    def act(self) -> None:
        self.serving.send_outbox()

    @property
    def address(self) -> tuple[Any, ...]:
        """Where the others find it, at the endpoint."""
        return self.endpoint.addresses[0]

    @property
    def spare_address(self) -> tuple[Any, ...]:
        """Where the others find it when it is to follow the coordinator."""
        host = self.address[0]
        return (host, self.own.port, 0, 0) if ":" in host else (host, self.own.port)

    def serve(self) -> Node:
        """Coordinate a run of two nodes that begins, and take part in it."""
        listening = self.endpoint.bind()
        assert listening is not None
        self.serving.serve(listening)
        self.say(make_join("h0", port=4000))
        return self

    def say(self, *messages: Message) -> None:
        for message in messages:
            self.serving.handle_own(message)
        self.act()

    def heard(self, kind: type[Any]) -> Any:
        """Wait until the node itself has been told something of this kind; return it."""
        return wait_for(self.place, self.own.heard, kind)


def wait_for(place: Place, heard: list[Message], kind: type[Any]) -> Any:
    place.until(lambda: any(isinstance(message, kind) for message in heard))
    return next(message for message in heard if isinstance(message, kind))


def come(place: Place, address: tuple[Any, ...], join: Join) -> Caller:
    """Let another node come with this greeting."""
    caller = place.call(address)
    place.until(lambda: caller.is_open)
    caller.link.send(join)
    return caller


def make_past(*absent: Deputy, num_nodes: int = 2, now: float = 0.0) -> Past:
    """Return what is known of a run of which node 0 has ended; this one is node 1."""
    loss = Loss(0, "h0", "its launcher has ended", now, is_dead=True)
    return Past(0, num_nodes, 0, (loss,), frozenset((0,)), "127.0.0.1", absent, now + RESUME_S)


def resume(name: str, rank: int, num_nodes: int = 2, **fields: Any) -> Join:
    """Return how a node greets the successor of its coordinator."""
    return make_join(name, generation=0, old_rank=rank, num_nodes=num_nodes, **fields)


# --- as the coordinator -------------------------------------------------------------------------


def test_nothing_is_served_before_somebody_asks_for_it(place: Place) -> None:
    node = Node(place)
    assert not (node.serving.coordinates or node.serving.has_outbox or node.serving.has_listeners)
    node.say(Ping())  # nobody is there to hear it
    node.serving.tick(place.loop.clock())
    assert node.serving.take_news() == [] and node.own.heard == []


def test_the_run_begins_when_all_have_come_each_with_its_part(place: Place) -> None:
    node = Node(place).serve()
    assert node.serving.coordinates
    assert (node.own.opened, node.names) == ([True], ["run-1"])
    caller = come(place, node.address, make_join("h1"))
    theirs = wait_for(place, caller.heard, Assigned)
    own = node.heard(Assigned)
    assert (own.node_rank, theirs.node_rank, theirs.run_name) == (0, 1, "run-1")
    assert node.serving.has_listeners
    caller.link.send(Ping())
    wait_for(place, caller.heard, Pong)


def test_news_are_told_once(place: Place) -> None:
    node = Node(place).serve()
    come(place, node.address, make_join("h1", max_nodes=3))
    news: list[str] = []
    place.until(lambda: news.extend(node.serving.take_news()) or news)
    assert news == ["h1 was refused: --nnodes 2:3 on h1 contradicts --nnodes 2 on h0"]
    assert node.serving.take_news() == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("is_dead", [True, False])
def test_a_node_has_ended_when_nobody_listens_where_it_did(
    place: Place, host: str, is_dead: bool
) -> None:
    node, door = Node(place, host).serve(), place.serve(host=host)
    caller = come(place, node.address, make_join("h1", port=door.port))
    wait_for(place, caller.heard, Assigned)
    if is_dead:
        door.close()
    caller.link.close()
    ending = "its launcher has ended (the connection was closed)"
    if not is_dead:
        ending = "the connection to it broke (closed)"
    assert node.heard(Stop).reason == f"node 1 (h1) was lost: {ending}"


def test_after_the_end_no_connection_is_left(place: Place) -> None:
    node = Node(place).serve()
    caller = come(place, node.address, make_join("h1"))
    wait_for(place, caller.heard, Assigned)
    node.serving.close()
    place.until(lambda: caller.error)
    again = place.call(node.address)
    place.until(lambda: again.error)
    assert isinstance(again.error, ConnectionRefusedError)


# --- as the one that may follow -----------------------------------------------------------------


def listening_node(place: Place, **rules: Any) -> Node:
    node = Node(place, **rules)
    node.serving.listen_at("127.0.0.1")
    assert node.own.port and not node.serving.coordinates
    node.serving.listen_at("127.0.0.1")  # again: it does already
    return node


def come_early(place: Place, node: Node, join: Join) -> Caller:
    """Let somebody come who is heard, but not answered."""
    caller = come(place, node.spare_address, join)
    let_read(place, node)
    assert caller.heard == []
    return caller


def let_read(place: Place, node: Node) -> None:
    """Let a node read all that was sent to it: who comes now is let in later."""
    later = place.call(node.spare_address)
    place.until(lambda: later.is_open)


def test_who_comes_before_this_node_knows_that_it_coordinates_is_heard_then(place: Place) -> None:
    node = listening_node(place, hostname="h1")
    caller = come_early(place, node, resume("h2", 2, 3))
    node.serving.take_over(make_past(num_nodes=3, now=place.loop.clock()))
    assert node.own.opened == [True] and node.names == []  # the run has its name
    wait_for(place, caller.heard, Pong)
    assert node.serving.has_listeners


def test_who_has_gone_before_this_node_coordinates_has_not_come(place: Place) -> None:
    node = listening_node(place, hostname="h1")
    caller = come_early(place, node, resume("h2", 2, 3))
    caller.link.close()
    let_read(place, node)
    node.serving.take_over(make_past(num_nodes=3, now=place.loop.clock()))
    assert not node.serving.has_listeners


@pytest.mark.parametrize(("later_s", "is_sure"), [(0.9, False), (1.1, True)])
def test_who_has_lost_a_coordinator_that_is_well_is_told_so_once(
    place: Place, monkeypatch: pytest.MonkeyPatch, later_s: float, is_sure: bool
) -> None:
    node = listening_node(place)
    monkeypatch.setattr(place.loop, "clock", lambda: 100.0)
    caller = come_early(place, node, resume("h2", 2))
    node.serving.answer_early(100.0 + later_s)
    node.serving.answer_early(200.0 if is_sure else 0.0)
    # If not, it goes on with this node when that takes over.
    node.serving.take_over(make_past(now=100.0))
    wait_for(place, caller.heard, Well if is_sure else Pong)
    assert caller.heard == [Well() if is_sure else Pong()]


def test_who_has_ended_with_the_coordinator_is_not_waited_for(place: Place) -> None:
    node, there = listening_node(place, hostname="h1", max_nodes=4), place.serve()
    nobody = Deputy("member h2", "h2", "127.0.0.1", find_free_port(), 2)
    slow = Deputy("member h3", "h3", "127.0.0.1", there.port, 3)
    node.serving.take_over(make_past(nobody, slow, num_nodes=4, now=place.loop.clock()))
    node.say(resume("h1", 1, 4, max_nodes=4), Settled(0, make_account(1, -15, 20.0, True)))
    # The one that lives is waited for, and comes.
    caller = come(place, node.spare_address, resume("h3", 3, 4, max_nodes=4))
    caller.link.send(Settled(0, make_account(3, -15, 20.0, True)))
    assert node.heard(Decided).action == "restart"
    assert wait_for(place, caller.heard, Decided).action == "restart"


# --- where others serve, too --------------------------------------------------------------------


def test_a_node_that_has_begun_in_vain_gives_way_and_shows_others_where_to_go(place: Place) -> None:
    node = Node(place).serve()
    waiting = come(place, node.address, make_join("h1", max_nodes=9))
    successor = place.call(node.address)
    place.until(lambda: successor.is_open)
    there = Relocate("127.0.0.1", 4711)
    successor.link.send(there)
    place.until(lambda: node.relocated)
    assert node.relocated == [there] and not node.serving.coordinates
    place.until(lambda: waiting.error)  # it looks again, and is shown the way
    late = place.call(node.address)
    place.until(lambda: late.error)
    assert isinstance(late.error, Moved) and (late.error.host, late.error.port) == there
    # It may be the next to follow, where nobody is sent away.
    node.serving.listen_at("127.0.0.1")
    caller = place.call(node.spare_address)
    place.until(lambda: caller.is_open)


def test_a_run_that_goes_on_gives_way_to_nobody(place: Place) -> None:
    node = Node(place).serve()
    caller = come(place, node.address, make_join("h1"))
    wait_for(place, caller.heard, Assigned)
    caller.link.send(Relocate("127.0.0.1", 4711))
    caller.link.send(Ping())
    wait_for(place, caller.heard, Pong)
    assert node.serving.coordinates and node.relocated == []


def test_a_successor_tells_the_endpoint_where_the_run_goes_on(place: Place) -> None:
    at_endpoint = place.serve()
    node = Node(place, port=at_endpoint.port)
    node.serving.listen_at("127.0.0.1")
    node.serving.take_over(make_past(now=place.loop.clock()))
    place.until(lambda: at_endpoint.heard)
    assert at_endpoint.heard == [Relocate("127.0.0.1", node.own.port)]


def test_a_run_beside_another_one_at_its_endpoint_has_its_nodes_shown_to_it(place: Place) -> None:
    first = Node(place).serve()
    port = first.address[1]
    second = Node(place, port=port, credentials=OTHER_RUN)
    assert not second.serving.serve_as_guest()  # where nobody is, there is no guest
    assert second.endpoint.bind() is None
    assert second.serving.serve_as_guest() and second.serving.coordinates
    shown: list[Moved] = []

    def ask() -> bool:
        caller = place.call(first.address, OTHER_RUN)
        place.until(lambda: caller.error)
        if isinstance(caller.error, Moved):
            shown.append(caller.error)
        return bool(shown)

    while not ask():
        pass  # the first one does not know of the second yet
    caller = place.call((shown[0].host, shown[0].port), OTHER_RUN)
    place.until(lambda: caller.is_open)
    # When the first run has ended, the second has the endpoint.
    first.serving.close()

    def is_there() -> bool:
        caller = place.call(first.address, OTHER_RUN)
        place.until(lambda: caller.is_open or caller.error)
        return caller.is_open

    while not is_there():
        pass
