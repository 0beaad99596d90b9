"""What the endpoint's names mean to a node, and what it listens at where the endpoint is here."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest

from launcher.nodes import endpoint as endpoint_module
from launcher.nodes.endpoint import Endpoint
from launcher.nodes.link import listen
from launcher.system.loop import Loop
from tests.conftest import find_free_port
from tests.unit.nodes.meeting import make_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.nodes.endpoint import Address


class NameServer:
    """Takes the place of `Lookup`: answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_cancelled = False
        self._on_done: Callable[[list[Address], str], None] | None = None

    def __call__(
        self, loop: Loop, host: str, port: int, on_done: Callable[[list[Address], str], None]
    ) -> NameServer:
        self.asked.append(host)
        self._on_done = on_done
        return self

    def answer(self, *found: Address, why: str = "") -> None:
        assert self._on_done is not None
        self._on_done(list(found), why)

    def cancel(self) -> None:
        self.is_cancelled = True


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> NameServer:
    names = NameServer()
    monkeypatch.setattr(endpoint_module, "Lookup", names)
    return names


class Looking:
    """An endpoint, and what it has told."""

    def __init__(self, loop: Loop, host: str, port: int = 0, **group: Any) -> None:
        self.waits: list[str] = []
        self.num_done = self.num_acts = 0
        self.endpoint = Endpoint(
            make_group(host, port, **group), loop, self.waits.append, self._act
        )

    def look_up(self) -> Endpoint:
        self.endpoint.look_up(self._note)
        return self.endpoint

    def _note(self) -> None:
        self.num_done += 1

    def _act(self) -> None:
        self.num_acts += 1


# --- what its names mean ------------------------------------------------------------------------


def test_addresses_are_known_without_asking_anybody(loop: Loop, names: NameServer) -> None:
    looking = Looking(loop, "10.0.0.1, fd00::1", 29400)
    endpoint = looking.look_up()
    assert endpoint.addresses == [("10.0.0.1", 29400), ("fd00::1", 29400, 0, 0)]
    assert (looking.num_done, looking.waits, names.asked) == (1, [], [])


def test_names_are_asked_for_one_after_the_other_and_nobody_is_held_up(
    loop: Loop, names: NameServer
) -> None:
    looking = Looking(loop, "node-a,10.0.0.2,node-b", 29400)
    endpoint = looking.look_up()
    assert (looking.num_done, looking.waits) == (0, ["no name server says what node-a is"])
    names.answer(("10.0.0.1", 29400))
    assert looking.num_done == 0 and names.asked == ["node-a", "node-b"]
    names.answer(why="Name or service not known")
    assert looking.num_done == 1
    assert looking.num_acts == 2  # the loop goes on after each
    assert endpoint.addresses == [("10.0.0.1", 29400), ("10.0.0.2", 29400)]
    assert endpoint.why == "the name node-b is not known here (Name or service not known)"


def test_a_look_up_that_finds_nothing_any_more_leaves_what_was_known(
    loop: Loop, names: NameServer
) -> None:
    looking = Looking(loop, "node-a", 29400)
    looking.look_up()
    names.answer(("10.0.0.1", 29400))
    endpoint = looking.look_up()
    names.answer(why="Temporary failure")
    assert endpoint.addresses == []
    assert endpoint.known_addresses == [("10.0.0.1", 29400)]
    looking.look_up()
    assert endpoint.why == ""


def test_who_stops_looking_is_not_told(loop: Loop, names: NameServer) -> None:
    looking = Looking(loop, "node-a")
    endpoint = looking.look_up()
    endpoint.cancel()
    assert names.is_cancelled
    endpoint.cancel()  # again: no error
    assert looking.num_done == 0


def test_an_address_is_shown_with_the_name_that_was_typed(loop: Loop, names: NameServer) -> None:
    looking = Looking(loop, "node-a,fd00::1", 29400)
    endpoint = looking.look_up()
    names.answer(("10.0.0.1", 29400))
    first, second = endpoint.addresses
    assert endpoint.show(first) == "node-a:29400 (10.0.0.1)"
    assert endpoint.show(second) == "[fd00::1]:29400"
    assert endpoint.show(("10.0.0.9", 1)) == "10.0.0.9:1"


# --- where it is here ---------------------------------------------------------------------------


def found(loop: Loop, host: str = "127.0.0.1", port: int = 0, **group: Any) -> Endpoint:
    """Return an endpoint whose addresses are known."""
    return Looking(loop, host, port or find_free_port(), **group).look_up()


