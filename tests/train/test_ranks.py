"""Several ranks under the command: the same numbers, one voice, a stop and a restart that lose
nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.conftest import SMALL

Run = Callable[..., Any]
Figures = Callable[[Path], list[dict[str, Any]]]
TIMEOUT_S = 120.0  # several ranks import torch and share what processors there are
PHOTOGRAPHS = Path(__file__).resolve().parents[3] / "shared" / "data" / "hymenoptera"

pytestmark = pytest.mark.slow


# The trainer in double precision: what remains between numbers of ranks is a mistake, and not
# rounding.
DOUBLE = """
import sys
from train import trainer

build = trainer.build_model
trainer.build_model = lambda *args: build(*args).double()

trainer.forward = lambda t, network, images: network(images.double())
trainer.draw_at_the_end = lambda *_: None
raise SystemExit(trainer.main(sys.argv[1:]))
"""


EVERYTHING = "--epochs 1 --label-smoothing 0.1 --mixup 0.2 --class-weights --accumulate 2 --ema 0.9"


@pytest.mark.parametrize(
    ("numbers", "recipe"),
    [((1, 2, 3), "--epochs 1"), ((1, 3), EVERYTHING)],
    ids=["by default", "with every part of a recipe"],
)
def test_1_2_and_3_ranks_give_the_same_numbers(
    run: Run,
    script: Any,
    birds: Path,
    tmp_path: Path,
    figures: Figures,
    numbers: tuple[int, ...],
    recipe: str,
) -> None:
    # 10 pictures in batches of 4: with 3 ranks the parts are 2, 1, 1, and in the last batch 1, 1,
    # 0. One is unreadable.
    for number in range(5, 11):
        for kind in ("crow", "robin"):
            (birds / "train" / kind / f"{kind}_{number:04}.jpg").unlink()
    (birds / "val" / "crow" / "crow_0001.jpg").write_bytes(b"none")
    results, weights = [], []
    for n in numbers:
        out = tmp_path / f"ranks{n}"
        args = [*SMALL, "--data", str(birds), *recipe.split(), "--output-dir", str(out)]
        done = run("--nproc-per-node", str(n), script(DOUBLE), *args, timeout_s=TIMEOUT_S)
        assert done.code == 0, done.err
        results.append(figures(out))
        weights.append(torch.load(out / "model.pt", weights_only=True)["model"])
    for other, state in zip(results[1:], weights[1:], strict=True):
        assert [line["images"] for line in other] == [10, 13]  # each picture once, none twice
        for one, line in zip(results[0], other, strict=True):
            assert line == {**one, "loss": pytest.approx(one["loss"], rel=1e-9)}
        for name, value in weights[0].items():
            torch.testing.assert_close(state[name], value, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize(("precision", "near"), [("fp32", 2e-3), ("bf16", 3e-2)])
def test_in_lower_precision_they_differ_by_its_rounding(
    ranks: Run, drawn_birds: Path, tmp_path: Path, figures: Figures, precision: str, near: float
) -> None:
    results = []
    for n in (1, 2):
        args = ["--data", drawn_birds, "--epochs", 1, "--precision", precision, "--lr", "0.0001"]
        done = ranks(n, *args, "--output-dir", tmp_path / f"ranks{n}", timeout_s=TIMEOUT_S)
        assert done.code == 0, done.err
        results.append([line["loss"] for line in figures(tmp_path / f"ranks{n}")])
    assert results[1] == pytest.approx(results[0], rel=near)


def test_local_statistics_and_a_frozen_backbone_run_on_3_ranks_too(
    ranks: Run, drawn_birds: Path
) -> None:
    for option in ("--batch-norm=local", "--freeze-backbone"):
        done = ranks(3, "--data", drawn_birds, "--epochs", 1, option, timeout_s=TIMEOUT_S)
        assert done.code == 0, done.err
        assert "epoch 1/1: train loss" in done.out


@pytest.mark.parametrize("args", [("--data", "nowhere"), ("--data", "nowhere", "--lr", "fast")])
def test_a_mistake_is_said_once_and_ends_all_ranks_with_2(
    ranks: Run, args: tuple[str, ...]
) -> None:
    done = ranks(2, *args)
    assert done.code == 2
    expected = (
        "argument --lr: invalid number value: 'fast'"
        if "--lr" in args
        else "there is no data folder nowhere"
    )
    said = [
        line for line in done.err.splitlines() if line.startswith("[") and "train: error: " in line
    ]
    assert len(said) == 1 and said[0].startswith(f"[0] train: error: {expected}")


def test_all_ranks_of_a_node_read_what_one_of_them_decoded(
    run: Run, script: Any, drawn_birds: Path
) -> None:
    name = script(
        "import sys\nfrom train import trainer\n"
        "class Told(trainer.Loader):\n"
        "    def __init__(self, ctx, folder, cache, *rest):\n"
        "        print(f'rank {ctx.rank} reads {len(cache)}', flush=True)\n"
        "        raise SystemExit(0)\n"
        "trainer.Loader = Told\ntrainer.main(sys.argv[1:])\n"
    )
    done = run(
        "--nproc-per-node",
        "2",
        name,
        "--data",
        str(drawn_birds),
        "--weights",
        "none",
        "--image-size",
        "48",
    )
    assert done.code == 0, done.err
    assert {line for line in done.lines if "reads" in line} == {
        "[0] rank 0 reads 36",
        "[1] rank 1 reads 36",
    }


HOOK = """
import os, signal, sys
from train import trainer

