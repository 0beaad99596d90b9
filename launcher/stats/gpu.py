"""What the GPUs of this node do, as NVIDIA's management library tells it; nothing without that."""

from __future__ import annotations

from launcher.stats.figures import GpuUse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Gpus:
    """The GPUs of this node, through the module `pynvml` of nvidia-ml-py."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        # The package has an exception outside its tree for a driver that is older than itself.
        older = getattr(nvml, "NVMLLibraryMismatchError", nvml.NVMLError)
        self._errors = (nvml.NVMLError, older)
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        self._names = [_text(nvml.nvmlDeviceGetName(handle)) for handle in self._handles]

    def look(self) -> tuple[tuple[GpuUse, ...], dict[int, int]]:
        """Return what each GPU does, and the bytes there of each process.

        A container may not know the processes by their numbers: then they are missing.
        """
        gpus: list[GpuUse] = []
        by_process: dict[int, int] = {}
        for index, handle in enumerate(self._handles):
            memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, handle)
            rates = self._ask(self._nvml.nvmlDeviceGetUtilizationRates, handle)
            if memory is None:
                continue  # it has fallen off the bus
            busy = rates.gpu if rates is not None else None
            gpus.append(GpuUse(index, self._names[index], memory.used, memory.total, busy))
            for process in self._ask(self._nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ():
                used = process.usedGpuMemory or 0
                by_process[process.pid] = by_process.get(process.pid, 0) + used
        return tuple(gpus), by_process

    def _ask(self, question: Callable[[Any], Any], handle: Any) -> Any:
        try:
            return question(handle)
        except self._errors:
            return None  # not every GPU answers every question


def open_gpus() -> Gpus | None:
    """Return the GPUs of this node; None where there is no library or no driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        return Gpus(pynvml)
    except pynvml.NVMLError:
        return None


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode(errors="replace")
