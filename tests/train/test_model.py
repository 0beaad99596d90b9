"""Weights, freezing, precision: what the network starts from, and what is said when it cannot."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
import torchvision

from train.errors import TrainerError
from train.model import (
    build_model,
    build_network,
    choose_precision,
    cpu_has_bf16,
    head,
    load_weights,
)
from train.options import MODELS, parse_args

Alone = Callable[..., object]


@pytest.fixture
def imagenet_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision keeps the ImageNet weights of a ResNet-18; the file does not exist yet, and
    no server is near.
    """
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request._opener", None)
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    file = tmp_path / "torch" / "hub" / "checkpoints" / url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    return file


def test_imagenet_weights_get_a_new_last_layer(
    alone: Alone, drawn_birds: Path, imagenet_file: Path, tmp_path: Path
) -> None:
    weights = torchvision.models.resnet18(num_classes=1000).state_dict()
    torch.save(weights, imagenet_file)
    done = alone("--data", drawn_birds, "--weights", "imagenet", "--freeze-backbone", "--epochs", 1)
    assert done.code == 0, done.err
    saved = torch.load(tmp_path / "outputs" / "model.pt", weights_only=True)
    assert saved["model"]["fc.weight"].shape == (2, 512)
    for (
        name,
        value,
    ) in weights.items():  # frozen: weights and statistics are exactly those of the file
        assert name.startswith("fc.") or torch.equal(saved["model"][name], value), name


class OneOfTwo:
    """A context of rank 1 on a node whose rank 0 is the one that downloads."""

    local_rank, is_main = 1, False
    calls: ClassVar[list[str]] = []

    def gather_object(self, value: object) -> list[object]:
        self.calls.append("agree")
        return [value]

    def broadcast_object(self, value: object) -> object:
        return value


def test_one_rank_of_a_node_downloads_and_the_others_read_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ctx = OneOfTwo()
    weights = SimpleNamespace(get_state_dict=lambda **options: ctx.calls.append("read"))
    found = SimpleNamespace(IMAGENET1K_V1=weights)
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda arch: found)
    load_weights(ctx, "imagenet", "resnet18")
    assert ctx.calls == [
        "agree",
        "read",
        "agree",
    ]  # the first agreement is that rank 0 has the file


def test_without_internet_the_message_says_what_works_instead(
    alone: Alone, drawn_birds: Path, imagenet_file: Path
) -> None:
    done = alone("--data", drawn_birds, "--weights", "imagenet")
    assert done.code == 2
    assert "could not be downloaded from https://download.pytorch.org/models/resnet18-" in done.err
    assert "`--weights FILE`" in done.err and "`--weights none`" in done.err
    assert done.err.count("train: error: ") == 1


