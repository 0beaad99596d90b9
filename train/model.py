"""The network: one of torchvision with a new last layer, from ImageNet weights, a local file, or
nothing.

Owns weights, freezing, precision and the choice of batch normalisation. Knows nothing of pictures
and epochs.
"""

from __future__ import annotations

import argparse
import inspect
import os
import shutil
import socket
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from train.batch_norm import normalise_over_ranks
from train.errors import TrainerError, one_line, together

if TYPE_CHECKING:
    from launcher import Context

# Silence of the server after which a download is given up; torchvision would wait for ever.
DOWNLOAD_TIMEOUT_S = 30.0


def load_weights(ctx: Context, weights: str, arch: str) -> Mapping[str, Tensor] | None:
    """Return the state dict to start from, or None for `none`; a collective call.

    `imagenet` is downloaded by one rank per node, the others read its file afterwards. Raises
    SystemExit on all ranks.
    """
    if weights == "none":
        return None
    if weights == "imagenet":
        together(ctx, lambda: _imagenet(arch) if ctx.local_rank == 0 else None)
        return together(ctx, lambda: _imagenet(arch))
    return together(ctx, lambda: _from_file(weights))


def _imagenet(arch: str) -> Mapping[str, Tensor]:
    """ImageNet weights as the tutorial names them; downloads unless torch's cache has the file."""
    weights = torchvision.models.get_model_weights(arch).IMAGENET1K_V1
    with _timeout():
        try:
            state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
            return state
        except (
            OSError,
            RuntimeError,
            EOFError,
        ) as error:  # no internet, no space, an interrupted download
            raise TrainerError(
                f"the ImageNet weights of {arch} could not be downloaded from {weights.url}"
                f" ({one_line(error)}). Download that file elsewhere and give it with `--weights"
                f" FILE`, put it into {torch.hub.get_dir()}/checkpoints, or train from nothing with"
                " `--weights none`."
            ) from error


@contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _from_file(path: str) -> Mapping[str, Tensor]:
    """A state dict from `path`: torchvision's own files, or a model.pt or checkpoint.pt of this
    trainer.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrainerError(
            f"there is no weights file {path}; `--weights` takes imagenet, none or a file."
        ) from error
    except (
        Exception
    ) as error:  # torch.load raises whatever its unpickler meets in a file that is none of its own
        raise TrainerError(
            f"the weights file {path} cannot be read ({one_line(error)}). Fetch it again, or type"
            " `--weights imagenet` to download torchvision's, or `--weights none` to train from"
            " nothing."
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(v, Tensor) for v in state.values())
    ):
        raise TrainerError(
            f"the weights file {path} holds no state dict. Give a file that was written with "
            "torch.save(model.state_dict()), or type `--weights imagenet` or `--weights none`."
        )
    return state


def build_network(arch: str, num_classes: int, image_size: int) -> nn.Module:
    """A network of torchvision for so many classes, with new weights."""
    # A vision transformer knows the places of a picture's parts.
    size = {"image_size": image_size} if arch.startswith("vit") else {}
    return torchvision.models.get_model(arch, weights=None, num_classes=num_classes, **size)


def head(model: nn.Module) -> str:
    """The name of the last layer, which is new for new classes."""
    return [name for name, part in model.named_modules() if isinstance(part, nn.Linear)][-1]


def build_model(
    ctx: Context, args: argparse.Namespace, weights: Mapping[str, Tensor] | None, num_classes: int
) -> nn.Module:
    """Build the network with its new last layer, with `weights` in it, on the rank's device; not
    wrapped yet.

    Raises TrainerError if the weights are those of another network.
    """
    torch.manual_seed(args.seed)  # the same new weights on every rank
    model = build_network(args.model, num_classes, args.image_size)
    if weights is not None:
        _fill(model, weights, args.weights, args.model)
    if args.freeze_backbone:
        model.requires_grad_(False)
        model.get_submodule(head(model)).requires_grad_(True)
    if args.batch_norm == "sync" and ctx.world_size > 1 and not args.freeze_backbone:
        if ctx.device.type == "cuda" and ctx.backend == "nccl":
            # Torch's own is faster there, and has the same results.
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        else:
            normalise_over_ranks(model, ctx)
    if not ctx.is_main:  # what dropout leaves out is drawn for each rank anew
        torch.manual_seed(args.seed + ctx.rank)
    return model.to(ctx.device, memory_format=torch.channels_last)


def _fill(model: nn.Module, weights: Mapping[str, Tensor], source: str, arch: str) -> None:
    """Load `weights`, without the last layer where it was made for other classes."""
    own, last = model.state_dict(), f"{head(model)}."
    weights = _for_size(model, weights)
    state = {
        k: v for k, v in weights.items() if not k.startswith(last) or own.get(k, v).shape == v.shape
    }
    wrong = [
        k
        for k, v in own.items()
        if not k.startswith(last) and (k not in state or state[k].shape != v.shape)
    ]
    wrong += [k for k in state if k not in own]
    if wrong:
        raise TrainerError(
            f"the weights in {source} are not those of a {arch}: {len(wrong)} layers differ, the"
            f" first is {wrong[0]}. Name the network they were made for with `--model`, or type"
            " `--weights imagenet` or `--weights none`."
        )
    model.load_state_dict(state, strict=False)


def _for_size(model: nn.Module, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights of a vision transformer for the model's size of pictures; others as they are."""
    if not isinstance(model, VisionTransformer) or "encoder.pos_embedding" not in weights:
        return weights
    state: Mapping[str, Tensor] = interpolate_embeddings(
        model.image_size, model.patch_size, OrderedDict(weights)
    )
    return state


