"""Batch normalisation over the pictures of all ranks, for any processor and any backend of the
context.

Plain batch normalisation sees only its own rank's part of the batch, so 2 ranks with 4 pictures
each learn something else than 1 rank with 8. torch's SyncBatchNorm mends that on GPUs only. Here
the sums go through `ctx.all_reduce`, two small calls per layer and step, and the heavy passes stay
in torch's own fused kernels. Owns nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from launcher import Context


def _local_statistics(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean, biased variance and number of values per channel of this rank's part, in double
    precision.
    """
    channels = x.shape[1]
    count = x.numel() // channels
    wide = torch.promote_types(x.dtype, torch.float32)
    scratch = torch.zeros(
        channels, device=x.device, dtype=wide
    )  # its type is what the kernel computes and returns
    if count == 0:  # the last batch may have fewer pictures than there are ranks
        return scratch.double(), scratch.double(), 0
    mean, var = torch.batch_norm_update_stats(x, scratch, scratch.clone(), 0.0)
    return mean.double(), var.double(), count


class _NormaliseOverRanks(torch.autograd.Function):
    """y = (x - mean) / std * weight + bias, with mean and std of the whole batch; differentiable
    through both.
    """

    @staticmethod
    def forward(
        fn: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, ctx: Context
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var, count = _local_statistics(x)
        # Sums in float64: E[x^2] - E[x]^2 loses all digits of float32 when the mean is large.
        sums = torch.cat(
            [mean * count, (var + mean * mean) * count, mean.new_tensor([float(count)])]
        )
        sums = ctx.all_reduce(sums, "sum")
        total = sums[-1]
        mean, square = (sums[:-1] / total).chunk(2)
        var = (square - mean * mean).clamp_(min=0)
        mean, var = mean.to(weight.dtype), var.to(weight.dtype)
        out = F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)
        fn.save_for_backward(x, weight, mean, var, total)
        fn.eps, fn.ctx = eps, ctx
        fn.mark_non_differentiable(mean, var, total)
        return out, mean, var, total

    @staticmethod
    def backward(fn: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, var, total = fn.saved_tensors
        # As if mean and variance were constants: this rank's sums, and the part of the gradient
        # without them.
        if x.numel():
            grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, mean, var, None, None, False, fn.eps, [True, True, True]
            )
        else:
            grad_x, grad_weight, grad_bias = (
                torch.zeros_like(x),
                torch.zeros_like(mean),
                torch.zeros_like(mean),
            )
        sums = fn.ctx.all_reduce(torch.cat([grad_weight, grad_bias]).double(), "sum") / total
        through_std, through_mean = sums.to(weight.dtype).chunk(2)
        # Then the part through them, -(weight / std) * (x_hat * through_std + through_mean): again
        # a normalisation with other factors, so the same fused kernel does it, in float32 inside
        # also where x is bfloat16.
        scale = -weight * torch.rsqrt(var + fn.eps)
        grad_x += F.batch_norm(
            x, mean, var, scale * through_std, scale * through_mean, training=False, eps=fn.eps
        )
        return grad_x, grad_weight, grad_bias, None, None


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm2d whose training statistics cover the pictures of all ranks; same state, same
    results as on one.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, *, ctx: Context
    ) -> None:
        super().__init__(num_features, eps, momentum)
        self._ctx = ctx

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`; in training a collective call, and so is its backward."""
        if not self.training:
            return super().forward(x)
        out, mean, var, total = _NormaliseOverRanks.apply(
            x, self.weight, self.bias, self.eps, self._ctx
        )
        with torch.no_grad():
            unbiased = var * (total / (total - 1).clamp(min=1)).to(var.dtype)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked.add_(1)
        return out


def normalise_over_ranks(model: nn.Module, ctx: Context) -> None:
    """Put a GlobalBatchNorm2d with the same state in place of each BatchNorm2d."""
    for parent in list(model.modules()):
        for name, part in parent.named_children():
            if isinstance(part, nn.BatchNorm2d):
                new = GlobalBatchNorm2d(part.num_features, part.eps, part.momentum, ctx=ctx)
                new.load_state_dict(part.state_dict())
                for parameter, old in zip(new.parameters(), part.parameters(), strict=True):
                    parameter.requires_grad_(old.requires_grad)
                setattr(parent, name, new)
