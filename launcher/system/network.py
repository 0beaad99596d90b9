"""Addresses and ports of this host."""

from __future__ import annotations

import os
import socket

from launcher.errors import RendezvousError


def reserve_port(address: str) -> socket.socket:
    """Bind a free port without listening, so that nobody takes it before rank 0 does.

    The kernel gives a bound port to nobody who asks for any free one, but it does let rank 0 bind
    it by number, as long as both sides set SO_REUSEADDR and we do not listen.
    """
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((address, 0))
    return reserved


def own_address() -> str:
    """Return the address from which this host reaches others; its name where none stands out.

    No name server is asked.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address: nothing is sent
        except OSError:  # no default route, as on many a cluster's inner network
            return os.uname().nodename
        return str(probe.getsockname()[0])


def read_full_name() -> str:
    """Return this host's name with its domain, where /etc/hosts has it; else its name alone.

    No name server is asked.
    """
    name = os.uname().nodename
    try:
        with open("/etc/hosts", errors="replace") as file:
            lines = [line.partition("#")[0].split()[1:] for line in file]
    except OSError:
        return name
    names = next((names for names in lines if name in names), [])
    return next((other for other in names if other.startswith(f"{name}.")), name)


def check_name(name: str) -> None:
    """Raise RendezvousError where this node does not know the name; torch would ask for minutes."""
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        raise RendezvousError(
            f"The ranks are to meet at {name}, the first node of this job step, but this node"
            f" ({os.uname().nodename}) does not know that name: {error.strerror or error}.",
            hint="Name another address of it, the same for all ranks: MASTER_ADDR=ADDRESS srun ...",
        ) from None
