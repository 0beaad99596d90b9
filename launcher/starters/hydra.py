"""MPICH's process manager, hydra: a word of rank 0 for the launchers of all nodes.

Hydra tells a process nothing of the other hosts, but keeps what one process puts down until all
have come, for all to read. Spoken is PMI-1, lines of text over a socket that each process
inherits; in the end hydra is told that nothing more comes, as MPI_Finalize does. MPI itself plays
no part. Nobody but the processes of the job can read what they put down.
"""

from __future__ import annotations

import os
import socket

from launcher.errors import RendezvousError
from launcher.starters.detect import Environ

_SOCKET = "PMI_FD"

_KEY = "launcher"

_MOST_BYTES = 4096


def can_exchange(environ: Environ) -> bool:
    """Tell whether hydra has started this process, and listens to it."""
    return environ.get(_SOCKET, "").isdecimal() and bool(environ.get("PMI_RANK"))


def exchange(environ: Environ, word: str, timeout_s: float) -> tuple[str, str]:
    """Return hydra's name of this job, and the word of the process with rank 0.

    Waits for the processes of all nodes. word: that of this process, which only rank 0 puts down;
    without spaces. Raises RendezvousError where they do not all come in time.
    """
    try:
        with socket.socket(fileno=os.dup(int(environ[_SOCKET]))) as hydra:
            hydra.settimeout(timeout_s)
            _ask(hydra, "init", "pmi_version=1 pmi_subversion=1")
            name = _ask(hydra, "get_my_kvsname")["kvsname"]
            if environ["PMI_RANK"] == "0":
                _ask(hydra, "put", f"kvsname={name} key={_KEY} value={word}")
            _ask(hydra, "barrier_in")
            found = _ask(hydra, "get", f"kvsname={name} key={_KEY}")["value"]
            _ask(hydra, "finalize")
    except (OSError, KeyError) as error:
        number = environ.get("PMI_SIZE", "")
        problem = (
            f"not all {number} of them have come in {timeout_s:.0f} s"
            if isinstance(error, TimeoutError)
            else "hydra, mpiexec's process manager, does not answer"
        )
        raise RendezvousError(
            f"The launchers that mpiexec has started cannot meet: {problem}.",
            hint="Say where: --rdzv-endpoint HOST, with the name of one of the hosts.",
        ) from None
    return name, found


def _ask(hydra: socket.socket, command: str, values: str = "") -> dict[str, str]:
    """Send one command and return the values of the answer, which is one line."""
    hydra.sendall(f"cmd={command} {values}".rstrip().encode() + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        received = hydra.recv(_MOST_BYTES)
        if not received:
            raise ConnectionResetError
        answer += received
    return dict(pair.split("=", 1) for pair in answer.decode().split() if "=" in pair)
