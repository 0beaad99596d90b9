"""What somebody asks at one node, on its way to all others, and the answers on their way back."""

from __future__ import annotations

from launcher.nodes.messages import Answer, Ask

# How many questions may wait for answers at the coordinator.
_MOST_QUESTIONS = 64


class Questions:
    """The questions that go through this coordinator, under numbers of its own. Pure."""

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
