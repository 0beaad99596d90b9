"""When nothing moves: decided from measurements and a clock that the test turns."""

from __future__ import annotations

import pytest

from launcher.diagnosis.hang import HangWatch, Progress, look_interval_s


def test_nothing_has_moved_since_the_last_progress() -> None:
    watch = HangWatch(100.0, 4)
    assert watch.still_for(Progress(0, 1.0, None), 101.0) == 0
    assert watch.still_for(Progress(0, 1.0, None), 105.0) == 4
    assert watch.still_for(Progress(0, 1.0, None), 111.0) == 10


def test_output_is_progress() -> None:
    watch = HangWatch(0.0, 1)
    watch.still_for(Progress(10, 1.0, None), 0.0)
    assert watch.still_for(Progress(11, 1.0, None), 5.0) == 0
    assert watch.still_for(Progress(11, 1.0, None), 6.0) == 1


def test_cpu_time_is_progress_but_the_little_that_waiting_takes_is_not() -> None:
    watch = HangWatch(0.0, 2)
    watch.still_for(Progress(0, 1.0, None), 0.0)
    assert watch.still_for(Progress(0, 1.2, None), 10.0) == 10  # 1 % of a CPU per rank
    assert watch.still_for(Progress(0, 3.0, None), 20.0) == 0


def test_process_that_has_ended_is_progress() -> None:
    watch = HangWatch(0.0, 2)
    watch.still_for(Progress(0, 9.0, None), 0.0)
    assert watch.still_for(Progress(0, 4.0, None), 10.0) == 0


def test_heartbeat_replaces_output_and_cpu_time() -> None:
    watch = HangWatch(0.0, 2)
    assert watch.still_for(Progress(0, 1.0, 2.5), 3.0) == 2.5
    assert watch.still_for(Progress(99, 9.0, 12.5), 13.0) == 12.5


def test_time_in_which_the_job_was_stopped_does_not_count() -> None:
    watch = HangWatch(0.0, 2)
    watch.still_for(Progress(0, 1.0, None), 0.0)
    watch.restart(1000.0)
    assert watch.still_for(Progress(0, 1.0, None), 1001.0) == 0
    assert watch.still_for(Progress(0, 1.0, 990.0), 1003.0) == 3


@pytest.mark.parametrize(
    ("timeout_s", "interval_s"), [(0, 60.0), (0.5, 0.1), (10, 1.0), (600, 5.0)]
)
def test_it_looks_often_enough_to_be_in_time(timeout_s: float, interval_s: float) -> None:
    assert look_interval_s(timeout_s) == interval_s