add, seen = trainer.Meter.add, []

def counted(self, *args):
    add(self, *args)
    seen.append(1)
    is_first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if is_first and os.environ["RANK"] == "1" and len(seen) == BATCH:
        ACTION

trainer.Meter.add = counted
trainer.draw_at_the_end = lambda *_: None
raise SystemExit(trainer.main(sys.argv[1:]))
"""
CRASH = HOOK.replace("BATCH", "10").replace("ACTION", "os._exit(3)")
STOP = HOOK.replace("BATCH", "9").replace("ACTION", "os.kill(os.getpid(), signal.SIGTERM)")


def test_a_restarted_job_goes_on_by_itself_with_the_same_bits(
    ranks: Run, run: Run, script: Any, drawn_birds: Path, tmp_path: Path, figures: Figures
) -> None:
    args = ["--data", str(drawn_birds), "--epochs", "2", "--output-dir"]
    assert ranks(2, *args, tmp_path / "unbroken", timeout_s=TIMEOUT_S).code == 0
    options = ["--nproc-per-node", "2", "--max-restarts", "1"]
    crashed = run(
        *options, script(CRASH), *SMALL, *args, str(tmp_path / "crashed"), timeout_s=TIMEOUT_S
    )
    assert crashed.code == 0, crashed.err
    assert "resuming: " in crashed.out and "checkpoint.pt: epoch 2\n" in crashed.out
    assert figures(tmp_path / "crashed") == figures(tmp_path / "unbroken")


def test_sigterm_to_one_rank_saves_on_all_ranks_and_exits_with_0(
    run: Run, script: Any, ranks: Run, drawn_birds: Path, tmp_path: Path, figures: Figures
) -> None:
    """With 3 ranks, where Gloo adds in an order that depends on the place in a message."""
    n = 3
    args = ["--data", str(drawn_birds), "--epochs", "2", "--output-dir"]
    assert ranks(n, *args, tmp_path / "unbroken", timeout_s=TIMEOUT_S).code == 0
    done = run(
        "--nproc-per-node",
        str(n),
        script(STOP),
        *SMALL,
        *args,
        str(tmp_path / "stopped"),
        timeout_s=TIMEOUT_S,
    )
    assert done.code == 0, done.err
    assert "stopped in epoch 2 after 2 steps" in done.out
    assert ranks(n, *args, tmp_path / "stopped", "--resume", timeout_s=TIMEOUT_S).code == 0
    assert figures(tmp_path / "stopped") == figures(tmp_path / "unbroken")


def test_a_stopped_command_stops_the_trainer_with_a_checkpoint(
    start: Any, drawn_birds: Path, tmp_path: Path
) -> None:
    running = start(
        "--nproc-per-node",
        "2",
        "-m",
        "train",
        *SMALL,
        "--data",
        str(drawn_birds),
        "--epochs",
        "1000",
    )
    running.wait_for("epoch 1/1000: train loss")
    running.send(signal.SIGTERM)
    done = running.finish(TIMEOUT_S)
    assert "the same command with --resume continues" in done.out
    assert (tmp_path / "outputs" / "checkpoint.pt").exists()


@pytest.mark.skipif(
    not PHOTOGRAPHS.is_dir(), reason=f"no photographs in {os.path.relpath(PHOTOGRAPHS)}"
)
def test_real_photographs_are_trained_on_and_the_placeholder_is_named(
    ranks: Run, tmp_path: Path, figures: Figures
) -> None:
    args = ["--epochs", 1, "--batch-size", 32, "--image-size", 64, "--precision", "auto"]
    done = ranks(2, "--data", PHOTOGRAPHS, *args, timeout_s=TIMEOUT_S)
    assert done.code == 0, done.err
    assert "244 pictures to train, 153 to validate, 2 classes (ants, bees)" in done.out
    assert "skipped: train/ants/imageNotFound.gif: a GIF" in done.out
    assert [line["images"] for line in figures(tmp_path / "outputs")] == [244, 153]
