"""Processes that have gone for certain, and those of which nobody here can know."""

from __future__ import annotations

from launcher.system.identity import has_certainly_gone, whoami


def test_this_process_lives() -> None:
    assert not has_certainly_gone(whoami())


def test_a_number_that_is_of_another_process_now_has_gone() -> None:
    assert has_certainly_gone({**whoami(), "began": "1"})
    assert has_certainly_gone({**whoami(), "pid": 1 << 23})


def test_of_another_machine_boot_or_namespace_nothing_is_known() -> None:
    gone = {**whoami(), "began": "1"}
    assert not has_certainly_gone({**gone, "boot": "another"})
    assert not has_certainly_gone({**gone, "namespace": "pid:[1]"})
    assert not has_certainly_gone({})
    assert not has_certainly_gone({**gone, "began": ""})
