"""Horovod below the context: the same collectives as dist.py, and its optimizer.

Horovod is imported inside the functions. What is not a collective (devices, one rank alone) is
dist.py's.
"""

from __future__ import annotations

from typing import Any

from launcher.errors import LauncherError
from launcher.ranks import Place
from launcher.worker.dist import TorchGroup, choose_device, import_torch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.worker.dist import Module, Optimizer, Tensor

# Horovod matches messages by name, and would take the type's: ranks that pass None where one passes
# a list never meet.
_OBJECT = "launcher.object"

_BUILD_HINT = "Type, in a checkout of the launcher: scripts/build_horovod"


def make_group(place: Place, environ: Mapping[str, str]) -> TorchGroup:
    """Bring the ranks together with Horovod; alone there is nothing to bring together."""
    torch = import_torch()
    if place.world_size == 1:
        return TorchGroup(torch, 0, 1, _device(torch, place, environ), "horovod", owned=False)
    hvd = _import_horovod(torch)
    owned = not hvd.is_initialized()
    hvd.init()
    if (hvd.rank(), hvd.size()) != (place.rank, place.world_size):
        raise LauncherError(
            f"Horovod says rank {hvd.rank()} of {hvd.size()}, the environment says rank"
            f" {place.rank} of {place.world_size}.",
            hint=(
                "Start the script with: python -m launcher --backend horovod, horovodrun, or"
                " mpirun."
            ),
        )
    return HorovodGroup(torch, hvd, place, _device(torch, place, environ), owned=owned)


def _device(torch: Any, place: Place, environ: Mapping[str, str]) -> Any:
    return choose_device(torch, place, "nccl" if torch.cuda.is_available() else "gloo", environ)


def _import_horovod(torch: Any) -> Any:
    try:
        import horovod.torch as hvd
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "horovod":
            raise
        raise LauncherError(
            "backend='horovod', but Horovod is not installed in this Python.", hint=_BUILD_HINT
        ) from None
    except ImportError as error:
        if "libmpi.so" in str(error):
            raise LauncherError(
                "Horovod cannot be loaded: the runtime of the MPI that it was built with is missing"
                " (libmpi.so).",
                hint="On Debian or Ubuntu, type: apt-get install openmpi-bin",
            ) from None
        raise _misfit(torch, str(error).partition("\n")[0]) from error
    if not hasattr(hvd, "init"):
        raise _misfit(torch, "it was built without its extension for torch")
    built_for = _built_for(hvd)
    if built_for not in ("", torch.__version__):
        raise _misfit(torch, f"it was built for torch {built_for}")
    return hvd


def _built_for(hvd: Any) -> str:
    """Return the version of torch that Horovod was built for, "" where it does not say."""
    import json
    import os

    folder = os.path.dirname(os.path.dirname(os.path.abspath(hvd.__file__)))
    try:
        with open(os.path.join(folder, "metadata.json"), encoding="utf-8") as file:
            return str(json.load(file).get("pytorch", ""))
    except (OSError, ValueError):
        return ""


def _misfit(torch: Any, why: str) -> LauncherError:
    return LauncherError(
        f"The installed Horovod does not go with torch {torch.__version__}: {why}.",
        hint=f"Build it for this torch. {_BUILD_HINT}",
    )


class HorovodGroup(TorchGroup):
    """The ranks of this run as Horovod sees them."""

    def __init__(self, torch: Any, hvd: Any, place: Place, device: Any, *, owned: bool) -> None:
        super().__init__(torch, place.rank, place.world_size, device, "horovod", owned=owned)
        self._hvd = hvd

    def wrap(self, model: Module, ddp_kwargs: Mapping[str, Any]) -> Module:
        """Move a model to this rank's device and make it rank 0's on all ranks.

        What is meant for DDP has no meaning.
        """
        # Horovod sends contiguous tensors only, and gradients have the layout of their parameters.
        model = model.to(self.device, memory_format=self._torch.contiguous_format)
        self._hvd.broadcast_parameters(model.state_dict(), root_rank=0)
        return model

    def wrap_optimizer(self, optimizer: Optimizer, model: Module) -> Optimizer:
        """Return an optimizer in rank 0's state that averages all gradients in each step."""
        self._hvd.broadcast_optimizer_state(optimizer, root_rank=0)
        named = [
            (name, parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]
        return self._hvd.DistributedOptimizer(optimizer, named_parameters=named)

    def all_gather(self, value: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks in order of rank; their shapes may differ."""
        value = value.detach().contiguous()
        shapes = [
            self._torch.Size(shape)
            for shape in self._hvd.allgather_object(tuple(value.shape), name=_OBJECT)
        ]
        flat = self._hvd.allgather(value.reshape(-1))
        parts = flat.split([shape.numel() for shape in shapes])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def broadcast_object(self, value: Any, src: int) -> Any:
        """Return the object that rank `src` holds, on every rank."""
        self._check_rank("src", src)
        return self._hvd.broadcast_object(value, root_rank=src, name=_OBJECT)

    def gather_object(self, value: Any, dst: int) -> list[Any] | None:
        """Return the objects of all ranks in order of rank, on rank `dst`; None on the others."""
        self._check_rank("dst", dst)
        values: list[Any] = self._hvd.allgather_object(value, name=_OBJECT)
        return values if self.rank == dst else None

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self._hvd.barrier()

    def close(self) -> None:
        """Leave Horovod if init() joined it."""
        if self._owned:
            self._owned = False
            self._hvd.shutdown()

    def abandon(self) -> None:
        """Do nothing: Horovod tells the other ranks by itself that this one has gone."""

    def _reduce(self, tensor: Tensor, op: str) -> Tensor:
        hvd = self._hvd
        op = {"mean": hvd.Sum, "sum": hvd.Sum, "min": hvd.Min, "max": hvd.Max}[op]
        reduced: Tensor = hvd.allreduce(tensor, op=op)
        return reduced
