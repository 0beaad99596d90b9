"""The recipe beyond the tutorial's: each part does what it says, and the default has none of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from train.errors import TrainerError
from train.folder import Folder, Picture
from train.options import parse_args
from train.recipe import Objective, learning_rates

Alone = Callable[..., Any]
Figures = Callable[[Path], list[dict[str, Any]]]
CPU = torch.device("cpu")


def options(line: str = "") -> Any:
    return parse_args(["--data", "x", *line.split()])


def objective(line: str, *, labels: tuple[int, ...] = (0, 1)) -> Objective:
    """That of a folder whose training pictures have these labels."""
    pictures = tuple(Picture(key, f"{key}.jpg", label) for key, label in enumerate(labels))
    return Objective(options(line), Folder("", ("a", "b"), pictures, (), ()), CPU)


# -- the learning rate -----------------------------------------------------------------------------


def test_the_default_rates_are_the_tutorial_s_to_the_last_bit() -> None:
    assert learning_rates(options()) == [0.001 * 0.1 ** (epoch // 7) for epoch in range(25)]


def test_the_cosine_goes_down_from_the_rate_to_nearly_nothing() -> None:
    rates = learning_rates(options("--lr-schedule cosine --epochs 10 --lr 0.1"))
    expected = [0.05 * (1 + math.cos(math.pi * epoch / 10)) for epoch in range(10)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_warm_up_comes_before_the_schedule(schedule: str) -> None:
    line = f"--lr-schedule {schedule} --lr 0.5 --lr-step 3"
    rates = learning_rates(options(f"{line} --warmup-epochs 4 --epochs 12"))
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[4:] == pytest.approx(learning_rates(options(f"{line} --epochs 8")))


# -- the loss --------------------------------------------------------------------------------------


def test_class_weights_make_all_classes_count_alike() -> None:
    logits = torch.zeros(4, 2, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1])
    plain, weighed = (objective(f, labels=(0, 0, 0, 1)) for f in ("", "--class-weights"))
    one = math.log(2)
    assert float(plain.loss(logits, labels)) == pytest.approx(4 * one)
    assert float(weighed.loss(logits[:3], labels[:3])) == pytest.approx(2 * one)
    assert float(weighed.loss(logits[3:], labels[3:])) == pytest.approx(2 * one)


def test_label_smoothing_is_torch_s() -> None:
    logits, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([0])
    expected = F.cross_entropy(logits, labels, label_smoothing=0.2)
    assert objective("--label-smoothing 0.2").loss(logits, labels) == expected


def test_mixup_mixes_each_picture_with_the_one_before_it() -> None:
    mixed = objective("--mixup 0.4")
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    labels = torch.tensor([0, 1, 1, 1])
    results = [mixed.mix(images, labels, moment) for moment in ((0, 0, 0), (0, 0, 0), (0, 0, 1))]
    for found, own, targets in results:
        share = float(targets[0, 1])  # of the second picture, the one whose label is 1
        assert 0 < share < 1
        assert found[:, 0, 0, 0].tolist() == pytest.approx([share, 2 + share])
        torch.testing.assert_close(targets, torch.tensor([[1 - share, share], [0.0, 1.0]]))
        assert own.tolist() == [1, 1]
    assert torch.equal(results[0][0], results[1][0]) and not torch.equal(
        results[0][0], results[2][0]
    )


def test_mixup_of_no_picture_is_none() -> None:
    """The last batch may have fewer pictures than there are ranks."""
    mixed = objective("--mixup 0.4")
    images, labels, targets = mixed.mix(torch.empty(0, 3, 2, 2), torch.tensor([]).long(), (0, 0, 0))
    assert (len(images), len(labels), targets.shape) == (0, 0, (0, 2))
    assert mixed.loss(torch.empty(0, 2, requires_grad=True), targets) == 0


def test_mixup_leaves_torch_s_generator_alone() -> None:
    before = torch.get_rng_state()
    objective("--mixup 0.4").mix(torch.zeros(2, 3, 2, 2), torch.tensor([0, 1]), (0, 0, 0))
    assert torch.equal(before, torch.get_rng_state())


def test_of_a_pair_whose_one_picture_became_unreadable_nothing_is_left(birds: Path) -> None:
    from train.data import Loader
    from train.folder import list_folder
    from train.pictures import PictureCache

    ctx = SimpleNamespace(rank=0, world_size=1, local_world_size=1, device=CPU)
    (birds / "train" / "crow" / "crow_0003.jpg").write_bytes(b"none")
    with PictureCache(0) as cache:
        loader = Loader(ctx, list_folder(str(birds)), cache, 48, 2, report=lambda *_: None)
        batches = list(loader.training(0, 0, 4, first=0, pairs=True))
    # Each picture is there twice: itself, and before the next one.
    assert sorted(len(batch.pictures) for batch in batches) == [4, 4, 8, 8, 8, 8]
    for batch in batches:
        assert all("crow_0003" not in picture.path for picture in batch.pictures)


# -- the training ----------------------------------------------------------------------------------


def test_patience_ends_a_training_that_does_not_get_better(
    alone: Alone, drawn_birds: Path, figures: Figures, tmp_path: Path
) -> None:
    args = ("--data", drawn_birds, "--lr", "1e-9", "--epochs", 9, "--freeze-backbone")
    done = alone(*args, "--patience", 2)
    assert done.code == 0
    assert "no better accuracy in 2 epochs: ended after epoch 3\n" in done.out
    assert "model       outputs/model.pt" in done.out
    assert len(figures(tmp_path / "outputs")) == 6
    again = alone(*args, "--patience", 2, "--resume")
    assert "ended after epoch 3\n" in again.out and "train loss" not in again.out
    more = alone(*args, "--patience", 4, "--resume")
    assert "ended after epoch 5\n" in more.out


def test_accumulated_batches_are_one_step(alone: Alone, drawn_birds: Path, tmp_path: Path) -> None:
    """With frozen statistics: 22 pictures by 8, or by 4 and two of these to a step."""
    weights = []
    for name, line in (("a", "--batch-size 8"), ("b", "--batch-size 4 --accumulate 2")):
        args = ("--data", drawn_birds, "--epochs", 1, "--freeze-backbone", "--lr", "0.1")
        assert alone(*args, *line.split(), "--output-dir", name).code == 0
        state = torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        weights.append(state["model"]["fc.weight"])
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-5, atol=1e-6)


def test_the_average_of_the_weights_is_what_is_validated_and_saved(
    alone: Alone, drawn_birds: Path, tmp_path: Path, figures: Figures
) -> None:
    args = ("--data", drawn_birds, "--epochs", 1, "--lr", "0.01")
    assert alone(*args, "--ema", "0.5").code == 0
    saved = torch.load(tmp_path / "outputs" / "model.pt", weights_only=True)["model"]
    state = torch.load(tmp_path / "outputs" / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(v, state["average"][f"module.{k}"]) for k, v in saved.items())
    assert not torch.equal(saved["fc.weight"], state["model"]["fc.weight"])
    # Half of the way to each step's weights: after six steps, near to them.
    torch.testing.assert_close(saved["fc.weight"], state["model"]["fc.weight"], rtol=0.1, atol=0.02)
    assert saved["bn1.num_batches_tracked"] < state["model"]["bn1.num_batches_tracked"] == 6
    plain = alone(*args, "--output-dir", "plain")
    assert plain.code == 0
    trained, validated = figures(tmp_path / "outputs")
    plainly_trained, plainly_validated = figures(tmp_path / "plain")
    assert trained == plainly_trained and validated["loss"] != plainly_validated["loss"]


def test_a_compiled_network_learns_the_same(
    alone: Alone, drawn_birds: Path, tmp_path: Path, figures: Figures
) -> None:
    args = ("--data", drawn_birds, "--epochs", 1)
    assert alone(*args).code == 0
    done = alone(*args, "--compile", "eager", "--output-dir", "compiled")
    assert done.code == 0, done.err
    assert figures(tmp_path / "compiled") == figures(tmp_path / "outputs")


def test_what_cannot_be_compiled_is_said_before_the_first_step(
    alone: Alone, drawn_birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = alone("--data", drawn_birds, "--compile", "rustc")
    assert done.code == 2 and "--compile knows no backend rustc; there are " in done.err
    monkeypatch.setattr("shutil.which", lambda name: None)
    done = alone("--data", drawn_birds, "--compile")
    assert done.code == 2 and "needs a C++ compiler" in done.err and "Type: apt-get" in done.err


# -- without a training ----------------------------------------------------------------------------


def test_evaluate_only_has_the_figures_of_the_best_epoch(
    alone: Alone, trained: Path, drawn_birds: Path, figures: Figures
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in trained.iterdir()}
    best = max(
        (line for line in figures(trained) if line["split"] == "val"), key=lambda f: f["accuracy"]
    )
    args = ("--data", drawn_birds, "--evaluate-only")
    done = alone(*args, "--output-dir", trained)
    assert (done.code, done.err) == (0, "")
    found = re.fullmatch(
        r"(.*): val loss ([\d.]+) accuracy ([\d.]+)% of 14 pictures, [\d.]+ images/s\n", done.out
    )
    assert found is not None and found[1] == str(trained / "model.pt")
    assert float(found[2]) == pytest.approx(best["loss"], abs=1e-4)
    assert float(found[3]) == pytest.approx(100 * best["accuracy"], abs=0.05)
    by_file = alone(*args, "--weights", trained / "model.pt")
    assert by_file.out.rpartition(",")[0] == done.out.rpartition(",")[0]
    assert {path.name: path.stat().st_mtime_ns for path in trained.iterdir()} == before


def test_evaluate_only_without_a_model_says_so(alone: Alone, drawn_birds: Path) -> None:
    done = alone("--data", drawn_birds, "--evaluate-only")
    assert done.code == 2
    assert "there is no model file outputs/model.pt" in done.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--warmup-epochs 25", "--warmup-epochs 25 leaves nothing of --epochs 25"),
        ("--ema 1", "argument --ema"),
        ("--label-smoothing 1.5", "argument --label-smoothing"),
        ("--patience -1", "argument --patience"),
        ("--accumulate 0", "argument --accumulate"),
        ("--model vit_b_16 --image-size 40", "--image-size 40: vit_b_16 needs a multiple of 16"),
    ],
)
def test_a_wrong_value_names_its_option(line: str, said: str) -> None:
    with pytest.raises(TrainerError, match=said):
        options(line)
