"""Addresses, names and interfaces of this host and of others."""

from __future__ import annotations

import os
import socket
from typing import NoReturn

import pytest

from launcher.events import Started
from launcher.system import network
from launcher.system.loop import Loop
from launcher.system.network import own_address


class _NoRoute(socket.socket):
    def connect(self, address: object) -> None:
        raise OSError(101, "Network is unreachable")


def test_a_host_without_a_default_route_gives_its_name_and_not_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "socket", _NoRoute)
    assert own_address() == os.uname().nodename


@pytest.mark.parametrize(
    ("address", "interface"), [("127.0.0.1", "lo"), ("198.51.100.1", ""), ("no address", "")]
)
def test_the_interface_of_an_address_is_found(address: str, interface: str) -> None:
    assert network.find_interface(address) == interface


def test_a_number_is_an_address_without_any_look_up() -> None:
    assert network.resolve("10.0.0.1", 29400, is_numeric=True) == ([("10.0.0.1", 29400)], "")
    assert network.resolve("fd00::1", 1, is_numeric=True) == ([("fd00::1", 1, 0, 0)], "")
    addresses, why = network.resolve("node0", 29400, is_numeric=True)
    assert addresses == [] and why


def test_a_name_is_looked_up_without_holding_up_the_loop() -> None:
    found: list[object] = []
    with Loop(()) as loop:
        network.Lookup(loop, "localhost", 29400, lambda *answer: found.append(answer))
        assert found == []  # it comes in a turn of the loop
        while not found:
            loop.turn(lambda event: None)
    assert ("127.0.0.1", 29400) in found[0][0] and found[0][1] == ""  # type: ignore[index]


def test_a_lookup_that_is_cancelled_is_not_heard_of() -> None:
    with Loop(()) as loop:
        lookup = network.Lookup(loop, "localhost", 1, lambda *answer: pytest.fail("heard of"))
        lookup.cancel()
        lookup.cancel()  # again: no error
        loop.post(Started(0, 1))
        loop.turn(lambda event: None)


def test_own_names_are_known_without_any_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> NoReturn:
        raise AssertionError("a name is looked up")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    nodename = os.uname().nodename
    assert all(map(network.is_own, ("localhost", nodename, "127.0.0.1", "127.9.9.9")))
    assert not any(map(network.is_own, ("nowhere", "192.0.2.1", "2001:db8::1", nodename + "x")))
