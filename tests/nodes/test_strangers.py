"""Nobody who cannot prove the secret can learn, change or stop anything, or cost anything."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.conftest import Completed, wait_until
from tests.lab.lab import Lab
from tests.nodes.conftest import PORT, WAITING, StartNodes

pytestmark = pytest.mark.slow

RunNodes = Callable[..., dict[str, Completed]]

# What a port scanner does, and worse; it prints all that it is told in return.
SCAN = """
import socket, sys, time
told, held = b"", []
def connect():
    sock = socket.create_connection(("10.77.0.1", 29400), 5)
    sock.settimeout(0.2)
    return sock
def hear(sock):
    global told
    try:
        while data := sock.recv(4096):
            told += data
    except OSError:
        pass
for _ in range(200):
    connect().close()
for junk in (b"GET / HTTP/1.0\\r\\n\\r\\n", b"\\xff" * 4096, b"\\0\\0\\0\\2{}", b"\\0\\0\\0\\4null",
             b"\\0\\0\\1\\0" + b"[" * 256, b"\\x7f\\xff\\xff\\xff", bytes(70000), b"\\0\\0"):
    sock = connect()
    try:
        sock.sendall(junk)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    hear(sock)
for _ in range(300):  # and holds the line
    held.append(connect())
print(repr(told), flush=True)
print("held", flush=True)
time.sleep(1000)
"""


def test_a_port_scanner_learns_and_stops_nothing(lab: Lab, start_nodes: StartNodes) -> None:
    # While the nodes still come together ...
    job = start_nodes(WAITING, "--rdzv-id", "my-id", hosts=("h1",), nnodes="2")
    wait_until(lambda: lab["h1"].listens(PORT), "h1 waits for the others")
    before = lab["h3"].start(sys.executable, "-c", SCAN)
    before.wait_for("held")
    job.nodes["h2"] = start_nodes(WAITING, "--rdzv-id", "my-id", hosts=("h2",), nnodes="2")["h2"]
    job.wait_for_ranks(2)
    # ... and while they run.
    after = lab["h3"].start(sys.executable, "-c", SCAN)
    after.wait_for("held")
    job.end()
    assert job.codes() == {"h1": 0, "h2": 0}, job.show()
    assert "attempt 1" not in job.show()
    assert all(node.err == "" for node in job.nodes.values()), job.show()
    for told in (before.out, after.out):
        assert "my-id" not in told and "hush" not in told and "script" not in told


def test_a_stranger_at_the_port_of_another_node_stops_nothing(
    lab: Lab, start_nodes: StartNodes
) -> None:
    """Each node may listen, for the day on which it takes the coordinator's place."""
    job = start_nodes(WAITING)
    job.wait_for_ranks(2)
    ask = """
import socket
ports = set()
for line in open("/proc/net/tcp").readlines()[1:] + open("/proc/net/tcp6").readlines()[1:]:
    words = line.split()
    if words[3] == "0A":
        ports.add(int(words[1].rpartition(":")[2], 16))
for port in ports:
    for junk in (b"", b"GET / HTTP/1.0\\r\\n\\r\\n", b"\\xff" * 9999):
        try:
            sock = socket.create_connection(("10.77.0.2", port), 1)
            sock.sendall(junk)
            sock.close()
        except OSError:
            pass
print(len(ports))
"""
    assert lab["h2"].run(sys.executable, "-c", ask).code == 0
    job.end()
    assert job.codes() == {"h1": 0, "h2": 0}, job.show()