@pytest.mark.parametrize("kind", ["missing", "garbage", "other network", "no state dict"])
def test_a_bad_weights_file_is_one_message(
    alone: Alone, drawn_birds: Path, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "weights.pt"
    if kind == "garbage":
        file.write_bytes(b"<html>not found</html>")
    elif kind == "other network":
        torch.save(torchvision.models.resnet50(num_classes=2).state_dict(), file)
    elif kind == "no state dict":
        torch.save([1, 2, 3], file)
    done = alone("--data", drawn_birds, "--weights", file)
    expected = {
        "missing": "there is no weights file",
        "garbage": "cannot be read",
        "other network": "are not those of a resnet18",
        "no state dict": "holds no state dict",
    }
    assert done.code == 2
    assert expected[kind] in done.err and "--weights" in done.err
    assert "Traceback" not in done.err


def test_the_best_model_can_be_loaded_by_torchvision_and_trained_on(
    alone: Alone, drawn_birds: Path, tmp_path: Path
) -> None:
    assert alone("--data", drawn_birds, "--epochs", 1).code == 0
    saved = torch.load(tmp_path / "outputs" / "model.pt", weights_only=True)
    assert saved["arch"] == "resnet18" and saved["classes"] == ["crow", "robin"]
    assert (saved["image_size"], saved["resize"], saved["mean"][0], saved["std"][0]) == (
        48,
        55,
        0.485,
        0.229,
    )
    torchvision.models.get_model(saved["arch"], num_classes=2).load_state_dict(saved["model"])
    file = tmp_path / "outputs" / "model.pt"
    assert (
        alone("--data", drawn_birds, "--epochs", 1, "--weights", file, "--output-dir", "again").code
        == 0
    )


def test_precision_follows_the_processor(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    info = tmp_path / "cpuinfo"
    for flags, expected in (
        ("fpu avx512_bf16 avx2", True),
        ("fpu amx_tile amx_bf16", True),
        ("fpu avx2", False),
    ):
        info.write_text(f"processor: 0\nflags\t\t: {flags}\n")
        assert cpu_has_bf16(str(info)) is expected
    assert cpu_has_bf16(str(tmp_path / "none")) is False
    assert choose_precision("fp32", cpu) is torch.float32
    assert choose_precision("bf16", cpu) is torch.bfloat16
    assert (choose_precision("auto", cpu) is torch.bfloat16) is cpu_has_bf16()


def test_a_loss_that_is_no_number_ends_with_advice(
    alone: Alone, drawn_birds: Path, tmp_path: Path
) -> None:
    done = alone("--data", drawn_birds, "--epochs", 2, "--lr", "1e30")
    assert done.code == 2
    assert "the loss is no number any more in epoch 1; try a smaller `--lr`" in done.err
    lines = (
        (tmp_path / "outputs" / "metrics.jsonl").read_text().splitlines()
    )  # strict JSON has no NaN
    assert [json.loads(line, parse_constant=pytest.fail)["loss"] for line in lines] == [None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_normalisation_over_ranks_is_torch_s_on_one(dtype: torch.dtype) -> None:
    import launcher
    from train.batch_norm import GlobalBatchNorm2d

    ctx = launcher.init()
    torch.manual_seed(0)
    ours, torchs = GlobalBatchNorm2d(6, ctx=ctx), torch.nn.BatchNorm2d(6)
    for layer in (ours, torchs):
        layer.weight.data = torch.linspace(0.5, 2, 6)
        layer.bias.data = torch.linspace(-1, 1, 6)
    x = (torch.randn(4, 6, 5, 5) * 3 + 7).to(dtype)
    pull = torch.randn(4, 6, 5, 5).to(dtype)
    results = []
    for layer in (ours, torchs):
        xi = x.clone().requires_grad_()
        (layer(xi) * pull).sum().backward()
        results.append(
            (xi.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var)
        )
    ctx.close()
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_a_gpu_without_bfloat16_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    with pytest.raises(TrainerError, match="leave out `--precision bf16`"):
        choose_precision("bf16", torch.device("cuda"))
    for asked, expected in itertools.product(("auto", "fp32"), (torch.float32,)):
        assert choose_precision(asked, torch.device("cuda")) is expected


# -- networks other than ResNets -------------------------------------------------------------------


@pytest.mark.parametrize("arch", MODELS)
def test_every_network_has_a_new_last_layer_and_imagenet_weights(arch: str) -> None:
    with torch.device("meta"):
        model = build_network(arch, 7, 224)
    last = model.get_submodule(head(model))
    assert isinstance(last, torch.nn.Linear) and last.out_features == 7
    rest = [name for name, _ in model.named_parameters() if not name.startswith(head(model))]
    with torch.device("meta"):
        other = build_network(arch, 9, 224)
    for name in rest:  # nothing else depends on the classes
        assert model.get_parameter(name).shape == other.get_parameter(name).shape
    assert "IMAGENET1K_V1" in torchvision.models.get_model_weights(arch).__members__


def test_batch_normalisation_over_ranks_keeps_what_a_network_has_chosen() -> None:
    from train.batch_norm import GlobalBatchNorm2d, normalise_over_ranks

    model = build_network("mobilenet_v3_small", 2, 224)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    chosen = [(m.eps, m.momentum) for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    model.features.requires_grad_(False)
    normalise_over_ranks(model, SimpleNamespace())
    parts = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {type(part) for part in parts} == {GlobalBatchNorm2d}
    assert [(part.eps, part.momentum) for part in parts] == chosen and chosen[0] == (0.001, 0.01)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(part.weight.requires_grad for part in parts)


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "efficientnet_b0"])
def test_other_networks_are_trained_stopped_and_used_like_resnets(
    alone: Alone,
    predict: Alone,
    drawn_birds: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arch: str,
) -> None:
    """With dropout, a resumed training has the bits of an unbroken one only if it draws the same
    numbers.
    """
    from tests.train.test_resume import same_state, stop_at

    weights = tmp_path / "weights.pt"
    torch.save(torchvision.models.get_model(arch, num_classes=5).state_dict(), weights)
    args = ("--data", drawn_birds, "--model", arch, "--weights", weights, "--epochs", 1)
    assert alone(*args, "--output-dir", "unbroken").code == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert "stopped in epoch 1 after 3 steps" in alone(*args).out
    assert alone(*args, "--resume").code == 0
    assert same_state(tmp_path / "outputs", tmp_path / "unbroken")
    done = predict("outputs/model.pt", drawn_birds / "val")
    assert done.code == 0 and "of 14 pictures" in done.out
    frozen = alone(*args, "--freeze-backbone", "--output-dir", "frozen")
    assert frozen.code == 0, frozen.err
    trained = torch.load(tmp_path / "frozen" / "model.pt", weights_only=True)["model"]
    start = torch.load(weights, weights_only=True)
    changed = {name for name, value in trained.items() if not torch.equal(value, start[name])}
    assert {name.rpartition(".")[0] for name in changed} == {
        head(torchvision.models.get_model(arch))
    }


def test_a_vision_transformer_takes_weights_that_were_made_for_another_size(
    alone: Alone, tmp_path: Path
) -> None:
    import launcher

    with torch.device("meta"):
        other = build_network("vit_b_16", 5, 64)
    weights = {
        name: torch.full(value.shape, 0.5, dtype=value.dtype)
        for name, value in other.state_dict().items()
    }
    args = parse_args(["--data", "x", "--model", "vit_b_16", "--image-size", "48"])
    model = build_model(launcher.init(), args, weights, 2)
    # 3 x 3 parts of a picture instead of 4 x 4, and the place of the class in front.
    assert model.encoder.pos_embedding.shape == (1, 10, 768)
    assert torch.equal(model.encoder.pos_embedding, torch.full((1, 10, 768), 0.5))
    assert model(torch.zeros(1, 3, 48, 48)).shape == (1, 2)
    with pytest.raises(TrainerError, match="are not those of a resnet18"):
        build_model(launcher.init(), parse_args(["--data", "x"]), weights, 2)
