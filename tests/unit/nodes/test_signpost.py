"""Who is pointed where: nodes of other runs at one endpoint, and those of a run that goes on."""

from __future__ import annotations

import pytest

from launcher.nodes.messages import Relocate
from launcher.nodes.signpost import Signpost
from launcher.nodes.wire import Credentials, Moved, Refusal
from tests.conftest import find_free_port
from tests.unit.nodes.meeting import CREDENTIALS, OTHER_RUN, Place, Server


def make_post(place: Place, credentials: Credentials = CREDENTIALS) -> Signpost:
    post = Signpost(place.loop, credentials)
    place.at_end.append(post.close)
    return post


class FakeLink:
    """A connection of which the two ends are known."""

    def __init__(self, other_end: str, our_end: str = "10.0.0.1") -> None:
        self.ends = other_end, our_end
        self.is_guest = self.is_closed = False


def ask(signpost: Signpost, link: FakeLink, *, is_left: bool = False, **greeting: object) -> object:
    return signpost.answer(greeting, link, is_left=is_left)  # type: ignore[arg-type]


NEAR, FAR = "10.0.0.1", "10.0.0.2"


def test_nodes_of_the_run_are_let_in_and_those_of_others_are_not(place: Place) -> None:
    signpost = make_post(place)
    assert ask(signpost, FakeLink(FAR), run=CREDENTIALS.tag) == {}
    assert ask(signpost, FakeLink(FAR), run=OTHER_RUN.tag) == {"refused": "run"}
    assert ask(signpost, FakeLink(FAR)) == {"refused": "run"}


def test_who_asks_where_the_run_was_left_is_shown_where_it_goes_on(place: Place) -> None:
    signpost = make_post(place)
    signpost.point_to(Relocate("10.0.0.7", 4711))
    asked = {"run": CREDENTIALS.tag}
    assert ask(signpost, FakeLink(FAR), is_left=True, **asked) == {"moved": ["10.0.0.7", 4711]}
    # Who turns to this node as the one that follows is let in.
    assert ask(signpost, FakeLink(FAR), **asked) == {}
    signpost.point_here()
    assert ask(signpost, FakeLink(FAR), is_left=True, **asked) == {}


def test_another_run_of_this_host_has_its_nodes_shown_the_way(place: Place) -> None:
    signpost = make_post(place)
    guest = FakeLink(NEAR)
    assert ask(signpost, guest, run=OTHER_RUN.tag, guest=4711) == {"welcome": 1}
    assert guest.is_guest
    # By the address that the node itself has reached.
    link = FakeLink(FAR, "10.9.0.1")
    assert ask(signpost, link, run=OTHER_RUN.tag) == {"moved": ["10.9.0.1", 4711]}
    guest.is_closed = True  # it has ended
    assert ask(signpost, link, run=OTHER_RUN.tag) == {"refused": "run"}


@pytest.mark.parametrize(
    "greeting",
    [
        {"run": OTHER_RUN.tag, "guest": "4711"},
        {"run": OTHER_RUN.tag, "guest": None},
        {"run": ["x"], "guest": 4711},
        {"guest": 4711},
    ],
)
def test_what_is_no_guest_is_not_welcome(place: Place, greeting: dict[str, object]) -> None:
    signpost, link = make_post(place), FakeLink(NEAR)
    assert ask(signpost, link, **greeting) == {"refused": "run"}
    assert not link.is_guest


def test_another_host_cannot_have_nodes_shown_to_it(place: Place) -> None:
    signpost, link = make_post(place), FakeLink(FAR)
    assert ask(signpost, link, run=OTHER_RUN.tag, guest=4711) == {"refused": "guest"}
    assert not link.is_guest
    assert ask(signpost, FakeLink(FAR), run=OTHER_RUN.tag) == {"refused": "run"}


def test_nobody_is_a_guest_of_its_own_run(place: Place) -> None:
    signpost, link = make_post(place), FakeLink(NEAR)
    assert ask(signpost, link, run=CREDENTIALS.tag, guest=4711) == {}
    assert not link.is_guest


# --- over connections ---------------------------------------------------------------------------


def serve(place: Place, signpost: Signpost) -> Server:
    """Return who serves our run, and answers by this signpost."""
    return place.serve(answer=lambda greeting, link: signpost.answer(greeting, link, is_left=False))


def ask_over(place: Place, host: Server) -> Moved | Refusal:
    """Return what a node of the other run is told."""
    caller = place.call(host.address, OTHER_RUN)
    place.until(lambda: caller.error)
    assert isinstance(caller.error, (Moved, Refusal))
    return caller.error


def test_a_guest_is_told_when_its_host_has_ended(place: Place) -> None:
    host, guest = serve(place, make_post(place)), make_post(place, OTHER_RUN)
    ends: list[str] = []
    assert guest.be_guest(host.address, 4711, lambda: ends.append("ended"))
    while not isinstance(told := ask_over(place, host), Moved):
        pass  # the host does not know of the guest yet
    assert (told.host, told.port, ends) == ("127.0.0.1", 4711, [])
    host.close()
    place.until(lambda: ends)
    assert ends == ["ended"]


def test_a_guest_that_leaves_is_shown_to_nobody_any_more(place: Place) -> None:
    host, guest = serve(place, make_post(place)), make_post(place, OTHER_RUN)
    assert guest.be_guest(host.address, 4711, lambda: pytest.fail("nobody is told"))
    while not isinstance(ask_over(place, host), Moved):
        pass
    guest.close()
    while isinstance(told := ask_over(place, host), Moved):
        pass  # the host does not know of its end yet
    assert told.kind == "run"


def test_who_serves_at_the_endpoint_hears_where_the_run_goes_on(place: Place) -> None:
    here, there = Relocate("10.0.0.7", 4711), serve(place, make_post(place))
    ends: list[str] = []
    post = make_post(place)
    post.tell_endpoint(there.address, here, lambda: ends.append("ended"))
    place.until(lambda: there.heard)
    assert (there.heard, ends) == ([here], [])
    # It is told again and again: the connection before is closed, and that is no end.
    post.tell_endpoint(there.address, here, lambda: ends.append("ended again"))
    place.until(lambda: len(there.heard) == 2 and len(there.links) == 1)
    assert ends == []
    there.close()
    place.until(lambda: ends)
    assert ends == ["ended again"]


def test_where_nobody_serves_at_the_endpoint_that_is_said_once(place: Place) -> None:
    ends: list[str] = []
    post = make_post(place)
    nobody = ("127.0.0.1", find_free_port())
    post.tell_endpoint(nobody, Relocate("10.0.0.7", 4711), lambda: ends.append("ended"))
    place.until(lambda: ends)
    assert ends == ["ended"]


def test_what_cannot_even_be_tried_is_an_end_too(place: Place) -> None:
    ends: list[str] = []
    post = make_post(place)
    no_address = ("255.255.255.255", 1)
    assert not post.be_guest(no_address, 4711, lambda: ends.append("ended"))
    assert ends == []
    post.tell_endpoint(no_address, Relocate("10.0.0.7", 4711), lambda: ends.append("ended"))
    assert ends == ["ended"]
