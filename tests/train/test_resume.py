"""What is on disk, and going on from it: the numbers after a stop are those of a run that was never
stopped.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

Alone = Callable[..., Any]
Figures = Callable[[Path], list[dict[str, Any]]]
EPOCHS = ("--epochs", 2, "--lr", "0.01")


class Usage(NamedTuple):
    """What shutil.disk_usage returns."""

    total: int
    used: int
    free: int


def stop_at(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Send SIGTERM to this process in its `count`-th batch, training and validation counted
    together.
    """
    from train.trainer import Meter

    add, seen = Meter.add, []

    def counted(self: Meter, *args: Any) -> None:
        add(self, *args)
        seen.append(1)
        if len(seen) == count:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Meter, "add", counted)


def same_state(a: Path, b: Path) -> bool:
    """Tell whether two checkpoints hold the same bits: weights, their average, momentum,
    progress.
    """
    one, two = (torch.load(path / "checkpoint.pt", weights_only=True) for path in (a, b))
    momenta = [
        [s["momentum_buffer"] for s in state["optimizer"]["state"].values()] for state in (one, two)
    ]
    averages = [state["average"] or {} for state in (one, two)]
    return (
        one["progress"] == two["progress"]
        and averages[0].keys() == averages[1].keys()
        and all(torch.equal(value, averages[1][name]) for name, value in averages[0].items())
        and all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())
        and all(torch.equal(x, y) for x, y in zip(*momenta, strict=True))
    )


@pytest.fixture
def unbroken(alone: Alone, drawn_birds: Path, tmp_path: Path) -> Path:
    """The output folder of a run that nobody stopped."""
    assert alone("--data", drawn_birds, *EPOCHS, "--output-dir", tmp_path / "unbroken").code == 0
    return tmp_path / "unbroken"


# One epoch is 6 batches to train and 1 to validate.
@pytest.mark.parametrize(
    "batch", [3, 6, 7, 10], ids=["in epoch 1", "after its last step", "in validation", "in epoch 2"]
)
def test_sigterm_saves_and_resume_gives_the_same_bits(
    alone: Alone,
    unbroken: Path,
    drawn_birds: Path,
    tmp_path: Path,
    figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, batch)
        stopped = alone("--data", drawn_birds, *EPOCHS)
    assert stopped.code == 0
    assert "the same command with --resume continues" in stopped.out
    resumed = alone("--data", drawn_birds, *EPOCHS, "--resume")
    assert resumed.code == 0
    assert f"resuming: outputs/checkpoint.pt: epoch {1 + (batch - 1) // 7}" in resumed.out
    assert figures(tmp_path / "outputs") == figures(unbroken)
    assert same_state(tmp_path / "outputs", unbroken)