def place(listening: socket.socket | None) -> tuple[str, int]:
    """Return where a socket listens, and close it."""
    assert listening is not None
    with listening:
        address = listening.getsockname()
    return str(address[0]), int(address[1])


def test_whoever_has_the_address_serves_there(loop: Loop) -> None:
    port = find_free_port()
    endpoint = found(loop, port=port)
    assert place(endpoint.bind()) == ("127.0.0.1", port)
    assert endpoint.taken is None


def test_where_somebody_serves_already_that_is_known(loop: Loop) -> None:
    with listen(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        endpoint = found(loop, port=port)
        assert endpoint.bind() is None
        assert endpoint.taken == ("127.0.0.1", port)
        assert endpoint.bind_again() is None
        host, beside = place(endpoint.bind_beside(endpoint.taken))
        assert host == "127.0.0.1" and beside != port
    assert place(endpoint.bind_again()) == ("127.0.0.1", port)
    # It is asked anew each time.
    assert place(endpoint.bind()) == ("127.0.0.1", port)
    assert endpoint.taken is None and endpoint.bind_again() is None


def test_who_has_another_address_does_not_serve(loop: Loop) -> None:
    endpoint = found(loop, "192.0.2.1")
    assert endpoint.bind() is None
    assert endpoint.taken is None


def test_who_is_told_not_to_be_it_does_not_serve_at_its_own_address(loop: Loop) -> None:
    endpoint = found(loop, is_host=False)
    assert endpoint.bind() is None
    assert endpoint.taken is None


def test_who_is_told_to_be_it_serves_at_an_address_that_only_others_know(loop: Loop) -> None:
    port = find_free_port()
    assert place(found(loop, "192.0.2.1", port, is_host=True).bind()) == ("::", port)
    with listen(("::", port, 0, 0)):
        endpoint = found(loop, "192.0.2.1", port, is_host=True)
        assert endpoint.bind() is None
        assert endpoint.why == f"port {port} cannot be served: Address already in use"


def test_a_port_that_this_user_may_not_have_is_said_to_be_one(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(address: Address) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(endpoint_module, "listen", refuse)
    endpoint = found(loop, port=80)
    assert endpoint.bind() is None
    assert (endpoint.why, endpoint.taken) == ("this user may not serve at port 80", None)


def test_a_name_that_means_loopback_here_alone_is_served_at_all_addresses(
    loop: Loop, names: NameServer
) -> None:
    """As Debian's 127.0.1.1: the others know another address by this name."""
    port = find_free_port()
    looking = Looking(loop, "node-a", port)
    endpoint = looking.look_up()
    names.answer(("127.0.1.1", port))
    assert place(endpoint.bind()) == ("0.0.0.0", port)
    assert endpoint.doubt.startswith("node-a means 127.0.1.1 here: a loopback address")


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1"), ("localhost", "::1")])
def test_loopback_that_was_meant_is_not_opened_to_others(
    loop: Loop, names: NameServer, host: str, address: str
) -> None:
    port = find_free_port(address)
    looking = Looking(loop, host, port)
    endpoint = looking.look_up()
    if names.asked:
        names.answer((address, port, 0, 0))
    assert place(endpoint.bind()) == (address, port)
    assert "a loopback address" in endpoint.doubt  # in case that nobody comes


def test_an_address_that_others_reach_leaves_no_doubt(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "listen", lambda address: listen(("127.0.0.1", 0)))
    endpoint = found(loop, "10.0.0.1")
    place(endpoint.bind())
    assert endpoint.doubt == ""


# --- where this node may follow the coordinator ---------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_node_listens_where_it_has_come_from(loop: Loop, address: str) -> None:
    host, port = place(found(loop, address).bind_for_others(address))
    assert host == address and port


def test_a_node_with_another_address_for_the_others_listens_at_all(loop: Loop) -> None:
    endpoint = found(loop, local_addr="10.0.0.22")
    assert place(endpoint.bind_for_others("127.0.0.1"))[0] == "::"


def test_a_node_that_has_come_over_a_name_for_loopback_listens_at_all(
    loop: Loop, names: NameServer
) -> None:
    endpoint = Looking(loop, "node-a").endpoint
    assert place(endpoint.bind_for_others("127.0.0.1"))[0] == "0.0.0.0"


@pytest.mark.parametrize("address", ["", "192.0.2.1"])
def test_where_nothing_can_be_served_there_is_no_socket(loop: Loop, address: str) -> None:
    assert found(loop).bind_for_others(address) is None
