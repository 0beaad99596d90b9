"""torch.distributed below the context: process group, device, collectives, tear-down.

Owns every use of torch in this package; torch is imported inside the functions, so that loading
this file costs nothing and works without it, and handed to reductions.py. Knows
where this rank stands from a Place; knows nothing of signals, of the launcher's own variables or of
how the ranks were started.
"""

from __future__ import annotations

import sys
from typing import Any

from launcher.errors import LauncherError, UsageError
from launcher.ranks import Place
from launcher.starters.meeting import find_job_id, find_master
from launcher.worker import mpi_world
from launcher.worker.devices import choose_gpu
from launcher.worker.reductions import Reductions
from launcher.worker.threads import wait_until_idle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch import device as Device  # noqa: N812
    from torch.nn import Module
    from torch.optim import Optimizer

    __all__ = [
        "Device",
        "Module",
        "Optimizer",
        "Tensor",
        "TorchGroup",
        "choose_device",
        "import_torch",
        "make_group",
    ]

# For so many dimensions the message in which all_gather exchanges shapes, of fixed size, has room.
_MAX_DIMS = 15


def make_group(
    place: Place, environ: Mapping[str, str], backend: str, timeout_s: float | None
) -> TorchGroup:
    """Bring the ranks together: choose backend and device; initialise a group of several ranks.

    A process group that the script initialised itself is used as it is, and left to the script to
    destroy.
    """
    torch = import_torch()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return _adopt(torch, place, backend, environ)
    if backend == "auto":
        backend = "nccl" if torch.cuda.is_available() else "gloo"
    _check_backend(torch, place, environ, backend)
    device = choose_device(torch, place, backend, environ)
    if place.world_size > 1:
        _init_process_group(torch, place, environ, backend, device, timeout_s)
    return TorchGroup(
        torch,
        place.rank,
        place.world_size,
        device,
        backend,
        owned=place.world_size > 1,
        shares_node=place.local_world_size == place.world_size,
    )


