"""The address under which other hosts reach this one."""

from __future__ import annotations

import os
import socket

import pytest

from launcher.system.network import own_address


class _NoRoute(socket.socket):
    def connect(self, address: object) -> None:
        raise OSError(101, "Network is unreachable")


def test_a_host_without_a_default_route_gives_its_name_and_not_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "socket", _NoRoute)
    assert own_address() == os.uname().nodename
