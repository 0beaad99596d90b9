"""GPUs as stand-ins tell of them: one for NVIDIA's package, one for the library below it."""

from __future__ import annotations

import builtins
import sys
from types import ModuleType, SimpleNamespace
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


class FakeLibrary:
    """What the package finds in libnvidia-ml: functions that fill what pointers lead to.

    Two GPUs, of which the second one has no utilization rates. Two processes are on each.
    """

    def __init__(self, pynvml: ModuleType) -> None:
        self._nvml = pynvml
        self._numbers: dict[int, int] = {}

    def nvmlInitWithFlags(self, flags: int) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:  # noqa: N802
        self._numbers[id(handle._obj)] = index.value
        return 0

    def nvmlDeviceGetName(self, handle: Any, name: Any, size: Any) -> int:  # noqa: N802
        name.value = b"GPU %d" % self._numbers[id(handle)]
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:  # noqa: N802
        memory._obj.used, memory._obj.total = 10 + self._numbers[id(handle)], 100
        return 0

    def nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:  # noqa: N802
        if self._numbers[id(handle)] == 1:
            return int(self._nvml.NVML_ERROR_NOT_SUPPORTED)
        rates._obj.gpu = 55
        return 0

    def nvmlDeviceGetComputeRunningProcesses_v3(  # noqa: N802
        self, handle: Any, count: Any, processes: Any
    ) -> int:
        if processes is None:
            count._obj.value = 2
            return int(self._nvml.NVML_ERROR_INSUFFICIENT_SIZE)
        count._obj.value = 2
        processes[0].pid, processes[0].usedGpuMemory = 17, 5
        unknown = self._nvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value
        processes[1].pid, processes[1].usedGpuMemory = 18, unknown
        return 0


@pytest.fixture
def pynvml(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """NVIDIA's own package, on a library that needs no GPU."""
    module = pytest.importorskip("pynvml")
    monkeypatch.setattr(module, "nvmlLib", FakeLibrary(module))
    monkeypatch.setattr(module, "_nvmlGetFunctionPointer_cache", {})
    assert isinstance(module, ModuleType)
    return module


@pytest.mark.usefixtures("pynvml")
def test_the_package_of_nvidia_is_asked_as_it_wants_to_be() -> None:
    gpus = open_gpus()
    assert gpus is not None
    found, by_process = gpus.look()
    assert found == (GpuUse(0, "GPU 0", 10, 100, 55), GpuUse(1, "GPU 1", 11, 100, None))
    assert by_process == {17: 10, 18: 0}


def test_a_driver_that_is_older_than_the_package_tells_what_it_knows(
    pynvml: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(FakeLibrary, "nvmlDeviceGetComputeRunningProcesses_v3")
    gpus = open_gpus()
    assert gpus is not None
    found, by_process = gpus.look()
    assert [gpu.memory for gpu in found] == [10, 11]
    assert by_process == {}
