"""Averages the gradients of DistributedDataParallel by a function of ours, at the end of backward.

DistributedDataParallel hands over a bucket of gradients as soon as it is full, in the midst of the
backward pass. All buckets are kept until its end: a rank that waited for the others within it would
wait for ever if they were waiting for it in another collective of the same pass, such as the sums
of a batch normalisation over ranks.
"""

from __future__ import annotations

from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.nn import Module

# Arguments of DistributedDataParallel with which it does not hand its buckets over as said above.
_OTHER_WAYS = frozenset(("process_group", "device_mesh", "mixed_precision", "static_graph"))


class GradientAverage:
    """Takes the buckets of wrapped models; `average` does one in place, a collective call."""

    def __init__(self, torch: Any, average: Callable[[Tensor], None]) -> None:
        self._torch, self._average = torch, average
        self._num_models = 0
        self._kept: list[tuple[int, int, Tensor, Any]] = []

    def serve(self, model: Any, options: dict[str, Any]) -> None:
        """Serve a wrapped model from its first forward pass on, unless the script has its own hook.

        model: a DistributedDataParallel. options: what it was made with.
        """
        if _OTHER_WAYS & options.keys() or _has_sparse_gradients(model):
            return
        number = self._num_models
        self._num_models += 1

        def register(*_: Any) -> None:
            handle.remove()
            # Both can be set between the wrapping and the first pass.
            if not model._comm_hooks and not model.static_graph:
                # Annotations of a hook must be torch's own classes, or missing.
                model.register_comm_hook(None, lambda _, bucket: self._keep(number, bucket))

        handle = model.register_forward_pre_hook(register)

    def _keep(self, number: int, bucket: Any) -> Any:
        """Return what will hold the averaged bucket at the end of the backward pass."""
        future = self._torch.futures.Future()
        self._kept.append((number, bucket.index(), bucket.buffer(), future))
        try:
            self._torch.autograd.Variable._execution_engine.queue_callback(self._average_kept)
        except (
            RuntimeError
        ):  # not in a backward pass: a rank that has no data left joins the others
            self._average_kept()
        return future

    def _average_kept(self) -> None:
        # Ranks may have filled the buckets of two models in different orders.
        kept, self._kept = sorted(self._kept, key=lambda one: one[:2]), []
        for _, _, gradients, future in kept:
            self._average(gradients)
            future.set_result(gradients)


def _has_sparse_gradients(model: Module) -> bool:
    return any(getattr(module, "sparse", False) is True for module in model.modules())
