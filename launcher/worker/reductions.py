"""How the tensors of all ranks are combined into one.

On one node through shared memory, from the first calls on that make it worth while (exchange.py);
else small ones over Gloo straight from each rank to each other, because an all-reduce passes them
around a ring twice; else by torch's all-reduce. torch is handed in.
"""

from __future__ import annotations

from typing import Any

from launcher.worker.exchange import MOST_RANKS, combinations, open_exchange
from launcher.worker.gradients import GradientAverage, hands_over

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from launcher.worker.exchange import Exchange

# A script that reduces no more often than this is not worth the opening of an exchange.
_REDUCTIONS_WITHOUT_EXCHANGE = 3
# Messages of up to so many bytes go straight, from each of up to so many ranks to each other.
_DIRECT_BYTES, _DIRECT_RANKS = 1 << 16, 8
_DIRECT_TAG = 0x1A7  # apart from the messages that a script sends


class Reductions:
    """The sums, minima and maxima of one process group."""

    def __init__(
        self,
        torch: Any,
        rank: int,
        world_size: int,
        backend: str,
        group_for: Callable[[Tensor | None], Any],
        *,
        shares_node: bool,
    ) -> None:
        """`group_for`: gives a tensor's process group. `shares_node`: this rank sees no other."""
        self._torch, self._dist = torch, torch.distributed
        self._rank, self._world_size, self._backend = rank, world_size, backend
        self._group_for = group_for
        self._shares_node = shares_node
        self._gradients = GradientAverage(torch, self._average)
        self._exchange: Exchange | None = None
        # Reductions until all ranks ask each other for shared memory, whatever each of them knows;
        # None where they do not, or have.
        may_ask = 1 < world_size <= MOST_RANKS and backend != "mpi"
        self._until_exchange = _REDUCTIONS_WITHOUT_EXCHANGE if may_ask else None

    def reduce(self, tensor: Tensor, op: str) -> Tensor:
        """Return the "sum", "min" or "max" of all ranks' tensors; this one may be overwritten.

        Collective.
        """
        exchange = None if tensor.is_cuda else self._find_exchange()
        if exchange is not None and exchange.takes(tensor):
            exchange.all_reduce(tensor, op)
            return tensor
        is_small = tensor.numel() * tensor.element_size() <= _DIRECT_BYTES
        if self._backend == "gloo" and is_small and self._world_size <= _DIRECT_RANKS:
            return self._reduce_directly(tensor, op)
        reduce_op = getattr(self._dist.ReduceOp, op.upper())
        self._dist.all_reduce(tensor, reduce_op, group=self._group_for(tensor))
        return tensor

    def serve_gradients(self, model: Any, options: dict[str, Any]) -> None:
        """Average the gradients of a model on the CPU through shared memory, if there is some.

        Collective. model: a DistributedDataParallel, made with these options.
        """
        if hands_over(model, options) and self._find_exchange(at_once=True) is not None:
            self._gradients.serve(model)

    def close(self) -> None:
        """Leave the others, who may still wait for this rank."""
        if self._exchange is not None:
            self._exchange.close()
        self.abandon()

    def abandon(self) -> None:
        """Leave without a word: who waits hears from the kernel of this rank's end."""
        self._exchange = self._until_exchange = None

    def _reduce_directly(self, tensor: Tensor, op: str) -> Tensor:
        parts = [tensor] * self._world_size
        others = [rank for rank in range(self._world_size) if rank != self._rank]
        under_way = []
        for rank in others:
            parts[rank] = self._torch.empty_like(tensor)
            under_way.append(self._dist.irecv(parts[rank], rank, tag=_DIRECT_TAG))
        under_way += [self._dist.isend(tensor, rank, tag=_DIRECT_TAG) for rank in others]
        for work in under_way:
            work.wait()
        combine = combinations(self._torch)[op]
        result = parts[0]
        for part in parts[1:]:
            result = combine(result, part)
        return result

    def _average(self, gradients: Tensor) -> None:
        """Replace gradients by their mean over all ranks, computed as torch does it."""
        if self._exchange is not None and self._exchange.takes(gradients):
            self._exchange.all_reduce(gradients, factor=1 / self._world_size)
        else:
            self._dist.all_reduce(gradients.mul_(1 / self._world_size))

    def _find_exchange(self, *, at_once: bool = False) -> Exchange | None:
        """Return the shared memory, opened when it is worth it, or None without. Collective."""
        if self._until_exchange is None:
            return self._exchange
        if self._until_exchange > 0 and not at_once:
            self._until_exchange -= 1
            return None
        self._until_exchange = None
        group = self._group_for(None)
        default = self._dist.distributed_c10d._get_default_group()
        backend = (group or default)._get_backend(self._torch.device("cpu"))
        options = getattr(backend, "options", None)  # older versions of torch show none
        timeout = options._timeout if options else self._dist.distributed_c10d.default_pg_timeout
        self._exchange = open_exchange(
            self._torch,
            self._rank,
            self._world_size,
            timeout.total_seconds(),
            group,
            may_share=self._shares_node,
        )
        return self._exchange
