"""Ends of connections over loopback, and what they hear: words for tests of those who connect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from launcher.nodes.link import Link, Listener, connect, listen
from launcher.nodes.messages import Message
from launcher.nodes.wire import Credentials
from launcher.plan.nodes import NodeGroup
from launcher.system.loop import Loop

CREDENTIALS = Credentials("run", b"hush")
OTHER_RUN = Credentials("another run", b"hush")

# Nothing on loopback takes so long.
_PATIENCE_S = 10.0


def make_group(host: str = "127.0.0.1", port: int = 0, **fields: Any) -> NodeGroup:
    numbers = {"min_nodes": 2, "max_nodes": 2, "node_rank": None}
    return NodeGroup(run_id="run", host=host, port=port, **{**numbers, **fields})


class Server:
    """Somebody who listens: what it has heard, and from whom."""

    def __init__(
        self,
        loop: Loop,
        credentials: Credentials = CREDENTIALS,
        answer: Callable[[dict[str, Any], Link], dict[str, object]] = lambda greeting, link: {},
        host: str = "127.0.0.1",
    ) -> None:
        """answer: to whoever greets; see `Listener`."""
        listening = listen((host, 0, 0, 0) if ":" in host else (host, 0))
        self.address: tuple[Any, ...] = listening.getsockname()
        self.heard: list[Message] = []
        self.listener = Listener(
            *(loop, listening, credentials, answer),
            on_message=lambda link, message: self.heard.append(message),
            on_close=lambda link, error: None,
        )

    @property
    def links(self) -> list[Link]:
        """The connections over which somebody has proved that it belongs to the run."""
        return list(self.listener.links)

    @property
    def port(self) -> int:
        return self.listener.port

    def say(self, *messages: Message) -> None:
        for link in self.links:
            for message in messages:
                link.send(message)

    def close(self) -> None:
        self.listener.close()


class Caller:
    """Somebody who has connected: what it has heard, and how the connection has ended."""

    def __init__(
        self, loop: Loop, address: tuple[Any, ...], credentials: Credentials = CREDENTIALS
    ) -> None:
        self.heard: list[Message] = []
        self.error: Exception | None = None
        self.link = connect(
            *(loop, address, credentials),
            on_open=lambda link: None,
            on_message=lambda link, message: self.heard.append(message),
            on_close=lambda link, error: self._note_end(error),
        )

    @property
    def is_open(self) -> bool:
        return self.link.is_open

    def _note_end(self, error: Exception) -> None:
        self.error = error


class Place:
    """This host: who listens and who calls there, on one loop; all of them go in the end."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        # What is to be called in the end.
        self.at_end: list[Callable[[], object]] = []

    def serve(self, *args: Any, **options: Any) -> Server:
        """Let somebody listen; see `Server`."""
        server = Server(self.loop, *args, **options)
        self.at_end.append(server.close)
        return server

    def call(self, *args: Any) -> Caller:
        """Let somebody connect; see `Caller`."""
        caller = Caller(self.loop, *args)
        self.at_end.append(caller.link.close)
        return caller

    def until(self, condition: Callable[[], object]) -> None:
        """Let the loop go on until something has happened."""
        self.loop.set_timer(_give_up, _PATIENCE_S)
        while not condition():
            self.loop.turn(lambda event: None)
        self.loop.cancel_timer(_give_up)

    def close(self) -> None:
        for end in self.at_end:
            end()


def _give_up() -> NoReturn:
    raise AssertionError("nothing happens any more")