def require_compiler(backend: str, device: torch.device) -> None:
    """Raise TrainerError if torch.compile could not work with this backend here."""
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise TrainerError(f"--compile knows no backend {backend}; there are {', '.join(known)}.")
    compilers = (os.environ.get("CXX", "g++"), "clang++")
    if backend == "inductor" and device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise TrainerError(
            "--compile needs a C++ compiler, which this machine does not have. Type: apt-get"
            " install g++"
        )


def wrap_model(ctx: Context, args: argparse.Namespace, model: nn.Module) -> nn.Module:
    """Make the model one over all ranks."""
    if args.compile != "off":
        model.compile(backend=args.compile)
    # "sync" statistics are equal on all ranks already; torch 2.14 has a new name for the same
    # switch.
    names = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    wrapped = ctx.wrap(model, **{name: args.batch_norm == "local"})
    if ctx.world_size > 1:
        # DistributedDataParallel sorts its buckets anew after the first backward pass, which
        # changes the order of sums over 3 or more ranks. One pass without effect, and a resumed run
        # adds in the same order as an unbroken one.
        wrapped.eval()
        size = args.image_size
        with warnings.catch_warnings():
            # Said once, of a transformer's class token, whose one row has no stride that counts.
            warnings.filterwarnings("ignore", message="Grad strides do not match")
            wrapped(next(model.parameters()).new_zeros(1, 3, size, size)).sum().backward()
        wrapped.zero_grad(set_to_none=True)
    return wrapped


def gradients_stay_here(model: nn.Module, *, wanted: bool) -> AbstractContextManager[None]:
    """A context in which backward passes add to this rank's gradients, without any exchange, if
    that is wanted: the last pass of an optimizer's step exchanges their sum.
    """
    is_shared = isinstance(model, nn.parallel.DistributedDataParallel)
    context: AbstractContextManager[None] = (
        model.no_sync() if wanted and is_shared else nullcontext()
    )
    return context


def generators(device: torch.device) -> list[torch.Generator]:
    """What random numbers of the network come from; dropout draws on the device."""
    of_device = [torch.cuda.default_generators[device.index]] if device.type == "cuda" else []
    return [torch.default_generator, *of_device]


def set_training(model: nn.Module, *, frozen: bool) -> None:
    """Switch to training mode; a frozen backbone stays in evaluation mode, so that its statistics
    are frozen too.
    """
    model.train(not frozen)


def parameters_to_train(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [p for p in model.parameters() if p.requires_grad]


def choose_precision(asked: str, device: torch.device) -> torch.dtype:
    """The number format of the heavy layers; raises TrainerError for bf16 on a GPU that has
    none.
    """
    if asked == "fp32":
        return torch.float32
    on_gpu = device.type == "cuda"
    capable = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else cpu_has_bf16()
    if asked == "bf16" and on_gpu and not capable:
        raise TrainerError("this GPU does not compute in bfloat16; leave out `--precision bf16`.")
    return torch.bfloat16 if capable or asked == "bf16" else torch.float32


def cpu_has_bf16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """True if the processor multiplies in bfloat16 (avx512_bf16 or AMX); elsewhere it is emulated,
    and slow.
    """
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as file:
            flags = next((line.split() for line in file if line.startswith("flags")), [])
    except OSError:  # not Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
