"""When a node looks for its coordinator again, and what it says when there is none."""

from __future__ import annotations

import pytest

from launcher.nodes.search import HAS_GONE, IS_STRANGER, Search


def test_the_next_look_is_after_a_pause_that_grows_up_to_a_second() -> None:
    search = Search(600.0, 100.0)
    for pause_s in (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0):
        search.miss("why", 100.0)
        assert search.next_at == pytest.approx(100.0 + pause_s)
        assert not search.begin_look(100.0 + pause_s - 0.001)
        assert search.begin_look(100.0 + pause_s + 0.001)


def test_a_look_is_begun_once_and_not_after_somebody_was_reached() -> None:
    search = Search(600.0, 100.0)
    assert not search.begin_look(200.0)  # the first one is under way
    search.miss("why", 100.0)
    assert search.begin_look(101.0)
    assert not search.begin_look(102.0)
    search.miss("why", 102.0)
    search.pause()
    assert not search.begin_look(110.0)


def test_the_time_to_join_bounds_all_looks() -> None:
    search = Search(20.0, 100.0)
    search.miss("why", 119.0)
    assert not search.has_failed(119.9)
    assert search.has_failed(120.0)


@pytest.mark.parametrize(
    ("why", "hint"),
    [
        (f"what is at h:1 {IS_STRANGER}", "Choose another port"),
        ("at h:1 another run is served, with another --rdzv-id", "Type the same --rdzv-id"),
        ("h:1 cannot be reached: connection refused", "Is the launcher running on that node"),
        ("h:1 does not answer (the connection timed out)", "A firewall may drop"),
        ("h:1 cannot be reached: No route to host", "A firewall may drop"),
        (f"{HAS_GONE}: the connection to it broke (refused)", "See what the launcher has said"),
        ("the name h is not known here", "Name the first node by an address"),
    ],
)
def test_the_last_obstacle_is_named_with_what_to_do(why: str, hint: str) -> None:
    search = Search(20.0, 100.0)
    search.miss("something else", 100.0)
    search.note_obstacle(why)
    error = search.make_error()
    assert error.message == f"In 20 s no coordinator was found: {why}."
    assert error.hint is not None and error.hint.startswith(hint)
    assert search.explain_delay() == (
        f"no coordinator is found yet: {why}; waiting at most 20 s"
        " (--rdzv-conf join_timeout=SECONDS)"
    )
