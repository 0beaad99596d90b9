"""The coordinator of one node: a port for every attempt, which rank 0 can bind and nobody else."""

from __future__ import annotations

import socket
from itertools import pairwise

import pytest

from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.diagnosis.report import FailureReport
from launcher.horovod.service import HorovodService
from launcher.nodes.coordinator import LocalCoordinator
from launcher.nodes.restart import RestartPolicy
from launcher.ranks import make_places
from launcher.system.loop import Loop


def test_each_attempt_has_a_port_of_its_own_on_loopback() -> None:
    coordinator = LocalCoordinator(make_places(0, (2,)), RestartPolicy())
    try:
        assignments = [coordinator.join(attempt) for attempt in range(20)]
    finally:
        coordinator.close()
    assert [assignment.attempt for assignment in assignments] == list(range(20))
    assert {assignment.master_addr for assignment in assignments} == {"127.0.0.1"}
    assert all(one.master_port != two.master_port for one, two in pairwise(assignments))


def test_the_port_is_kept_from_others_and_given_to_rank_0() -> None:
    coordinator = LocalCoordinator(make_places(0, (1,)), RestartPolicy())
    try:
        port = coordinator.join(0).master_port
        with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
            other.bind(("127.0.0.1", port))
        with socket.socket() as rank_0:
            rank_0.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            rank_0.bind(("127.0.0.1", port))
            rank_0.listen()
            with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
                assert peer.getpeername()[1] == port
    finally:
        coordinator.close()


def test_an_address_that_the_user_chose_is_kept() -> None:
    coordinator = LocalCoordinator(make_places(0, (1,)), RestartPolicy(), "10.0.0.1", 29500)
    assignment = coordinator.join(3)
    coordinator.close()
    assert (assignment.master_addr, assignment.master_port, assignment.attempt) == (
        "10.0.0.1",
        29500,
        3,
    )


@pytest.mark.parametrize(
    ("is_elastic", "max_restarts", "expected"),
    [(True, 1, True), (True, 0, False), (False, 1, False)],
)
def test_lost_workers_are_replaced_only_by_elastic_programs_that_may_restart(
    is_elastic: bool, max_restarts: int, expected: bool
) -> None:
    with Loop(()) as loop:
        horovod = HorovodService(loop, {}, is_elastic=is_elastic)
        coordinator = LocalCoordinator(
            make_places(0, (2,)), RestartPolicy(max_restarts), horovod=horovod
        )
        assignment = coordinator.join(0)
        assert assignment.horovod_port
        assert (assignment.is_elastic, coordinator.elastic is not None) == (expected, expected)
        coordinator.close()


def test_each_attempt_has_a_store_of_its_own() -> None:
    with Loop(()) as loop:
        horovod = HorovodService(loop, {}, is_elastic=False)
        coordinator = LocalCoordinator(make_places(0, (2,)), RestartPolicy(1), horovod=horovod)
        addresses = [coordinator.join(attempt).horovod_addr for attempt in range(2)]
        assert addresses[0] != addresses[1]
        coordinator.close()


def test_a_replacement_is_taken_from_the_restarts() -> None:
    report = FailureReport(
        rank=1, pid=1, hostname="here", what="exit code 1", exit_code=1, duration_s=60.0
    )
    outcome = AttemptOutcome(0, (WorkerOutcome(rank=1, pid=1, returncode=1),), duration_s=60.0)
    with Loop(()) as loop:
        horovod = HorovodService(loop, {}, is_elastic=True)
        coordinator = LocalCoordinator(make_places(0, (2,)), RestartPolicy(1), horovod=horovod)
        coordinator.join(0)
        assert coordinator.elastic is not None
        assert coordinator.elastic.may_replace(report, 1)
        coordinator.elastic.note_replacement(report)
        assert not coordinator.elastic.may_replace(report, 1)
        assert coordinator.settle(outcome).reason == "all 1 restarts are used up"
        coordinator.close()
