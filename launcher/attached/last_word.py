"""Ends an attached rank's connections before MPI's own end, which waits for the ranks that may wait
for them.

A rank that ends is missed by torch's Gloo as soon as its connections are closed. But where MPI has
been initialised, also if only to agree on a port, the end of the process first waits in
MPI_Finalize for all ranks: one that ends early and those that still expect it in a collective would
wait for each other.
"""

from __future__ import annotations

import atexit
import os
import socket
import stat


def end_connections_at_exit() -> None:
    """When this process ends, after all that the script does at exit, shut down the TCP connections
    made from now on.

    Those of MPI exist already, where all ranks are on one host: there it passes messages through
    memory.
    """
    atexit.register(_end_connections, os.getpid(), frozenset(_sockets()))


def _sockets() -> dict[int, int]:
    """Return the sockets of this process, each with a descriptor."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:  # the one that reads this folder
            continue
        if stat.S_ISSOCK(status.st_mode):
            found[status.st_ino] = int(name)
    return found


def _end_connections(pid: int, known: frozenset[int]) -> None:
    if os.getpid() != pid:  # a process that the script has forked: these are its parent's
        return
    for inode, fd in _sockets().items():
        if inode in known:
            continue
        try:
            with socket.socket(fileno=os.dup(fd)) as connection:
                if (
                    connection.family in (socket.AF_INET, socket.AF_INET6)
                    and connection.type == socket.SOCK_STREAM
                ):
                    # Raises for one that listens: Gloo's thread would abort the process.
                    connection.getpeername()
                    connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # not connected any more
            continue
