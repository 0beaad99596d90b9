"""The store at which Horovod's ranks meet: what is held and answered, also without descriptors."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator

import pytest

from launcher.events import Asked, Event
from launcher.horovod.store import HorovodStore
from launcher.system.loop import Loop

# Longer than any answer takes; only what is to stay unanswered is waited for that long.
_LIMIT_S = 5.0


class Client:
    """One request to the store, as Horovod sends it."""

    def __init__(self, store: HorovodStore) -> None:
        self._store = store
        self._socket = socket.create_connection(("127.0.0.1", store.port))
        self._socket.setblocking(False)

    def send(self, method: str, path: str, body: bytes = b"") -> Client:
        secret = self._store.address.partition("/")[2]
        head = (
            f"{method} /{secret}:{self._store.port}/{path} HTTP/1.1\r\nContent-Length:"
            f" {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)
        return self

    def answer(self) -> tuple[int, bytes] | None:
        """Return status and body, None while there is no answer."""
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return None
        self._socket.close()
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop(()) as made:
        yield made


@pytest.fixture
def store(loop: Loop) -> Iterator[HorovodStore]:
    made = HorovodStore(loop)
    yield made
    made.close()


def _fail() -> None:
    pytest.fail("it never came")


def serve(loop: Loop, client: Client) -> tuple[int, bytes]:
    """Let the store work until a client has its answer."""
    loop.set_timer(_fail, _LIMIT_S)
    while (answer := client.answer()) is None:
        loop.turn(lambda event: None)
    loop.cancel_timer(_fail)
    return answer


def wait_for(loop: Loop, event: Event) -> None:
    """Let the store work until it tells of this event."""
    loop.set_timer(_fail, _LIMIT_S)
    seen: list[Event] = []
    while event not in seen:
        loop.turn(seen.append)
    loop.cancel_timer(_fail)


def test_a_value_is_found_from_when_it_was_put_until_its_rank_is_done(
    loop: Loop, store: HorovodStore
) -> None:
    assert serve(loop, Client(store).send("GET", "global/1")) == (404, b"")
    assert serve(loop, Client(store).send("PUT", "global/1", b"address")) == (200, b"")
    assert serve(loop, Client(store).send("GET", "global/1")) == (200, b"address")
    assert serve(loop, Client(store).send("DELETE", "global/1")) == (200, b"")
    assert serve(loop, Client(store).send("GET", "global/1")) == (404, b"")


def test_ranks_that_are_left_and_newcomers_are_held_until_all_are_admitted(
    loop: Loop, store: HorovodStore
) -> None:
    serve(loop, Client(store).send("PUT", "global/0", b"of the round before"))
    store.expect({0: 1})  # local rank 0 was lost, and comes back as rank 1
    survivor = Client(store).send("GET", "rank_and_size/here:1")
    wait_for(loop, Asked(1))
    newcomer = Client(store).send("PUT", "global/rank_1", b"here")
    wait_for(loop, Asked(0))
    assert (survivor.answer(), newcomer.answer()) == (None, None)
    store.admit({0: 1, 1: 0})
    assert serve(loop, survivor) == (200, b"0,2,1,2,0,1")
    assert serve(loop, newcomer) == (200, b"")
    assert serve(loop, Client(store).send("GET", "global/rank_1")) == (200, b"here")
    assert serve(loop, Client(store).send("GET", "global/0")) == (404, b"")
    assert serve(loop, Client(store).send("PUT", "global/1", b"its next request is not held")) == (
        200,
        b"",
    )


def test_a_second_newcomer_does_not_let_the_first_one_in(loop: Loop, store: HorovodStore) -> None:
    store.expect({1: 1})
    store.expect({2: 2})
    clients = [Client(store).send("PUT", f"global/rank_{rank}") for rank in (1, 2)]
    wait_for(loop, Asked(2))
    assert [client.answer() for client in clients] == [None, None]
    store.admit({0: 0, 1: 1, 2: 2})
    assert [serve(loop, client) for client in clients] == [(200, b"")] * 2


def test_one_that_goes_away_while_it_is_held_is_forgotten(loop: Loop, store: HorovodStore) -> None:
    Client(store).send("GET", "rank_and_size/here:1").close()
    wait_for(loop, Asked(1))
    serve(loop, Client(store).send("GET", "global/0"))  # by now its end has been read, too
    again = Client(store).send("GET", "rank_and_size/here:1")
    wait_for(loop, Asked(1))
    store.admit({0: 0, 1: 1})
    assert serve(loop, again) == (200, b"1,2,1,2,0,1")


def test_nonsense_for_a_place_is_just_not_there(loop: Loop, store: HorovodStore) -> None:
    assert serve(loop, Client(store).send("GET", "rank_and_size/here:x")) == (404, b"")


def test_without_descriptors_clients_wait_their_turn_and_the_loop_does_not_spin(
    loop: Loop, store: HorovodStore
) -> None:
    clients = [Client(store) for _ in range(3)]
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, allowed[1])
        )
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.dup(0))
        is_over: list[bool] = []
        loop.set_timer(lambda: is_over.append(True), 0.2)
        turns = 0
        while not is_over:
            loop.turn(lambda event: None)
            turns += 1
        assert turns < 20
        for client in clients:
            assert serve(loop, client.send("GET", "global/0")) == (404, b"")
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
