"""GPUs as a stand-in for NVIDIA's library tells of them."""

from __future__ import annotations

import builtins
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.stats.figures import GpuUse
from launcher.stats.gpu import Gpus, open_gpus


class FakeNvml:
    """Two GPUs; the second one has no utilization rates, and a process whose memory is unknown."""

    class NVMLError(Exception):
        """What the library raises."""

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:  # noqa: N802
        return "H200" if handle == 0 else b"A100"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=10 + handle, total=100)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        if handle == 1:
            raise self.NVMLError
        return SimpleNamespace(gpu=55)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:  # noqa: N802
        known = SimpleNamespace(pid=17, usedGpuMemory=5)
        return [known] if handle == 0 else [known, SimpleNamespace(pid=18, usedGpuMemory=None)]


def test_each_gpu_is_told_of_and_what_each_process_has_there() -> None:
    gpus, by_process = Gpus(FakeNvml()).look()
    assert gpus == (GpuUse(0, "H200", 10, 100, 55), GpuUse(1, "A100", 11, 100, None))
    assert by_process == {17: 10, 18: 0}


def test_there_are_none_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name == "pynvml":
            raise ImportError
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert open_gpus() is None


def test_there_are_none_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDriver(FakeNvml):
        def nvmlInit(self) -> None:  # noqa: N802
            raise self.NVMLError

    monkeypatch.setitem(sys.modules, "pynvml", NoDriver())  # type: ignore[arg-type]
    assert open_gpus() is None
