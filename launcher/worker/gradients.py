"""Averages the gradients of DistributedDataParallel by a function of ours, at the end of backward.

DistributedDataParallel hands over a bucket of gradients as soon as it is full, in the midst of the
backward pass. All buckets are kept until its end: a rank that waited for the others within it would
wait for ever if they were waiting for it in another collective of the same pass, such as the sums
of a batch normalisation over ranks.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import Any

from launcher.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# Arguments of DistributedDataParallel with which it does not hand its buckets over as said above.
_OTHER_WAYS = (
    "delay_all_reduce_named_params",
    "device_mesh",
    "mixed_precision",
    "process_group",
    "static_graph",
)


def hands_over(model: Any, options: dict[str, Any]) -> bool:
    """Tell whether a DistributedDataParallel made with these options can be served."""
    is_other = any(options.get(name) not in (None, False) for name in _OTHER_WAYS)
    has_sparse = any(getattr(module, "sparse", False) is True for module in model.modules())
    return not is_other and not has_sparse


class GradientAverage:
    """Takes the buckets of wrapped models; `average` does one in place, a collective call."""

    def __init__(self, torch: Any, average: Callable[[Tensor], None]) -> None:
        self._torch, self._average = torch, average
        self._num_models = 0
        self._kept: list[_Kept] = []

    def serve(self, model: Any) -> None:
        """Serve a model that hands_over() allows, from its first pass with gradients on."""
        first_pass = _FirstPass(self, self._num_models)
        self._num_models += 1
        first_pass.handle = model.register_forward_pre_hook(first_pass)

    def register(self, model: Any, number: int) -> None:
        """Let a model hand its buckets to us, unless the script has seen to that itself.

        Not with the model's own register_comm_hook(), whose hooks are copied with the model.
        """
        # What can change between the wrapping and the first pass. In a join(), a rank without any
        # data has no first pass, and so nobody is served.
        if model._comm_hooks or model.static_graph or model._join_config.enable:
            return
        state = (number, weakref.ref(model))  # the model's reducer would keep the model alive
        with suppress(RuntimeError):  # the script has chosen one of torch's built-in hooks
            self._torch.distributed._register_comm_hook(model.reducer, state, self._keep)

    def is_wanted(self) -> bool:
        """Tell whether gradients are computed now, and the pass is not being compiled."""
        torch = self._torch
        return not torch.compiler.is_compiling() and bool(torch.is_grad_enabled())

    def _keep(self, state: tuple[int, Any], bucket: Any) -> Any:
        """Return what will hold the averaged bucket at the end of the backward pass."""
        number, model = state[0], state[1]()
        future = self._torch.futures.Future()
        kept = _Kept(number, bucket.index(), bucket.buffer(), future)
        if model._join_config.enable and not model._divide_by_initial_world_size:
            kept = kept._replace(present=self._torch.ones(1, device="cpu"))
        self._kept.append(kept)
        try:
            self._torch.autograd.Variable._execution_engine.queue_callback(self._average_kept)
        except (
            RuntimeError
        ):  # not in a backward pass: a rank that has no data left joins the others
            if kept.present is not None:
                kept.present.zero_()
            self._average_kept()
        return future

    def _average_kept(self) -> None:
        # Ranks may have filled the buckets of two models in different orders.
        kept, self._kept = sorted(self._kept, key=lambda one: one[:2]), []
        for one in kept:
            self._average(one.gradients)
            if one.present is not None:
                self._average(one.present)
                one.gradients.div_(one.present)
            one.future.set_result(one.gradients)


class _Kept(NamedTuple):
    """A bucket, until the end of the backward pass."""

    model: int
    place: int
    gradients: Tensor
    future: Any
    # One where this rank has data, else zero; None where gradients are divided by all ranks anyway.
    present: Tensor | None = None


class _FirstPass:
    """A forward pre-hook that registers a model in its first pass with gradients.

    Until then, the script may register a hook of its own. In a copy of the model it does nothing.
    """

    handle: Any = None

    def __init__(self, average: GradientAverage | None = None, number: int = 0) -> None:
        self._average, self._number = average, number

    def __call__(self, model: Any, args: Any) -> None:
        if self._average is not None and self._average.is_wanted():
            self.handle.remove()
            self._average.register(model, self._number)

    def __reduce__(self) -> tuple[type[_FirstPass], tuple[()]]:
        return _FirstPass, ()
