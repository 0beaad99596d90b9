"""The project's own trainer in a run: its figures are the run's metrics."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher.jobs import Experiment

pytest.importorskip("torch")


def test_the_trainers_figures_are_logged_to_the_run(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train.metrics import MetricsFile, Result

    with experiment.start_logging() as run:
        monkeypatch.setenv("LAUNCHER_JOBS_RUN", run._folder.path)
        ctx = SimpleNamespace(is_main=True)
        metrics = MetricsFile(str(tmp_path / "metrics.jsonl"), ctx, keep_epochs=0)  # type: ignore[arg-type]
        metrics.add(1, "train", Result(0.5, 0.75, 320, 38.0), 0.01)
        metrics.add(1, "val", Result(float("nan"), 0.5, 120, 40.0), 0.01)
    assert run.get_metrics() == {
        "train_loss": 0.5,
        "train_accuracy": 0.75,
        "train_images_per_s": 38.0,
        "train_lr": 0.01,
        "val_accuracy": 0.5,
        "val_images_per_s": 40.0,
    }
