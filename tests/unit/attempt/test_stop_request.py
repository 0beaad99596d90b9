"""Which signal asks to stop, and which one forces."""

from __future__ import annotations

import signal

from launcher.attempt.stop import StopRequest

TERM, INT = signal.SIGTERM, signal.SIGINT


def test_the_second_signal_forces() -> None:
    said: list[str] = []
    request = StopRequest(said.append)
    assert [request.note(TERM), request.note(INT), request.note(TERM)] == [True, False, False]
    assert said == ["received SIGTERM; stopping, a second one forces"]
    assert request.signum == TERM


def test_at_a_time_limit_slurm_sends_sigterm_twice_and_means_it_once() -> None:
    now = 100.0
    request = StopRequest(lambda text: None, comes_twice=True, clock=lambda: now)
    assert request.note(TERM)
    now += 0.003
    assert request.note(TERM)
    assert not request.note(INT)
    now += 10.0
    assert not request.note(TERM)


def test_the_word_of_another_node_is_not_the_first_of_two() -> None:
    said: list[str] = []
    request = StopRequest(said.append)
    assert request.note_elsewhere(TERM, "node 1 (h2) received SIGTERM")
    assert [request.note(TERM), request.note(TERM)] == [True, False]
    assert said == ["node 1 (h2) received SIGTERM; stopping"]


def test_what_another_launcher_says_on_the_same_screen_is_not_said_again() -> None:
    said: list[str] = []
    request = StopRequest(said.append, is_quiet=True)
    assert request.note_elsewhere(TERM, "node 0 (h1) received SIGTERM")
    assert said == []
