"""How a process is started, as far as that needs none."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from launcher.system import bare, processes


def test_a_process_that_cannot_be_made_leaves_signals_and_files_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A supervisor with its signals blocked would never hear of the workers that it has."""

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    before = set(os.listdir("/proc/self/fd"))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with pytest.raises(BlockingIOError):
            processes.launch_process(["true"], {}, {}, lambda: None)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
        assert set(os.listdir("/proc/self/fd")) == before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_a_c_library_without_settings_for_memory_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def call_another(name: str, *numbers: int) -> None:
        bare.call_c(f"{name}_of_another_library", *numbers)

    monkeypatch.setattr(processes, "call_c", call_another)
    processes.keep_freed_memory()
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(processes, "call_c", lambda *call: asked.append(call))
    processes.keep_freed_memory()
    assert [call[:2] for call in asked] == [("mallopt", -3), ("mallopt", -1)]
    assert len({value for *_, value in asked}) == 1
