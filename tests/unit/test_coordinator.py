"""The coordinator of one node: a port for every attempt that nobody else gets, and that rank 0 can bind."""

from __future__ import annotations

import socket
from itertools import pairwise

from launcher.coordinator import LocalCoordinator
from launcher.restart import RestartPolicy


def test_each_attempt_has_a_port_of_its_own_on_loopback() -> None:
    coordinator = LocalCoordinator(2, RestartPolicy())
    try:
        assignments = [coordinator.join(attempt) for attempt in range(20)]
    finally:
        coordinator.close()
    assert [assignment.attempt for assignment in assignments] == list(range(20))
    assert {assignment.master_addr for assignment in assignments} == {"127.0.0.1"}
    assert all(one.master_port != two.master_port for one, two in pairwise(assignments))


def test_the_port_is_kept_from_others_and_given_to_rank_0() -> None:
    coordinator = LocalCoordinator(1, RestartPolicy())
    try:
        port = coordinator.join(0).master_port
        for _ in range(200):
            with socket.socket() as other:
                other.bind(("127.0.0.1", 0))
                assert other.getsockname()[1] != port
        with socket.socket() as rank_0:
            rank_0.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            rank_0.bind(("127.0.0.1", port))
            rank_0.listen()
            with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
                assert peer.getpeername()[1] == port
    finally:
        coordinator.close()


def test_an_address_that_the_user_chose_is_kept() -> None:
    coordinator = LocalCoordinator(1, RestartPolicy(), "10.0.0.1", 29500)
    assignment = coordinator.join(3)
    coordinator.close()
    assert (assignment.master_addr, assignment.master_port, assignment.attempt) == ("10.0.0.1", 29500, 3)
