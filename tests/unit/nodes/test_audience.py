"""No node goes before all know how the run has ended."""

from __future__ import annotations

from launcher.nodes.audience import Audience
from launcher.nodes.messages import Decided, Farewell, Message
from launcher.nodes.roster import Roster
from tests.unit.nodes.coming import make_roster, seat

END = Decided(2, "give_up", "why", 0.0, 7, {"rank": 1}, is_reporter=False, reporter="h0")


def gather(*names: str) -> tuple[Audience, Roster]:
    roster, _ = make_roster(*names)
    seat(roster, 2)
    return Audience(roster), roster


def keys_of(told: list[tuple[int, Message]], kind: type[Message]) -> list[int]:
    return [key for key, message in told if isinstance(message, kind)]


def test_the_first_node_shows_the_report_and_the_others_say_where_it_is() -> None:
    audience, _ = gather("a", "b", "c")
    told = dict(audience.gather(END, lingers=False))
    assert told == {0: END._replace(is_reporter=True), 1: END, 2: END}
    assert audience.end == END and audience.is_waiting


def test_all_may_go_when_the_last_has_heard_it() -> None:
    audience, _ = gather("a", "b", "c")
    audience.gather(END, lingers=False)
    assert [audience.note_heard(key) for key in (2, 0, 0, 7)] == [[], [], [], []]
    assert audience.lacks(1) and not audience.lacks(0)
    assert keys_of(audience.note_heard(1), Farewell) == [0, 1, 2]
    assert not audience.is_waiting
    assert audience.note_heard(1) == []


def test_spares_hear_it_too_and_show_nothing() -> None:
    roster, _ = make_roster("a", "b", "c")
    roster.seat([item for item in roster.rank_next() if item[0] == 1], 2)
    told = dict(Audience(roster).gather(END, lingers=False))
    assert told == {1: END._replace(is_reporter=True), 0: END, 2: END}


def test_who_has_brought_it_along_is_not_told_and_a_report_is_shown_once() -> None:
    audience, _ = gather("a", "b", "c")
    audience.note_knowing(0)
    told = dict(audience.gather(END._replace(is_reporter=True), lingers=False))
    assert told == {1: END, 2: END}  # the lost coordinator had told it to who shows it
    audience.note_heard(1)
    assert keys_of(audience.note_heard(2), Farewell) == [0, 1, 2]


def test_a_report_that_was_to_be_shown_elsewhere_is_shown_here() -> None:
    audience, _ = gather("a", "b")
    audience.note_knowing(0)
    told = dict(audience.gather(END, lingers=False))
    assert told == {1: END._replace(is_reporter=True)}


def test_where_all_know_it_all_may_go_at_once() -> None:
    audience, _ = gather("a", "b")
    audience.note_knowing(0)
    audience.note_knowing(1)
    assert audience.gather(END, lingers=False) == [(0, Farewell()), (1, Farewell())]


def test_each_node_is_told_it_of_its_own_last_attempt() -> None:
    audience, roster = gather("a", "b")
    roster[1].generation = 1
    told = audience.gather(END, lingers=False)
    assert [message.generation for _, message in told if isinstance(message, Decided)] == [2, 1]


def test_nobody_is_waited_for_without_end() -> None:
    audience, _ = gather("a", "b")
    audience.gather(END, lingers=True)
    audience.note_heard(0)
    assert keys_of(audience.give_up(), Farewell) == [0, 1]
    assert not audience.is_waiting
    assert audience.give_up() == []


def test_who_may_still_come_is_waited_for() -> None:
    audience, _ = gather("a")
    audience.gather(END, lingers=True)
    audience.note_heard(0)
    assert audience.is_waiting
    audience.give_up()
    assert not audience.is_waiting


def test_who_comes_again_hears_it_under_its_new_key() -> None:
    audience, roster = gather("a", "b")
    audience.gather(END, lingers=False)
    audience.note_heard(0)
    roster.forget(1)
    audience.be_absent(1, "member b")
    assert audience.is_waiting
    audience.come_late(9, "member b")
    assert audience.lacks(9) and not audience.lacks(1)
    assert keys_of(audience.note_heard(9), Farewell) == [0]


def test_who_comes_late_is_waited_for() -> None:
    audience, _ = gather("a", "b")
    audience.gather(END, lingers=True)
    audience.come_late(9, "member c")
    audience.note_heard(0)
    audience.note_heard(1)
    assert audience.lacks(9) and audience.is_waiting
