"""What somebody asks at one node goes to all others, and only its own answers come back."""

from __future__ import annotations

from collections.abc import Callable

from launcher.nodes.messages import Answer, Ask
from launcher.nodes.questions import Inquiry, Questions


def test_an_answer_finds_who_has_asked_under_its_own_number() -> None:
    questions = Questions()
    first, second = (questions.pass_on(asker, Ask(1, "ps")) for asker in (4, 0))
    assert first.text == "ps" and first.number != second.number
    assert questions.bring_back(Answer(second.number, "h", "b")) == (0, Answer(1, "h", "b"))
    assert questions.bring_back(Answer(first.number, "h", "a")) == (4, Answer(1, "h", "a"))
    assert questions.bring_back(Answer(first.number, "h2", "c")) == (4, Answer(1, "h2", "c"))


def test_what_nobody_has_asked_goes_to_nobody() -> None:
    assert Questions().bring_back(Answer(1, "h", "a")) is None


def test_old_questions_are_forgotten() -> None:
    questions = Questions()
    numbers = [questions.pass_on(1, Ask(count, "ps")).number for count in range(65)]
    assert questions.bring_back(Answer(numbers[0], "h", "a")) is None
    assert questions.bring_back(Answer(numbers[1], "h", "a")) == (1, Answer(1, "h", "a"))


class _Loop:
    """A loop on which time goes on by hand."""

    def __init__(self) -> None:
        self.timers: dict[Callable[[], None], float] = {}

    def set_timer(self, callback: Callable[[], None], delay_s: float) -> None:
        self.timers[callback] = delay_s

    def cancel_timer(self, callback: Callable[[], None]) -> None:
        self.timers.pop(callback, None)


class _Member:
    """A node in an attempt with so many others."""

    def __init__(self, num_peers: int) -> None:
        self.num_peers = num_peers
        self.asked: list[Ask] = []

    def ask(self, number: int, text: str) -> None:
        self.asked.append(Ask(number, text))


def begin(num_peers: int) -> tuple[Inquiry, _Loop, _Member, list[list[tuple[str, str]]]]:
    """Return a question that is asked, and where its answers go."""
    loop, member = _Loop(), _Member(num_peers)
    inquiry = Inquiry(loop, member)  # type: ignore[arg-type]
    done: list[list[tuple[str, str]]] = []
    inquiry.begin("ps", 2.5, done.append)
    return inquiry, loop, member, done


def test_answers_are_handed_over_when_all_are_there() -> None:
    inquiry, loop, member, done = begin(2)
    number = member.asked[0].number
    assert member.asked == [Ask(number, "ps")] and list(loop.timers.values()) == [2.5]
    inquiry.take([Answer(number, "h1", "a")])
    assert done == []
    inquiry.take([Answer(number, "h2", "b"), Answer(number + 1, "h3", "of another")])
    assert done == [[("h1", "a"), ("h2", "b")]]
    assert loop.timers == {}
    inquiry.take([Answer(number, "h1", "again")])
    assert len(done) == 1


def test_what_has_come_in_time_is_handed_over() -> None:
    inquiry, loop, member, done = begin(2)
    inquiry.take([Answer(member.asked[0].number, "h1", "a")])
    next(iter(loop.timers))()
    assert done == [[("h1", "a")]]


def test_a_node_alone_asks_nobody() -> None:
    _, loop, member, done = begin(0)
    assert (member.asked, loop.timers, done) == ([], {}, [[]])


def test_each_question_gets_its_own_answers() -> None:
    inquiry, loop, member, done = begin(1)
    inquiry.begin("stacks", 15.0, done.append)
    first, second = (question.number for question in member.asked)
    inquiry.take([Answer(second, "h1", "of stacks")])
    assert done == [[("h1", "of stacks")]]
    next(iter(loop.timers))()
    assert done == [[("h1", "of stacks")], []]
    inquiry.take([Answer(first, "h1", "late")])
    assert len(done) == 2
