"""What somebody asks at one node, on its way to all others, and the answers on their way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from launcher.nodes.messages import Answer, Ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.nodes.member import Member
    from launcher.system.loop import Loop

# How many questions may wait for answers at the coordinator.
_MOST_QUESTIONS = 64


class Questions:
    """The questions that go through this coordinator, under numbers of its own."""

    def __init__(self) -> None:
        # Number -> who has asked, and its own number for the question.
        self._asked: dict[int, tuple[int, int]] = {}
        self._num_asked = 0

    def pass_on(self, asker: int, question: Ask) -> Ask:
        """Return what the others are asked for the node with this key."""
        self._num_asked += 1
        self._asked[self._num_asked] = (asker, question.number)
        self._asked.pop(self._num_asked - _MOST_QUESTIONS, None)
        return question._replace(number=self._num_asked)

    def bring_back(self, answer: Answer) -> tuple[int, Answer] | None:
        """Return who has asked, and the answer as it is told there; None if nobody has."""
        asker, number = self._asked.get(answer.number, (None, 0))
        return None if asker is None else (asker, answer._replace(number=number))


class Inquiry:
    """What somebody on this host asks all nodes: one question at a time."""

    def __init__(self, loop: Loop, member: Member) -> None:
        self._loop = loop
        self._member = member
        self._number = 0
        self._expected = 0
        # Host and text of each answer that has come.
        self._answers: list[tuple[str, str]] = []
        # Who is to have them; None while nothing is asked.
        self._on_done: Callable[[list[tuple[str, str]]], None] | None = None

    def begin(
        self, text: str, timeout_s: float, on_done: Callable[[list[tuple[str, str]]], None]
    ) -> None:
        """Ask; `on_done` gets what has come once all have answered, or the time is over."""
        self._end()
        self._number += 1
        self._expected, self._answers, self._on_done = self._member.num_peers, [], on_done
        if self._expected:
            self._loop.set_timer(self._end, timeout_s)
            self._member.ask(self._number, text)
        else:
            self._end()

    def take(self, answers: Iterable[Answer]) -> None:
        """Take what other nodes have answered, be it too late."""
        if self._on_done is None:
            return
        self._answers += [(one.hostname, one.text) for one in answers if one.number == self._number]
        if len(self._answers) >= self._expected:
            self._end()

    def _end(self) -> None:
        self._loop.cancel_timer(self._end)
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done(self._answers)