def test_so_it_is_with_everything_that_a_recipe_can_have(
    alone: Alone,
    drawn_birds: Path,
    tmp_path: Path,
    figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One epoch is 2 steps of the optimizer, of 4 batches and 2: a stop waits for a step's end."""
    line = "--lr-schedule cosine --warmup-epochs 1 --patience 9 --label-smoothing 0.1 --mixup 0.2"
    line += " --class-weights --accumulate 4 --ema 0.9"
    args = ("--data", drawn_birds, *EPOCHS, *line.split())
    assert alone(*args, "--output-dir", "unbroken").code == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        stopped = alone(*args)
    assert stopped.code == 0 and "stopped in epoch 1 after 4 steps" in stopped.out
    assert alone(*args, "--resume").code == 0
    assert figures(tmp_path / "outputs") == figures(tmp_path / "unbroken")
    assert same_state(tmp_path / "outputs", tmp_path / "unbroken")
    for other in ("--epochs 3", "--ema 0.5", "--mixup 0"):
        done = alone(*args, *other.split(), "--resume")
        assert done.code == 2 and f"was made with {other.split()[0]} " in done.err


def test_more_epochs_continue_a_finished_run(
    alone: Alone, unbroken: Path, drawn_birds: Path, tmp_path: Path, figures: Figures
) -> None:
    assert alone("--data", drawn_birds, *EPOCHS, "--epochs", 1).code == 0
    assert alone("--data", drawn_birds, *EPOCHS, "--resume").code == 0
    assert figures(tmp_path / "outputs") == figures(unbroken)


def test_without_resume_a_run_starts_anew_and_says_so(
    alone: Alone, drawn_birds: Path, tmp_path: Path, figures: Figures
) -> None:
    first = alone("--data", drawn_birds, "--epochs", 1, "--resume")
    assert first.code == 0 and "resuming" not in first.out
    assert (
        "outputs/checkpoint.pt does not exist; there is nothing to resume, starting with epoch 1"
        in first.out
    )
    second = alone("--data", drawn_birds, "--epochs", 1)
    assert (
        "starting anew over the earlier run in outputs; `--resume` would continue it" in second.out
    )
    assert len(figures(tmp_path / "outputs")) == 2


def test_a_checkpoint_of_another_recipe_is_refused_with_both_values(
    alone: Alone, drawn_birds: Path
) -> None:
    assert alone("--data", drawn_birds, "--epochs", 1).code == 0
    done = alone("--data", drawn_birds, "--resume", "--lr", "0.5")
    assert done.code == 2
    assert "was made with --lr 0.001, this command says 0.5" in done.err


@pytest.mark.parametrize("damage", ["garbage", "empty", "cut off", "one bit of a weight"])
def test_a_damaged_checkpoint_is_one_message(
    alone: Alone, drawn_birds: Path, tmp_path: Path, damage: str
) -> None:
    assert alone("--data", drawn_birds, "--epochs", 1).code == 0
    file = tmp_path / "outputs" / "checkpoint.pt"
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(
        {
            "garbage": b"PK\x03\x04 half of it",
            "empty": b"",
            "cut off": whole[:-5000],
            "one bit of a weight": (
                whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
            ),
        }[damage]
    )
    done = alone("--data", drawn_birds, "--epochs", 2, "--resume")
    assert done.code == 2
    assert "cannot be read" in done.err and "`--resume no`" in done.err
    assert ("check sum" in done.err) is (damage == "one bit of a weight")


def test_a_restart_goes_on_with_its_own_run_only(
    alone: Alone, drawn_birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was started anew and crashed before its first checkpoint must not take the run
    before it for its own.
    """
    monkeypatch.setenv("LAUNCHER_RUN_ID", "first")
    assert alone("--data", drawn_birds, "--epochs", 1).code == 0
    monkeypatch.setenv("LAUNCHER_RUN_ID", "second")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    restarted = alone("--data", drawn_birds, "--epochs", 1)
    assert restarted.code == 0 and "starting anew over the earlier run" in restarted.out
    assert "epoch 1/1: train loss" in restarted.out
    again = alone("--data", drawn_birds, "--epochs", 1)
    assert again.code == 0 and "resuming: outputs/checkpoint.pt" in again.out


def test_a_job_that_slurm_requeues_goes_on(
    alone: Alone, drawn_birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps its number; the launcher in it has a new run each time."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("LAUNCHER_RUN_ID", "first")
    assert alone("--data", drawn_birds, "--epochs", 1).code == 0
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("LAUNCHER_RUN_ID", "second")
    again = alone("--data", drawn_birds, "--epochs", 1)
    assert again.code == 0 and "resuming: outputs/checkpoint.pt" in again.out
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    other = alone("--data", drawn_birds, "--epochs", 1)
    assert other.code == 0 and "starting anew over the earlier run" in other.out


def test_a_second_training_in_the_same_output_folder_is_refused(
    alone: Alone, drawn_birds: Path, tmp_path: Path
) -> None:
    import launcher
    from train.checkpoint import Output

    with Output(launcher.init(), str(tmp_path / "outputs")):
        done = alone("--data", drawn_birds, "--epochs", 1)
    assert done.code == 2
    assert (
        "another training is writing to the output folder outputs" in done.err
        and "`--output-dir`" in done.err
    )
    assert alone("--data", drawn_birds, "--epochs", 1).code == 0


def test_what_a_killed_run_left_half_written_is_removed(
    alone: Alone, drawn_birds: Path, tmp_path: Path
) -> None:
    (tmp_path / "outputs").mkdir()
    for name in ("checkpoint.pt.tmp", "model.pt.tmp", "predictions.json.tmp"):
        (tmp_path / "outputs" / name).write_bytes(b"half")
    (tmp_path / "outputs" / "skipped.txt").write_text("of an earlier folder\n")
    assert alone("--data", drawn_birds, "--epochs", 1).code == 0
    names = ["checkpoint.pt", "metrics.jsonl", "model.pt", "predictions.json", "skipped.txt"]
    assert sorted(p.name for p in (tmp_path / "outputs").iterdir()) == names
    assert (tmp_path / "outputs" / "skipped.txt").read_text() == ""


def test_the_end_says_where_everything_is(alone: Alone, drawn_birds: Path, tmp_path: Path) -> None:
    done = alone("--data", drawn_birds, "--epochs", 1)
    assert re.search(r"^best validation accuracy \d+\.\d% in epoch 1$", done.out, re.MULTILINE)
    for name in ("model.pt", "checkpoint.pt", "metrics.jsonl"):
        assert f" outputs/{name}\n" in done.out
    assert sorted(p.name for p in (tmp_path / "outputs").iterdir()) == [
        "checkpoint.pt",
        "metrics.jsonl",
        "model.pt",
        "predictions.json",
    ]


def test_an_output_folder_that_cannot_be_made_is_one_message(
    alone: Alone, drawn_birds: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    done = alone("--data", drawn_birds, "--output-dir", "taken/outputs")
    assert done.code == 2
    assert (
        "the output folder taken/outputs cannot be written to (Not a directory). Name another one"
        " with" in done.err
    )


def test_an_output_folder_without_permission_is_one_message(
    alone: Alone, drawn_birds: Path, tmp_path: Path
) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    user = os.geteuid()
    if user == 0:  # root may write everywhere
        os.seteuid(65534)
    try:
        done = alone("--data", drawn_birds, "--output-dir", tmp_path / "closed" / "outputs")
    finally:
        os.seteuid(user)
    assert done.code == 2
    assert (
        "cannot be written to (Permission denied). Name another one with `--output-dir`."
        in done.err
    )


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 60 MB, or, without the right to mount one, limits of this process that have
    the same effect.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(folder)]
    if (
        os.geteuid() == 0
        and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    ):
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(60_000_000, 0, 60_000_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000_000, limits[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_is_too_small_is_refused_before_step_1(
    alone: Alone, drawn_birds: Path, small_disk: Path
) -> None:
    done = alone("--data", drawn_birds, "--output-dir", small_disk)
    assert done.code == 2
    assert re.search(r"has \d+ MB free, and the checkpoints need 2\d\d MB", done.err)
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_later_costs_the_files_and_not_the_run(
    alone: Alone, drawn_birds: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train.trainer import Output

    monkeypatch.setattr(Output, "require_space", lambda *args, **more: None)
    done = alone("--data", drawn_birds, "--epochs", 2, "--output-dir", small_disk)
    assert done.code == 1
    assert "epoch 2/2: train loss" in done.out
    full = (
        r"checkpoint\.pt could not be written \((No space left on device|File too large)\); going"
        r" on without it"
    )
    assert len(re.findall(full, done.out)) == 2
    assert f"error: {small_disk}/checkpoint.pt is not up to date" in done.out
    names = ["metrics.jsonl", "model.pt", "predictions.json"]
    assert sorted(p.name for p in small_disk.iterdir()) == names


def test_a_disk_without_room_for_a_whole_line_of_metrics_gets_none_of_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import launcher
    from train.metrics import MetricsFile, Result

    ctx = launcher.init()
    metrics = MetricsFile(str(tmp_path / "metrics.jsonl"), ctx, keep_epochs=0)
    metrics.add(1, "train", Result(0.5, 0.5, 4, 1.0), 0.1)
    whole = (tmp_path / "metrics.jsonl").read_text()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, limits[1]))
    try:
        metrics.add(1, "val", Result(0.5, 0.5, 4, 1.0), 0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    ctx.close()
    assert (tmp_path / "metrics.jsonl").read_text() == whole
    assert "metrics.jsonl could not be written (No space left on device)" in capfd.readouterr().err
