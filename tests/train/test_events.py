"""What TensorBoard shows: the figures of metrics.jsonl, each epoch once, also after a resume."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.train.test_resume import stop_at

Alone = Callable[..., Any]
Figures = Callable[[Path], list[dict[str, Any]]]


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Epoch and value of each curve, as TensorBoard reads them."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(folder)).Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def test_every_epoch_is_shown_once_also_after_a_stop_and_anew(
    alone: Alone,
    drawn_birds: Path,
    tmp_path: Path,
    figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("tensorboard")
    args = ("--data", drawn_birds, "--epochs", 2, "--tensorboard")
    assert alone(*args, "--epochs", 3).code == 0  # started anew below: nothing of it is left
    with monkeypatch.context() as patch:
        stop_at(patch, 9)
        assert "stopped in epoch 2" in alone(*args).out
    done = alone(*args, "--resume")
    assert done.code == 0 and "tensorboard --logdir outputs/tensorboard\n" in done.out
    curves = shown(tmp_path / "outputs" / "tensorboard")
    assert set(curves) == {
        f"{name}/{split}"
        for name in ("loss", "accuracy", "images_per_s")
        for split in ("train", "val")
    } | {"lr"}
    for line in figures(tmp_path / "outputs"):
        for name in ("loss", "accuracy"):
            epoch, value = curves[f"{name}/{line['split']}"][line["epoch"] - 1]
            assert (epoch, value) == (line["epoch"], pytest.approx(line[name], rel=1e-6))
    assert {len(curve) for curve in curves.values()} == {2}


def test_without_tensorboard_the_command_is_named_before_the_first_step(
    alone: Alone, drawn_birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "train.command.find_spec", lambda name: None if name == "tensorboard" else object()
    )
    done = alone("--data", drawn_birds, "--tensorboard")
    assert (done.code, done.err) == (
        2,
        "train: error: --tensorboard needs tensorboard, which this Python does not have. Type:"
        f" {sys.executable} -m pip install tensorboard\n",
    )
    assert not (tmp_path / "outputs").exists()
