#!/usr/bin/env python
"""How long N nodes take to come together at one coordinator: real connections on loopback.

    python -m benchmarks.rendezvous [N ...]

One process is the coordinator, as it is in a supervisor; another has all the nodes, each with a
connection of its own, its proofs and its messages. Timed from the first connection to the last node
that knows its rank. For comparison, 4,000 hosts took 10 s (pytorch/pytorch pull request 124982).
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from typing import Any

from launcher.nodes.link import Link, Listener, connect, listen
from launcher.nodes.messages import Assigned, Join, Message
from launcher.nodes.rendezvous import Rendezvous
from launcher.nodes.restart import RestartPolicy
from launcher.nodes.rules import OWN, Route, Rules
from launcher.nodes.wire import Credentials
from launcher.system.loop import Loop
from launcher.system.processes import allow_open_files

CREDENTIALS = Credentials("benchmark", b"a secret of this benchmark")

# How many connections are begun at once.
_WINDOW = 500


def measure(num_nodes: int) -> float:
    """Return the seconds in which so many nodes have come together."""
    allow_open_files(for_children=False)
    with Loop(()) as loop:
        coordinator = _Coordinator(loop, num_nodes)
        command = [sys.executable, "-m", "benchmarks.rendezvous", "--nodes", str(num_nodes - 1)]
        nodes = subprocess.Popen(
            [*command, str(coordinator.port)], stdout=subprocess.PIPE, text=True
        )
        assert nodes.stdout is not None
        answer: list[str] = []
        loop.watch(nodes.stdout.fileno(), lambda: answer.append(nodes.stdout.readline()))  # type: ignore[union-attr,func-returns-value]
        while not answer:
            loop.turn(lambda event: None)
        loop.unwatch(nodes.stdout.fileno())
        coordinator.close()
        nodes.wait()
    return float(answer[0])


class _Coordinator:
    def __init__(self, loop: Loop, num_nodes: int) -> None:
        self._loop = loop
        rules = Rules("benchmark", num_nodes, num_nodes, RestartPolicy(), hostname="here")
        self._rendezvous = Rendezvous(rules, loop.clock())
        self._rendezvous.handle(OWN, _make_join(0, num_nodes), loop.clock(), Route())
        self._links: dict[int, Link] = {}
        self._listener = Listener(
            loop,
            listen(("127.0.0.1", 0)),
            CREDENTIALS,
            lambda greeting, link: {},
            self._hear,
            lambda link, error: None,
        )
        self.port = self._listener.port

    def _hear(self, link: Link, message: Message) -> None:
        if link.key not in self._links:
            link.key = len(self._links) + 1
            self._links[link.key] = link
        self._rendezvous.handle(link.key, message, self._loop.clock(), Route(*link.ends))
        outbox, self._rendezvous.outbox = self._rendezvous.outbox, []
        for key, answer in outbox:
            if key != OWN:
                self._links[key].send(answer)

    def close(self) -> None:
        self._listener.close()


def _make_join(number: int, num_nodes: int) -> Join:
    alike = {"the script": "train.py (0123456789ab)", "the version of torch": "2.14.1"}
    name = f"{number:016x}"
    return Join(name, f"node{number}", 8, -1, num_nodes, num_nodes, 0, alike, "", 29500, 29501)


def _be_nodes(number: int, port: int) -> None:
    """Be so many nodes; print how long it took until all knew their ranks."""
    allow_open_files(for_children=False)
    ranks: list[int] = []
    links: list[Link] = []
    numbers = itertools.count(1)
    with Loop(()) as loop:

        def begin() -> None:
            links.append(connect(loop, ("127.0.0.1", port), CREDENTIALS, join, hear, lose))

        def join(link: Link) -> None:
            link.send(_make_join(next(numbers), number + 1))
            if len(links) < number:
                begin()

        def hear(link: Link, message: Message) -> None:
            assert isinstance(message, Assigned)
            ranks.append(message.node_rank)

        def lose(link: Link, error: Any) -> None:
            raise error

        started_at = time.perf_counter()
        for _ in range(min(number, _WINDOW)):
            begin()
        while len(ranks) < number:
            loop.turn(lambda event: None)
        seconds = time.perf_counter() - started_at
        assert sorted(ranks) == list(range(1, number + 1))
        print(seconds, flush=True)
        for link in links:
            link.close()


def main() -> None:
    """Print the table."""
    counts = [int(text) for text in sys.argv[1:]] or [1000, 10_000]
    print(f"{'nodes':>8} {'seconds':>8} {'ms per node':>12}")
    for count in counts:
        seconds = sorted(measure(count) for _ in range(3))[1]
        print(f"{count:>8} {seconds:>8.2f} {1000 * seconds / count:>12.3f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--nodes"]:
        _be_nodes(int(sys.argv[2]), int(sys.argv[3]))
        os._exit(0)
    main()
