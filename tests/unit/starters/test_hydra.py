"""What is said to MPICH's process manager at the other end of a socket, and what comes of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from launcher.errors import RendezvousError
from launcher.starters.hydra import can_exchange, exchange

ANSWERS = {
    "init": "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0",
    "get_my_kvsname": "cmd=my_kvsname kvsname=kvs_1_h1",
    "put": "cmd=put_result rc=0 msg=success",
    "barrier_in": "cmd=barrier_out",
    "get": "cmd=get_result rc=0 msg=success value=h1,10.0.0.1;secret",
    "finalize": "cmd=finalize_ack",
}


class Hydra:
    """Answers the commands that it is given answers for; the others it lets wait."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.heard: list[str] = []
        self.ours, self._theirs = socket.socketpair()
        self._answers = answers
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._theirs.makefile("rb") as lines:
            for line in lines:
                command = line.decode().strip()
                self.heard.append(command.removeprefix("cmd="))
                answer = self._answers.get(command.split()[0].removeprefix("cmd="))
                if answer is not None:
                    self._theirs.sendall(answer.encode() + b"\n")

    def close(self) -> None:
        self.ours.shutdown(socket.SHUT_RDWR)
        self.ours.close()
        self._thread.join(10.0)
        self._theirs.close()


@pytest.fixture
def answers() -> dict[str, str]:
    return dict(ANSWERS)


@pytest.fixture
def hydra(answers: dict[str, str]) -> Iterator[Hydra]:
    serving = Hydra(answers)
    yield serving
    serving.close()


def _environ(hydra: Hydra, rank: int) -> dict[str, str]:
    return {"PMI_FD": str(hydra.ours.fileno()), "PMI_RANK": str(rank), "PMI_SIZE": "3"}


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_0_puts_its_word_down_and_all_read_it(hydra: Hydra, rank: int) -> None:
    found = exchange(_environ(hydra, rank), "h1,10.0.0.1;secret", 10.0)
    assert found == ("kvs_1_h1", "h1,10.0.0.1;secret")
    put = ["put kvsname=kvs_1_h1 key=launcher value=h1,10.0.0.1;secret"] if rank == 0 else []
    assert hydra.heard == [
        *("init pmi_version=1 pmi_subversion=1", "get_my_kvsname", *put),
        *("barrier_in", "get kvsname=kvs_1_h1 key=launcher", "finalize"),
    ]


def test_who_does_not_come_is_not_waited_for_without_end(
    answers: dict[str, str], hydra: Hydra
) -> None:
    del answers["barrier_in"]
    with pytest.raises(RendezvousError) as caught:
        exchange(_environ(hydra, 1), "", 0.01)
    assert "not all 3 of them have come in 0 s" in str(caught.value)
    assert "--rdzv-endpoint HOST" in str(caught.value)


def test_another_answer_than_hydra_s_is_an_error(answers: dict[str, str], hydra: Hydra) -> None:
    answers["get_my_kvsname"] = "cmd=what"
    with pytest.raises(RendezvousError, match="does not answer"):
        exchange(_environ(hydra, 1), "", 10.0)


def test_a_socket_that_is_closed_is_an_error() -> None:
    environ = {"PMI_FD": "1000000", "PMI_RANK": "0"}
    with pytest.raises(RendezvousError, match="does not answer"):
        exchange(environ, "", 1.0)


def test_hydra_is_there_where_it_has_left_a_socket() -> None:
    assert can_exchange({"PMI_FD": "6", "PMI_RANK": "0"})
    assert not can_exchange({"PMI_RANK": "0"})
    assert not can_exchange({"PMI_FD": "", "PMI_RANK": "0"})
