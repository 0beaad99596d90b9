"""What the trainer's tests share: small folders of drawn birds, and the trainer run alone in this
process or by ranks.

The bodies of most tests run the trainer alone and in process: that takes tenths of a second. What
concerns several ranks, signals and restarts runs under the real command.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("tqdm")

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "--weights",
    "none",
    "--image-size",
    "48",
    "--batch-size",
    "4",
    "--lr",
    "0.001",
    "--precision",
    "fp32",
)


class Done(NamedTuple):
    """The trainer's end."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def one_thread(clean_env: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for each other on a busy machine cost more than these small pictures
    need.
    """
    import torch

    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def drawn_birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 pictures to train and 14 to validate; neither divides evenly by 4, or by 3 ranks. Not to
    be changed.
    """
    folder = tmp_path_factory.mktemp("birds")
    draw = [
        sys.executable,
        str(ROOT / "scripts" / "make_birds"),
        str(folder),
        "--train",
        "11",
        "--val",
        "7",
    ]
    subprocess.run(draw, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture
def birds(drawn_birds: Path, tmp_path: Path) -> Path:
    """A copy of the drawn birds that the test may spoil."""
    return Path(shutil.copytree(drawn_birds, tmp_path / "birds"))


@pytest.fixture
def alone(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Done]]:
    """Run the trainer as one process, here; its output folder is `tmp_path`/outputs unless the test
    names another. It draws no pictures, which would take most of the time.
    """
    import launcher
    from train.trainer import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train.trainer.draw_at_the_end", lambda *_: None)

    yield lambda *args: _run_here(capfd, main, *SMALL, *args)
    launcher.init().close()


def _run_here(
    capfd: pytest.CaptureFixture[str], main: Callable[[list[str]], int], *args: object
) -> Done:
    import launcher

    capfd.readouterr()
    try:
        code = main(list(map(str, args)))
    except SystemExit as end:
        code = end.code
    finally:
        launcher.init().close()
    return Done(code, *capfd.readouterr())


@pytest.fixture
def trained(alone: Callable[..., Done], drawn_birds: Path) -> Path:
    """The output folder of two epochs on the drawn birds, the same for all tests. Not to be
    changed.
    """
    folder = drawn_birds.parent / f"{drawn_birds.name}-trained"
    if not folder.exists():
        done = alone("--data", drawn_birds, "--epochs", 2, "--output-dir", folder)
        assert done.code == 0, done.err
    return folder


@pytest.fixture
def predict(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """Predict as one process, here."""
    from train.prediction import main

    monkeypatch.chdir(tmp_path)
    return lambda *args: _run_here(capfd, main, *args)


@pytest.fixture
def ranks(run: Callable[..., Any]) -> Callable[..., Any]:
    """Run the trainer as n ranks under the command."""
    return lambda n, *args, options=(), **more: run(
        "--nproc-per-node", str(n), *options, "-m", "train", *SMALL, *map(str, args), **more
    )


@pytest.fixture
def figures() -> Callable[[Path], list[dict[str, Any]]]:
    """Read metrics.jsonl of an output folder, without what depends on the clock."""

    def read(folder: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [
            {k: v for k, v in line.items() if k not in ("time", "images_per_s")} for line in lines
        ]

    return read
