"""Which connections a rank ends before MPI's own end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from launcher.attached.last_word import end_connections, open_sockets


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connect(stack: ExitStack, own_address: str) -> tuple[socket.socket, socket.socket]:
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    address = listener.getsockname()
    ours = stack.enter_context(socket.create_connection(address, source_address=(own_address, 0)))
    ours.settimeout(5.0)
    theirs, _ = listener.accept()
    return ours, stack.enter_context(theirs)


def is_open(ours: socket.socket, theirs: socket.socket) -> bool:
    try:
        theirs.sendall(b"x")
        return ours.recv(1) == b"x"
    except OSError:
        return False


def test_only_new_connections_within_this_host_are_ended(stack: ExitStack) -> None:
    old = connect(stack, "127.0.0.1")
    known = frozenset(open_sockets())
    peer = connect(stack, "127.0.0.1")
    elsewhere = connect(stack, "127.0.0.2")  # as if the other end were another host
    pipe = socket.socketpair()
    stack.enter_context(pipe[0])
    stack.enter_context(pipe[1])
    end_connections(os.getpid(), known)
    assert [is_open(*pair) for pair in (old, peer, elsewhere, pipe)] == [True, False, True, True]


def test_a_process_that_the_script_has_forked_ends_nothing(stack: ExitStack) -> None:
    known = frozenset(open_sockets())
    peer = connect(stack, "127.0.0.1")
    end_connections(os.getpid() + 1, known)
    assert is_open(*peer)
