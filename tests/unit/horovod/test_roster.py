"""Who may go on, who is replaced, and with which ranks: the rounds of elastic Horovod."""

from __future__ import annotations

import random

from launcher.horovod.roster import Roster


def met(num_workers: int) -> Roster:
    """A world in which all have met."""
    roster = Roster(num_workers)
    for local_rank in range(num_workers):
        assert not roster.admit()
        roster.ask(local_rank)
    assert roster.admit()
    return roster


def test_the_first_round_begins_when_all_have_come() -> None:
    assert met(3).members == [0, 1, 2]
    roster = Roster(2)
    roster.ask(0)
    assert (roster.admit(), roster.missing, roster.has_state) == (False, [1], False)


def test_a_worker_lost_before_the_first_round_leaves_nobody_with_a_state() -> None:
    roster = Roster(2)
    roster.ask(0)
    roster.leave(1)
    assert (roster.has_state, roster.invite(), roster.admit()) == (False, [], False)


def test_a_lost_worker_is_replaced_when_all_others_have_come_back() -> None:
    roster = met(3)
    roster.leave(1)
    assert roster.invite() == []
    roster.ask(2)
    assert (roster.invite(), roster.missing) == ([], [0])
    roster.ask(0)
    assert roster.invite() == [1]
    assert (roster.invite(), roster.admit(), roster.members) == ([], False, [0, 2])
    roster.ask(1)
    assert roster.admit()
    assert (roster.ranks, roster.members) == ([0, 1, 2], [0, 1, 2])


def test_the_lowest_survivor_becomes_rank_0_and_the_newcomer_takes_its_rank() -> None:
    roster = met(3)
    roster.leave(0)
    roster.ask(1)
    roster.ask(2)
    assert roster.invite() == [0]
    assert roster.ranks == [1, 0, 2]
    roster.leave(1)  # the heir is lost as well, while the newcomer is on its way
    assert roster.invite() == [1]
    assert roster.ranks == [1, 2, 0]
    roster.ask(0)
    roster.ask(1)
    assert roster.admit()


def test_a_newcomer_that_is_lost_before_it_came_is_replaced_at_once() -> None:
    roster = met(2)
    roster.leave(1)
    roster.ask(0)
    assert roster.invite() == [1]
    roster.leave(1)
    assert roster.invite() == [1]
    roster.ask(1)
    assert roster.admit()


def test_the_last_survivor_takes_the_state_with_it() -> None:
    roster = met(2)
    roster.leave(1)
    roster.ask(0)
    assert roster.invite() == [1]
    roster.leave(0)
    assert not roster.has_state
    assert roster.invite() == []


def test_a_survivor_that_ends_while_others_wait_is_not_waited_for() -> None:
    roster = met(3)
    roster.leave(1)
    roster.ask(2)
    roster.leave(0)
    assert roster.invite() == [0, 1]
    assert roster.ranks == [2, 1, 0]


def test_ranks_that_all_come_back_with_nobody_lost_meet_again() -> None:
    roster = met(2)
    roster.ask(0)
    roster.ask(1)
    assert roster.invite() == []
    assert roster.admit()


def test_whatever_happens_ranks_stay_a_permutation_and_rank_0_has_the_state() -> None:
    chance = random.Random(1)
    for _ in range(300):
        num_workers = chance.randint(2, 6)
        roster = met(num_workers)
        for _ in range(40):
            state = set(roster.members)
            chance.choice((roster.ask, roster.leave, roster.ask))(chance.randrange(num_workers))
            if roster.invite():
                assert 0 in roster.members
                assert set(roster.members) <= state | {0}
            assert sorted(roster.ranks) == list(range(num_workers))
            if roster.admit():
                assert roster.members == list(range(num_workers))
