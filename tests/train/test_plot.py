"""The pictures of a training: from its files alone, and at its end, where nothing may spoil it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from train.plot import draw_at_the_end, main

Alone = Callable[..., Any]
ALL = ("curves.png", "predictions.png", "confusion.png")


def line(epoch: int, split: str, **more: object) -> str:
    """One line of metrics.jsonl."""
    figures = {"loss": 1 / epoch, "accuracy": 0.5, "images_per_s": 90.0, "lr": 0.1**epoch}
    return json.dumps({"epoch": epoch, "split": split, **figures, **more}) + "\n"


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """An output folder with the metrics of three epochs, the last without a loss."""
    lines = [line(epoch, split) for epoch in (1, 2) for split in ("train", "val")]
    lines += [line(3, "train", loss=None), line(3, "val", loss=None)]
    folder = tmp_path / "outputs"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def predictions(folder: Path, classes: list[str], data: Path) -> None:
    """Write a predictions.json: one picture of each class, all taken for the first."""
    pictures = [
        {
            "path": f"val/crow/crow_{number:04}.jpg",
            "label": name,
            "prediction": classes[0],
            "probability": 0.9,
            "label_probability": 0.1 if number else 0.9,
        }
        for number, name in enumerate(classes)
    ]
    content = {
        "epoch": 2,
        "data": str(data),
        "image_size": 48,
        "classes": classes,
        "pictures": pictures,
    }
    (folder / "predictions.json").write_text(json.dumps(content))


def is_drawn(path: Path) -> bool:
    """Whether the file is a picture of 1200 pixels width with something on it; not half-written."""
    with Image.open(path) as picture:
        picture.load()
        low, high = picture.convert("L").getextrema()
        is_whole = not path.with_name(f"{path.name}.tmp").exists()
        return picture.format == "PNG" and picture.width == 1200 and low < 64 < high and is_whole


def test_the_curves_need_the_metrics_only(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(outputs)]) == 0
    assert is_drawn(outputs / "curves.png")
    said = capsys.readouterr()
    assert said.out == f"{outputs}/curves.png\n"
    assert "there is no predictions.json; `--data DIR` makes it" in said.err
    assert sorted(p.name for p in outputs.iterdir()) == ["curves.png", "metrics.jsonl"]


def test_all_is_readable_at_600_pixels_and_without_colours(
    outputs: Path, drawn_birds: Path
) -> None:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    import train.drawing
    from train.plot import read_metrics, read_predictions

    predictions(outputs, ["crow", "robin"], drawn_birds)
    assert main([str(outputs)]) == 0
    for name in ("curves.png", "confusion.png"):
        with Image.open(outputs / name) as picture:
            red, green, blue = picture.convert("RGB").split()
            assert red.tobytes() == green.tobytes() == blue.tobytes(), name
    curves, matrix, pictures = Figure(), Figure(), Figure()
    content = read_predictions(str(outputs / "predictions.json"))
    train.drawing.draw_curves(curves, read_metrics(str(outputs / "metrics.jsonl")))
    train.drawing.draw_confusion(matrix, content)
    train.drawing.draw_predictions(pictures, content)
    for figure in (curves, matrix, pictures):
        pixels = 600 / figure.get_size_inches()[0] / 72
        texts = [text for text in figure.findobj(Text) if text.get_text()]
        assert texts and min(text.get_fontsize() for text in texts) * pixels >= 9
    trained, validated = curves.axes[0].lines[:2]
    assert trained.get_linestyle() != validated.get_linestyle()
    assert trained.get_marker() != validated.get_marker()


@pytest.mark.parametrize(
    "classes",
    [
        ["crow", "robin"],
        ["$x_1$ & $", "_", "鳥", "\udcff", "n" * 200],
        [f"n{i}" for i in range(50)],
    ],
    ids=["two", "odd names", "many"],
)
def test_all_three_are_drawn_whatever_the_classes_are_called(
    outputs: Path, drawn_birds: Path, capsys: pytest.CaptureFixture[str], classes: list[str]
) -> None:
    predictions(outputs, classes, drawn_birds)  # with 7 crows: the other files are not there
    assert main([str(outputs)]) == 0
    assert all(is_drawn(outputs / name) for name in ALL)
    assert capsys.readouterr().err == ""


def test_the_worst_pictures_come_first(
    outputs: Path, drawn_birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    import train.drawing
    from train.plot import read_predictions

    predictions(outputs, ["crow", "robin"], drawn_birds)
    content = read_predictions(str(outputs / "predictions.json"))
    figure = Figure()
    train.drawing.draw_predictions(figure, content)
    assert [(p.get_title(), p.get_xlabel()) for p in figure.axes[:2]] == [
        ("robin", "crow 90%"),
        ("crow", "crow 90%"),
    ]
    assert [p.spines["left"].get_linewidth() for p in figure.axes[:2]] == [4, 0.5]


def test_a_broken_line_is_named_and_left_out(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (outputs / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "spl\n[]\n' + line(4, "test") + line(4, "val", lr="fast"))
    assert main([str(outputs)]) == 0
    assert is_drawn(outputs / "curves.png")
    said = capsys.readouterr().err
    assert [f"line {number} is left out" in said for number in range(6, 11)] == [False] + 4 * [True]


@pytest.mark.parametrize("content", [None, "", "half of"], ids=["missing", "empty", "broken"])
def test_no_epoch_is_one_message_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    assert main([str(tmp_path)]) == 2
    why = "cannot be read (No such file" if content is None else "has no epoch yet"
    assert f"train.plot: error: {tmp_path}/metrics.jsonl {why}" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"pictures": [{}], "classes": []}'])
def test_damaged_predictions_are_one_message(
    outputs: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (outputs / "predictions.json").write_text(content)
    assert main([str(outputs)]) == 2
    assert "predictions.json cannot be read" in capsys.readouterr().err


def test_without_matplotlib_one_line_names_the_command(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import launcher

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command = (
        f"{sys.executable} -m pip install matplotlib && {sys.executable} -m train.plot {outputs}"
    )
    assert main([str(outputs)]) == 2
    assert capsys.readouterr().err == f"train.plot: error: matplotlib is missing. Type: {command}\n"
    draw_at_the_end(launcher.init(), str(outputs))
    launcher.init().close()
    said = capsys.readouterr()
    assert said.out == f"pictures    none without matplotlib. Type: {command}\n" and not said.err


@pytest.mark.parametrize("error", [TypeError("a new matplotlib"), MemoryError()])
def test_a_failure_to_draw_is_one_line_after_a_training(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    import launcher

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("train.drawing.draw_curves", fail)
    draw_at_the_end(launcher.init(), str(outputs))
    launcher.init().close()
    why = str(error) or type(error).__name__
    assert capsys.readouterr().out == f"pictures    none ({why})\n"


def test_a_picture_that_cannot_be_written_is_one_message(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (outputs / "curves.png").mkdir()
    assert main([str(outputs)]) == 2
    assert f"{outputs}/curves.png cannot be written (Is a directory)" in capsys.readouterr().err
    assert not (outputs / "curves.png.tmp").exists()


def test_neither_torch_nor_matplotlib_is_loaded_too_early(
    outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "not a backend")
    code = (
        "import sys, train.plot\nassert 'matplotlib' not in sys.modules\n"
        "assert train.plot.main(sys.argv[1:]) == 0\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(outputs)], check=True)


def test_a_training_leaves_three_pictures_of_the_whole_run(
    alone: Alone, drawn_birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert alone("--data", drawn_birds, "--epochs", 1).code == 0
    monkeypatch.setattr("train.trainer.draw_at_the_end", draw_at_the_end)
    seen: list[Any] = []
    monkeypatch.setattr("train.drawing.draw_curves", lambda figure, metrics: seen.append(metrics))
    done = alone("--data", drawn_birds, "--epochs", 2, "--resume")
    assert done.code == 0 and done.err == ""
    assert "\npictures    outputs/curves.png, predictions.png, confusion.png\n" in done.out
    assert [sorted(seen[0][split]) for split in ("train", "val")] == [[1, 2], [1, 2]]
    monkeypatch.undo()
    folder = tmp_path / "outputs"
    before = json.loads((folder / "predictions.json").read_text())
    assert len(before["pictures"]) == 14 and before["data"] == str(drawn_birds)
    right = sum(p["label"] == p["prediction"] for p in before["pictures"])
    assert f"best validation accuracy {right / 14:.1%} in epoch {before['epoch']}" in done.out
    (folder / "predictions.json").unlink()
    assert main([str(folder), "--data", str(drawn_birds)]) == 0
    assert all(is_drawn(folder / name) for name in ALL)
    again = json.loads((folder / "predictions.json").read_text())
    for one, two in zip(before.pop("pictures"), again.pop("pictures"), strict=True):
        assert two == {
            **one,
            "probability": pytest.approx(one["probability"], abs=1e-4),
            "label_probability": pytest.approx(one["label_probability"], abs=1e-4),
        }
    assert again == before


def test_other_classes_and_no_model_are_one_message(
    outputs: Path, drawn_birds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    import torchvision

    assert main([str(outputs), "--data", str(drawn_birds)]) == 2
    assert "model.pt is no model of this trainer" in capsys.readouterr().err
    state = torchvision.models.resnet18(num_classes=2).state_dict()
    content = {"model": state, "arch": "resnet18", "classes": ["ants", "bees"], "epoch": 1}
    pixels = {"image_size": 48, "resize": 55, "mean": [0.5] * 3, "std": [0.2] * 3}
    torch.save({**content, **pixels}, outputs / "model.pt")
    assert main([str(outputs), "--data", str(drawn_birds)]) == 2
    assert "has the classes crow, robin, and" in capsys.readouterr().err
