"""What attached ranks derive for themselves: an address for all hosts, a name for their job."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace

import pytest

from launcher.attached.script import job_key
from launcher.ranks import Place
from launcher.system.network import own_address


class _NoRoute(socket.socket):
    def connect(self, address: object) -> None:
        raise OSError(101, "Network is unreachable")


def test_a_host_without_a_default_route_gives_its_name_and_not_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "socket", _NoRoute)
    assert own_address() == os.uname().nodename


def test_hosts_that_share_a_folder_for_temporary_files_keep_their_notes_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Place("openmpi", world_size=4, local_world_size=2)
    keys = []
    for name in ("h1", "h1", "h2"):
        monkeypatch.setattr(os, "uname", lambda name=name: SimpleNamespace(nodename=name))
        keys.append(job_key(place, {"PMIX_NAMESPACE": "7"}, 29500))
    assert keys[0] == keys[1] != keys[2]
