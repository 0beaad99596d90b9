"""What goes between a supervisor and its fork server arrives as it was sent."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from launcher.attached.proxy import MOST_HANDED
from launcher.contract import messages
from launcher.start.server import make_pair

Pair = tuple[socket.socket, socket.socket]

START = messages.Start(
    local_rank=3,
    kind="module",
    target="package.module",
    args=["--name", "é \ud800 \udcff"],
    env={"RANK": "3"},
    unset=["LEFT"],
    error_file=None,
    title="[rank 3/8]",
    cpus=[0, 2],
)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two connected ends."""
    ours, theirs = make_pair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "message",
    [
        messages.Configure("script", "train.py", ["torch"], False, {"OMP_NUM_THREADS": "2"}, []),
        START,
        messages.Reap(70),
        messages.Ready(),
        messages.Unsafe("threads"),
        messages.Started(3, 70),
        messages.Refused(3, 11),
        messages.Exited(70, 1, 3),
        messages.Reaped(70, 512),
    ],
    ids=lambda message: type(message).__name__,
)
def test_every_message_is_read_as_it_was_sent(message: messages.Message) -> None:
    read = messages.decode(messages.encode(message))
    assert (type(read), read) == (type(message), message)


def test_a_tuple_arrives_as_a_list() -> None:
    sent = START._replace(args=("a", "b"))
    assert messages.decode(messages.encode(sent)) == sent._replace(args=["a", "b"])


def test_descriptors_travel_beside_a_message(pair: Pair) -> None:
    read_end, write_end = os.pipe()
    messages.send(pair[0], START, [write_end])
    received = messages.receive(pair[1])
    assert received is not None
    message, (copy,) = received
    assert message == START
    assert not os.get_inheritable(copy)
    os.write(copy, b"x")
    assert os.read(read_end, 10) == b"x"
    for fd in (read_end, write_end, copy):
        os.close(fd)


@pytest.mark.parametrize("length", [1, 1 << 16], ids=["in a packet", "in a file"])
@pytest.mark.parametrize("number", [3, 250, 252])
def test_many_descriptors_travel_in_their_order(pair: Pair, number: int, length: int) -> None:
    """An engine may have given a process as many; the file of a long message comes on top."""
    read_end, write_end = os.pipe()
    handed = [write_end, *[read_end] * (number - 2), write_end]
    long = START._replace(args=["x" * length], inheritance=[0o22, 0, [0], [], [7]])
    messages.send(pair[0], long, handed)
    received = messages.receive(pair[1])
    assert received is not None
    message, copies = received
    assert message == long
    assert [os.path.sameopenfile(copy, read_end) for copy in copies] == [
        os.path.sameopenfile(fd, read_end) for fd in handed
    ]
    os.write(copies[-1], b"x")
    assert os.read(copies[1], 10) == b"x"
    for fd in (read_end, write_end, *copies):
        os.close(fd)


def test_what_a_process_of_an_engine_may_hand_over_goes_beside_one_message(pair: Pair) -> None:
    """Besides it: three streams, the working folder, and the file of a long message."""
    long = START._replace(args=["x" * (1 << 16)])
    messages.send(pair[0], long, [0] * (3 + 1 + MOST_HANDED))
    received = messages.receive(pair[1])
    assert received is not None
    assert len(received[1]) == 3 + 1 + MOST_HANDED
    for fd in received[1]:
        os.close(fd)


# Around the size at which a message no longer goes as a packet of its own, and far above it.
@pytest.mark.parametrize("length", [*range(32600, 32768, 7), 1 << 16, 3 << 20])
def test_messages_of_any_length_travel(pair: Pair, length: int) -> None:
    long = START._replace(args=["x" * length])
    messages.send(pair[0], long, [0])
    received = messages.receive(pair[1])
    assert received is not None
    message, descriptors = received
    assert message == long
    assert len(descriptors) == 1
    os.close(descriptors[0])


def test_messages_stay_whole_and_in_order(pair: Pair) -> None:
    sent = [messages.Started(rank, 70 + rank) for rank in range(50)]
    for message in sent:
        messages.send(pair[0], message)
    assert [messages.receive(pair[1]) for _ in sent] == [(message, []) for message in sent]


def test_the_end_of_the_other_side_is_none(pair: Pair) -> None:
    messages.send(pair[0], messages.Reap(70))
    pair[0].close()
    assert messages.receive(pair[1]) == (messages.Reap(70), [])
    assert messages.receive(pair[1]) is None


def test_the_end_of_a_side_that_left_something_unread_is_none(pair: Pair) -> None:
    messages.send(pair[1], messages.Reap(70))
    pair[0].close()
    assert messages.receive(pair[1]) is None


def test_who_does_not_want_to_wait_need_not(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        messages.receive(pair[1], wait=False)
