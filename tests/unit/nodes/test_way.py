"""The way to the coordinator: which address is tried next, and what a node is told of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from launcher.errors import LauncherError
from launcher.nodes import way as way_module
from launcher.nodes.link import listen
from launcher.nodes.messages import Message, Ping, Pong, Stop, Well
from launcher.nodes.way import Way
from launcher.nodes.wire import Credentials
from tests.conftest import find_free_port
from tests.unit.nodes.meeting import CREDENTIALS, OTHER_RUN, Place, Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.nodes.endpoint import Address


class Told:
    """Takes the place of the member: what it was told, in order; obstacles apart."""

    def __init__(self) -> None:
        self.story: list[tuple[Any, ...]] = []
        self.obstacles: list[str] = []

    def open(self, now: float) -> None:
        self.story.append(("open",))

    def take(self, message: Message, now: float) -> None:
        self.story.append(("take", message))

    def miss(self, why: str, now: float, *, is_refused: bool = False) -> None:
        self.story.append(("miss", why, is_refused))

    def close(self, why: str, now: float, *, is_dead: bool) -> None:
        self.story.append(("close", why, is_dead))

    def give_up(self, error: LauncherError) -> None:
        self.story.append(("give up", error.message, error.hint))

    def note_obstacle(self, why: str) -> None:
        self.obstacles.append(why)

    @property
    def knows_obstacle(self) -> bool:
        return bool(self.obstacles)


class Walk:
    """A way, with whom it tells how it goes."""

    def __init__(
        self,
        place: Place,
        credentials: Credentials = CREDENTIALS,
        on_taken: Callable[[], bool] = lambda: False,
    ) -> None:
        self.place = place
        self.told = Told()
        self.met: list[str] = []
        self.num_acts = 0
        self.way = Way(
            *(place.loop, credentials, self.told),  # type: ignore[arg-type]
            show=lambda address: f"{address[0]}:{address[1]}",
            on_meet=self.met.append,
            on_taken=on_taken,
            act=self._act,
        )
        place.at_end.append(self.way.let_go)

    def _act(self) -> None:
        self.num_acts += 1

    @property
    def story(self) -> list[tuple[Any, ...]]:
        return self.told.story

    def wait(self, num_told: int = 1) -> list[tuple[Any, ...]]:
        """Wait until the member was told so many things."""
        self.place.until(lambda: len(self.story) >= num_told)
        assert self.num_acts or self.story[0][0] == "miss"
        return self.story

    def reach(self, server: Server) -> None:
        """Go to a coordinator that answers."""
        self.way.try_all([server.address], "")
        self.wait()
        self.place.until(lambda: server.links)


def refuse(kind: str, detail: str = "") -> Callable[..., dict[str, object]]:
    return lambda greeting, link: {"refused": kind, "detail": detail}


def test_a_coordinator_is_reached_and_both_hear_each_other(place: Place) -> None:
    server, walk = place.serve(), Walk(place)
    walk.reach(server)
    assert (walk.story, walk.met) == ([("open",)], ["127.0.0.1"])
    walk.way.send(Ping())
    place.until(lambda: server.heard)
    server.say(Pong())
    assert walk.wait(2) == [("open",), ("take", Pong())]
    assert server.heard == [Ping()]
    assert walk.way.pong_at > 0 and not walk.way.has_pending
    walk.way.tick(walk.way.pong_at + 100.0)  # it was reached in time
    assert len(walk.story) == 2
    walk.way.let_go()
    place.until(lambda: not server.links)
    walk.way.send(Ping())  # nobody is there: no error
    assert len(walk.story) == 2  # who lets go knows it


def test_addresses_are_tried_until_one_answers(place: Place) -> None:
    server, walk = place.serve(), Walk(place)
    nobody = ("127.0.0.1", find_free_port())
    walk.way.try_all([nobody, server.address], "")
    assert walk.wait() == [("open",)]


def test_where_nobody_listens_that_is_a_refusal(place: Place) -> None:
    walk = Walk(place)
    nobody = ("127.0.0.1", find_free_port())
    walk.way.turn_to(*nobody)
    why = f"127.0.0.1:{nobody[1]} cannot be reached: connection refused"
    assert walk.wait() == [("miss", why, True)]


def test_what_is_known_of_an_obstacle_stays_true_until_somebody_has_been_silent_for_long(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place.loop, "clock", lambda: 100.0)
    with listen(("127.0.0.1", 0)) as listening:
        walk = Walk(place)
        walk.told.note_obstacle("refused")
        walk.way.try_all([listening.getsockname()], "")
        walk.way.tick(101.1)
        assert walk.told.obstacles == ["refused"]
        walk.way.tick(101.2)
        where = f"127.0.0.1:{listening.getsockname()[1]}"
        assert walk.told.obstacles[1:] == [f"{where} does not answer (the connection timed out)"]


@pytest.mark.parametrize("why", ["the name h1 is not known here", ""])
def test_without_an_address_the_reason_is_why_there_is_none(place: Place, why: str) -> None:
    walk = Walk(place)
    walk.way.try_all([], why)
    assert walk.story == [("miss", why or "the endpoint has no address", False)]


def test_a_name_is_no_address_of_a_node(place: Place) -> None:
    walk = Walk(place)
    walk.way.turn_to("node-b.example", 4000)
    [(what, why, is_refused)] = walk.story
    assert (what, is_refused) == ("miss", False) and why


def test_what_cannot_even_be_tried_is_missed(place: Place) -> None:
    walk = Walk(place)
    walk.way.try_all([("255.255.255.255", 1)], "")
    [(what, why, is_refused)] = walk.story
    assert (what, is_refused) == ("miss", False)
    assert why.startswith("255.255.255.255:1 cannot be reached: network")


def test_who_accepts_and_says_nothing_is_no_launcher(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way_module, "CONNECT_S", 5.0)
    now = 100.0
    monkeypatch.setattr(place.loop, "clock", lambda: now)
    with listen(("127.0.0.1", 0)) as stranger:
        walk = Walk(place)
        walk.way.try_all([stranger.getsockname()], "")
        where = f"127.0.0.1:{stranger.getsockname()[1]}"
        # Until it has accepted, a firewall may be what keeps it from doing so.
        assert walk.told.obstacles == [f"{where} does not answer (the connection timed out)"]
        link = walk.way._link
        assert link is not None
        place.until(lambda: link.is_connected)
        walk.way.tick(104.9)
        why = f"what is at {where} does not answer as a launcher does"
        assert (walk.told.obstacles[-1], walk.story) == (why, [])
        walk.way.tick(105.0)
        assert walk.story == [("miss", why, False)]
        walk.way.tick(200.0)
        assert len(walk.story) == 1


@pytest.mark.parametrize(
    ("kind", "detail", "why", "hint"),
    [
        ("secret", "", "has another secret.", "LAUNCHER_SECRET or --secret-file"),
        ("version", "9", "is of another version (protocol 9).", "Install the same launcher"),
    ],
)
def test_what_another_attempt_would_meet_again_ends_the_search(
    place: Place, kind: str, detail: str, why: str, hint: str
) -> None:
    server, walk = place.serve(answer=refuse(kind, detail)), Walk(place)
    never = place.serve()
    walk.way.try_all([server.address, never.address], "")
    [(what, message, shown_hint)] = walk.wait()
    assert what == "give up"
    assert message == f"The launcher at 127.0.0.1:{server.port} {why}"
    assert hint in shown_hint
    assert not never.links


def test_another_secret_is_seen_by_its_proof(place: Place) -> None:
    server, walk = place.serve(Credentials("run", b"another")), Walk(place)
    walk.way.try_all([server.address], "")
    [(what, message, _)] = walk.wait()
    assert what == "give up" and "has another secret" in message


def test_another_run_at_the_endpoint_is_passed_by(place: Place) -> None:
    other, server = place.serve(OTHER_RUN, refuse("run")), place.serve()
    walk = Walk(place)
    walk.way.try_all([other.address, server.address], "")
    assert walk.wait() == [("open",)]


def test_another_run_at_the_only_endpoint_is_named(place: Place) -> None:
    other, walk = place.serve(OTHER_RUN, refuse("run")), Walk(place)
    walk.way.try_all([other.address], "")
    why = f"at 127.0.0.1:{other.port} another run is served, with another --rdzv-id"
    assert walk.wait() == [("miss", why, False)]


def test_where_the_run_is_served_beside_another_one_nobody_is_missed(place: Place) -> None:
    asked: list[str] = []

    def serve_here() -> bool:
        asked.append("to serve")
        return True

    other, walk = place.serve(OTHER_RUN, refuse("run")), Walk(place, on_taken=serve_here)
    walk.way.try_all([other.address], "")
    place.until(lambda: asked)
    assert (walk.story, walk.num_acts) == ([], 1)


def test_a_coordinator_may_be_shown_to_be_elsewhere(place: Place) -> None:
    there, never = place.serve(), place.serve()
    here = place.serve(answer=lambda greeting, link: {"moved": ["127.0.0.1", there.port]})
    walk = Walk(place)
    walk.way.try_all([here.address, never.address], "")
    assert walk.wait() == [("open",)]
    place.until(lambda: there.links)
    assert not never.links


# --- the end of a connection --------------------------------------------------------------------


def test_a_coordinator_that_does_not_listen_any_more_has_ended(place: Place) -> None:
    server, walk = place.serve(), Walk(place)
    walk.reach(server)
    server.close()
    why = "its launcher has ended (the connection was closed)"
    assert walk.wait(2)[1:] == [("close", why, True)]


def test_a_coordinator_that_listens_still_may_live(place: Place) -> None:
    server, walk = place.serve(), Walk(place)
    walk.reach(server)
    server.links[0].close()
    [(what, why, is_dead)] = walk.wait(2)[1:]
    assert (what, is_dead) == ("close", False)
    assert why == "the connection to it broke (closed)"


def test_whoever_lets_go_hears_no_more_of_the_end(place: Place) -> None:
    server, walk = place.serve(), Walk(place)
    walk.reach(server)
    server.close()
    place.until(lambda: walk.way._probe is not None)
    walk.way.let_go()
    place.loop.set_timer(lambda: None, 0.01)
    place.loop.turn(lambda event: None)
    assert walk.story == [("open",)]


def test_a_node_turns_back_to_where_it_had_a_coordinator(place: Place) -> None:
    server, other = place.serve(), place.serve()
    walk = Walk(place)
    walk.reach(server)
    server.say(Stop(0, "a rank has failed"))
    walk.wait(2)
    # One that only says that the other one is well is no coordinator.
    walk.way.let_go()
    walk.way.turn_to(*other.address)
    walk.wait(3)
    place.until(lambda: other.links)
    other.say(Well())
    walk.wait(4)
    place.until(lambda: not server.links)
    walk.way.turn_back()
    walk.wait(5)
    place.until(lambda: server.links)
    assert [told[0] for told in walk.story] == ["open", "take", "open", "take", "open"]


def test_who_never_had_a_coordinator_has_nowhere_to_turn_back_to(place: Place) -> None:
    walk = Walk(place)
    walk.way.turn_back()
    [(what, _, is_refused)] = walk.story
    assert (what, is_refused) == ("miss", False)


def test_addresses_may_be_of_ipv6(place: Place) -> None:
    server, walk = place.serve(host="::1"), Walk(place)
    address: Address = server.address
    walk.way.turn_to(str(address[0]), int(address[1]))
    assert walk.wait() == [("open",)]
    assert walk.met == ["::1"]
    server.close()
    assert walk.wait(2)[1][2] is True