class TorchGroup:
    """The ranks of this run as torch.distributed sees them; alone, a collective changes nothing.

    Tensors on a GPU travel over NCCL. All else (objects, numbers, barriers, tensors of the CPU)
    goes over Gloo, so that it neither waits for the GPU's queue nor takes memory there.
    """

    def __init__(
        self,
        torch: Any,
        rank: int,
        world_size: int,
        device: Device,
        backend: str,
        *,
        owned: bool,
        shares_node: bool = False,
    ) -> None:
        """`owned`: the process group is ours to end. `shares_node`: so it seems to this rank."""
        self.rank, self.world_size, self.device, self.backend = rank, world_size, device, backend
        self._torch = torch
        self._dist = torch.distributed
        self._owned = owned
        self._cpu_group: Any = None
        self._reductions = Reductions(
            torch, rank, world_size, backend, self._group_for, shares_node=shares_node
        )

    def wrap(self, model: Module, ddp_kwargs: Mapping[str, Any]) -> Module:
        """Move a model to this rank's device; with several ranks, into DistributedDataParallel."""
        ddp = self._torch.nn.parallel.DistributedDataParallel
        if isinstance(model, ddp):
            return model
        model = model.to(self.device)
        if self.world_size == 1:
            return model
        if not any(parameter.requires_grad for parameter in model.parameters()):
            # DDP refuses a model without gradients; what remains is to start from the same weights.
            for tensor in [*model.parameters(), *model.buffers()]:
                self._dist.broadcast(tensor.data, src=0, group=self._group_for(tensor))
            return model
        # One copy of the gradients instead of two.
        options = {"gradient_as_bucket_view": True, **ddp_kwargs}
        if self.device.type == "cuda":
            options.setdefault("device_ids", [self.device])
        wrapped = ddp(model, **options)
        if self.device.type == "cpu":
            self._reductions.serve_gradients(wrapped, options)
        return wrapped

    def unwrap(self, model: Module) -> Module:
        """Return the script's own model inside DistributedDataParallel and torch.compile."""
        while True:
            if isinstance(model, self._torch.nn.parallel.DistributedDataParallel):
                model = model.module
            elif hasattr(model, "_orig_mod"):
                model = model._orig_mod
            else:
                return model

    def reduce_tensor(self, value: Tensor, op: str) -> Tensor:
        """Combine a tensor of each rank into a new one, without gradient."""
        torch, value = self._torch, value.detach()
        if self.world_size == 1:
            return value.true_divide(1) if op == "mean" else value.clone()
        # Sums of many ranks in half precision lose digits; truth values have no sum.
        wider = {
            torch.float16: torch.float32,
            torch.bfloat16: torch.float32,
            torch.bool: torch.int64,
        }
        wide = value.to(wider.get(value.dtype, value.dtype), copy=True).contiguous()
        result = self._reduce(wide, op)
        if op == "mean":
            result = result.true_divide(self.world_size)
        is_truth = value.dtype is torch.bool and op in ("min", "max")
        return result.to(value.dtype) if value.is_floating_point() or is_truth else result

    def reduce_number(self, value: float, op: str) -> float:
        """Combine a number of each rank; an integer if it is one on all ranks. Exact up to 2^53."""
        if self.world_size > 1:
            # One rank may hold 0 where the others hold 0.5: all send the same type, and whether
            # theirs is a float.
            is_float = isinstance(value, float) * (-1 if op == "min" else 1)
            pair = self._torch.tensor([value, is_float], dtype=self._torch.float64)
            number, any_float = self._reduce(pair, op).tolist()
            value = number if any_float else int(number)
        return value / self.world_size if op == "mean" else value

    def all_gather(self, value: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks in order; shapes may differ, as those of a last batch."""
        value = value.detach().contiguous()
        if self.world_size == 1:
            return [value.clone()]
        shapes = self._all_shapes(value)
        sizes = [shape.numel() for shape in shapes]
        flat = value.new_zeros(max(sizes))
        flat[: value.numel()] = value.reshape(-1)
        parts = [self._torch.empty_like(flat) for _ in shapes]
        self._dist.all_gather(parts, flat, group=self._group_for(flat))
        return [
            part[:size].reshape(shape)
            for part, size, shape in zip(parts, sizes, shapes, strict=True)
        ]

    def broadcast_object(self, value: Any, src: int) -> Any:
        """Return the object that rank `src` holds, on every rank."""
        self._check_rank("src", src)
        if self.world_size == 1:
            return value
        box = [value if self.rank == src else None]
        self._dist.broadcast_object_list(box, src=src, group=self._group_for(None))
        return box[0]

    def gather_object(self, value: Any, dst: int) -> list[Any] | None:
        """Return the objects of all ranks in order of rank, on rank `dst`; None on the others."""
        self._check_rank("dst", dst)
        if self.world_size == 1:
            return [value]
        boxes = [None] * self.world_size if self.rank == dst else None
        self._dist.gather_object(value, boxes, dst=dst, group=self._group_for(None))
        return boxes

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            self._dist.barrier(group=self._group_for(None))

    def close(self) -> None:
        """Finish what is under way in the process group, and destroy it, if it is ours."""
        self._cpu_group = None
        self._reductions.close()
        if self._owned and self._dist.is_initialized():
            self._owned = False
            try:
                self._dist.destroy_process_group()
            except Exception:
                pass  # a peer died: that rank's failure is what the user must see, and not this one
        if self.world_size > 1:
            wait_until_idle()

    def abandon(self) -> None:
        """Keep the process group from being destroyed, also by the end of the interpreter.

        For a rank that failed: finishing what is under way would wait for ranks that now wait for
        this one.
        """
        import ctypes

        self._reductions.abandon()
        if self._owned:
            self._owned = False
            for group in self._dist.distributed_c10d._world.pg_map:
                # It never comes to its last reference.
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))

    def wrap_optimizer(self, optimizer: Optimizer, model: Module) -> Optimizer:
        """Return the optimizer itself: DistributedDataParallel has averaged the gradients."""
        return optimizer

    def _reduce(self, tensor: Tensor, op: str) -> Tensor:
        """Return the sum (also for a mean), minimum or maximum of all ranks' tensors.

        The tensor may be overwritten.
        """
        return self._reductions.reduce(tensor, "sum" if op == "mean" else op)

    def _all_shapes(self, value: Tensor) -> list[Any]:
        """Exchange the shapes (torch.Size) of all tensors by one small message of fixed size."""
        if value.dim() > _MAX_DIMS:
            raise UsageError(
                f"all_gather takes tensors of at most {_MAX_DIMS} dimensions, not {value.dim()}."
            )
        mine = self._torch.tensor([value.dim(), *value.shape, *[0] * (_MAX_DIMS - value.dim())])
        received = [self._torch.empty_like(mine) for _ in range(self.world_size)]
        self._dist.all_gather(received, mine, group=self._group_for(None))
        rows = [sizes.tolist() for sizes in received]
        return [self._torch.Size(row[1 : 1 + row[0]]) for row in rows]

    def _group_for(self, tensor: Tensor | None) -> Any:
        """Return the group for a tensor (None: an object): Gloo for the CPU, or the default."""
        if (tensor is not None and tensor.is_cuda) or self.backend != "nccl":
            return None
        # All ranks come here in the same collective, as new_group needs it.
        if self._cpu_group is None:
            self._cpu_group = self._dist.new_group(backend="gloo")
        return self._cpu_group

    def _check_rank(self, name: str, rank: int) -> None:
        if not 0 <= rank < self.world_size:
            raise UsageError(f"{name}={rank} is no rank: there are {self.world_size}, from 0.")


def import_torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise LauncherError(
            "launcher.init() needs PyTorch, which this Python does not have.",
            hint=f"Type: {sys.executable} -m pip install torch",
        ) from None
    return torch


def _adopt(torch: Any, place: Place, backend: str, environ: Mapping[str, str]) -> TorchGroup:
    """Use the process group that the script initialised before."""
    name = str(torch.distributed.get_backend())
    if backend != "auto" and backend not in name:
        raise UsageError(
            f"backend={backend!r}, but the script has initialised the process group with {name!r}.",
            hint="Leave backend= out, or let launcher.init() initialise it.",
        )
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if (rank, world_size) != (place.rank, place.world_size):
        # The script took its rank from elsewhere: then the process group is right.
        place = Place("script", rank, rank, world_size, world_size)
    device = choose_device(torch, place, "nccl" if "nccl" in name else "gloo", environ)
    shares_node = place.local_world_size == world_size
    return TorchGroup(torch, rank, world_size, device, name, owned=False, shares_node=shares_node)


def choose_device(torch: Any, place: Place, backend: str, environ: Mapping[str, str]) -> Device:
    """Return this rank's GPU, made the current one, for nccl; else the CPU."""
    if backend != "nccl":
        return torch.device("cpu")
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device("cuda", choose_gpu(place, num_gpus, environ))
    torch.cuda.set_device(device)
    return device


def _init_process_group(
    torch: Any,
    place: Place,
    environ: Mapping[str, str],
    backend: str,
    device: Device,
    timeout_s: float | None,
) -> None:
    from datetime import timedelta

    if backend == "mpi":  # knows the ranks by itself: there is no address to meet at
        torch.distributed.init_process_group("mpi")
        found = (torch.distributed.get_rank(), torch.distributed.get_world_size())
        mpi_world.check_same(found, (place.rank, place.world_size), "torch's MPI", environ)
        return
    address, port = find_master(place, environ)
    options: dict[str, Any] = {}
    if timeout_s is not None:
        options["timeout"] = timedelta(seconds=timeout_s)
    if backend == "nccl":
        # Connects now: a broken link shows here and not in the first step.
        options["device_id"] = device
    # env:// knows also of a store that torchrun's agent keeps.
    is_told = environ.get("MASTER_ADDR") and environ.get("MASTER_PORT")
    method = "env://" if is_told else f"tcp://{address}:{port}"
    try:
        torch.distributed.init_process_group(
            backend, method, rank=place.rank, world_size=place.world_size, **options
        )
    except torch.distributed.DistError as error:
        derived = f"derived from {find_job_id(place, environ)!r}"
        source = "MASTER_PORT" if environ.get("MASTER_PORT") else derived
        raise LauncherError(
            f"The {place.world_size} ranks did not meet at {address}, port {port} ({source}):"
            f" {error}",
            hint="If that port is taken, set MASTER_PORT to a free one, the same for all ranks.",
        ) from error


def _check_backend(torch: Any, place: Place, environ: Mapping[str, str], backend: str) -> None:
    """Refuse what this build of torch cannot do, before ranks wait for each other in vain."""
    if place.world_size > 1 and not torch.distributed.is_available():
        raise LauncherError(
            "This build of PyTorch has no torch.distributed, which several ranks need.",
            hint="Install one that has it (python -m pip install --force-reinstall torch).",
        )
    if backend == "mpi":
        if not (torch.distributed.is_available() and torch.distributed.is_mpi_available()):
            raise LauncherError(
                "backend='mpi', but this PyTorch was built without MPI"
                " (torch.distributed.is_mpi_available() is False), as all that pip installs are.",
                hint=(
                    "Use 'gloo' or 'nccl', also under mpirun, or 'horovod', which runs over MPI"
                    " there; ctx.mpi is mpi4py's communicator with each of them."
                ),
            )
        mpi_world.check_started("backend='mpi'", place.world_size, environ)
    if place.world_size > 1 and backend == "nccl" and not torch.distributed.is_nccl_available():
        raise LauncherError(
            "backend='nccl', but this build of PyTorch has no NCCL.", hint="Use 'gloo'."
        )
