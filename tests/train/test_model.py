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
from train.model import choose_precision, cpu_has_bf16, load_weights

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
