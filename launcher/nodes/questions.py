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
    """What is asked on this host of all nodes."""

    def __init__(self, loop: Loop, member: Member) -> None:
        self._loop = loop
        self._member = member
        self._number = 0
        # Those that wait for answers, by number.
        self._open: dict[int, _Question] = {}

    def begin(
        self, text: str, timeout_s: float, on_done: Callable[[list[tuple[str, str]]], None]
    ) -> None:
        """Ask; `on_done` gets what has come once all have answered, or the time is over."""
        self._number += 1
        self._forget_ended()
        question = _Question(self._loop, self._member.num_peers, on_done)
        if not question.num_expected:
            question.end()
            return
        self._open[self._number] = question
        self._loop.set_timer(question.end, timeout_s)
        self._member.ask(self._number, text)

    def take(self, answers: Iterable[Answer]) -> None:
        """Take what other nodes have answered, be it too late."""
        for answer in answers:
            question = self._open.get(answer.number)
            if question is not None:
                question.take(answer)
        self._forget_ended()

    def _forget_ended(self) -> None:
        self._open = {number: one for number, one in self._open.items() if not one.has_ended}


class _Question:
    """One of them, until all have answered, or its time is over."""

    def __init__(
        self, loop: Loop, num_expected: int, on_done: Callable[[list[tuple[str, str]]], None]
    ) -> None:
        self._loop = loop
        self.num_expected = num_expected
        self._on_done = on_done
        # Host and text of each answer that has come.
        self._answers: list[tuple[str, str]] = []
        self.has_ended = False

    def take(self, answer: Answer) -> None:
        """Take one answer; the last one ends the question."""
        self._answers.append((answer.hostname, answer.text))
        if len(self._answers) >= self.num_expected:
            self.end()

    def end(self) -> None:
        """Hand over what has come, once."""
        self._loop.cancel_timer(self.end)
        if not self.has_ended:
            self.has_ended = True
            self._on_done(self._answers)
