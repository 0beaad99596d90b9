"""What a node keeps for rank 0: a port for torch's store, and a store for Horovod."""

from __future__ import annotations

import re
import socket
from itertools import pairwise

import pytest

from launcher.horovod.service import HorovodService
from launcher.nodes.stores import Stores
from launcher.system.loop import Loop
from tests.conftest import find_free_port


def is_free(port: int) -> bool:
    """Tell whether another program could have a port."""
    with socket.socket() as other:
        try:
            other.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_a_port_is_kept_from_others_until_rank_0_is_known_to_be_elsewhere() -> None:
    stores = Stores(0, None)
    port = stores.master_port
    assert not is_free(port)
    stores.close()
    assert is_free(port)
    stores.close()  # again: no error


def test_each_attempt_has_another_port() -> None:
    stores = Stores(0, None)
    ports = [stores.master_port]
    for _ in range(5):
        stores.renew()
        ports.append(stores.master_port)
    assert all(before != after for before, after in pairwise(ports))
    assert not is_free(ports[-1])
    stores.close()


def test_a_port_is_kept_again_after_rank_0_was_elsewhere() -> None:
    stores = Stores(0, None)
    stores.close()
    stores.renew()
    assert not is_free(stores.master_port)
    stores.close()


def test_a_port_that_the_user_has_chosen_is_that_of_every_attempt() -> None:
    port = find_free_port()
    stores = Stores(port, None)
    stores.renew()
    assert stores.master_port == port
    assert is_free(port)  # rank 0 binds it
    stores.close()


def test_without_horovod_there_is_no_store_for_it() -> None:
    stores = Stores(0, None)
    assert stores.open_for_horovod() == ""
    stores.close()


def test_horovods_store_is_named_by_port_and_a_path_that_nobody_guesses(loop: Loop) -> None:
    stores = Stores(0, HorovodService(loop, {}, is_elastic=False))
    first, second = stores.open_for_horovod(), stores.open_for_horovod()
    assert first != second
    for name in (first, second):
        assert re.fullmatch(r"\d+/\w{16,}", name), name
    port = int(second.partition("/")[0])
    # It is there for the ranks of other hosts, too.
    with socket.create_connection(("127.0.0.2", port), timeout=5):
        pass
    stores.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
