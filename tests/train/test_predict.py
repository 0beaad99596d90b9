"""Prediction: the numbers of the training, from the model file alone; one output whoever makes
it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

from train.folder import Picture
from train.prediction import Answer, Score

Predict = Callable[..., Any]
Run = Callable[..., Any]
TIMEOUT_S = 120.0  # two ranks import torch and share what processors there are


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def small_picture(drawn_birds: Path, tmp_path: Path) -> Path:
    """A picture that is not reduced while it is decoded, so that plain torchvision sees the same
    pixels.
    """
    with Image.open(drawn_birds / "val" / "crow" / "crow_0000.jpg") as picture:
        picture.resize((90, 70)).save(tmp_path / "small.png")
    return tmp_path / "small.png"


def by_torchvision(content: dict[str, Any], picture: Path) -> list[float]:
    """The probabilities of all classes, without a line of this project."""
    model = torchvision.models.get_model(content["arch"], num_classes=len(content["classes"]))
    model.load_state_dict(content["model"])
    steps = [Resize(content["resize"]), CenterCrop(content["image_size"]), ToTensor()]
    steps.append(Normalize(content["mean"], content["std"]))
    with Image.open(picture) as image, torch.no_grad():
        return model.eval()(Compose(steps)(image)[None]).softmax(1)[0].tolist()


def test_a_labelled_folder_has_the_accuracy_of_the_training(
    predict: Predict, trained: Path, drawn_birds: Path, figures: Callable[[Path], Any]
) -> None:
    done = predict(trained / "model.pt", drawn_birds / "val", "--json")
    assert (done.code, done.err) == (0, "")
    *answers, summary = objects(done.out)
    known = max(line["accuracy"] for line in figures(trained) if line["split"] == "val")
    assert summary["accuracy"] == pytest.approx(known, abs=1e-4)
    assert [(a["path"], a["truth"]) for a in answers] == [
        (f"{drawn_birds}/val/{kind}/{kind}_{number:04}.jpg", kind)
        for kind in ("crow", "robin")
        for number in range(7)
    ]
    matrix = [[0, 0], [0, 0]]
    for a in answers:
        matrix[("crow", "robin").index(a["truth"])][("crow", "robin").index(a["label"])] += 1
    assert summary == {
        "accuracy": summary["accuracy"],
        "right": matrix[0][0] + matrix[1][1],
        "pictures": 14,
        "classes": ["crow", "robin"],
        "confusion": matrix,
    }


def test_the_text_says_the_same_and_marks_mistakes(
    predict: Predict, trained: Path, drawn_birds: Path
) -> None:
    *answers, summary = objects(predict(trained / "model.pt", drawn_birds / "val", "--json").out)
    done = predict(trained / "model.pt", drawn_birds / "val")
    lines = done.out.splitlines()
    for answer, line in zip(answers, lines, strict=False):
        assert line.startswith(f"{answer['path']}: {answer['label']} ")
        wrong = answer["label"] != answer["truth"]
        assert line.endswith(f"% (is {answer['truth']})" if wrong else "%")
    (crow, robin), right = summary["confusion"], summary["right"]
    assert lines[len(answers) :] == [
        "",
        f"accuracy {right / 14:.1%}: {right} of 14 pictures",
        "true \\ predicted  crow  robin",
        f"crow              {crow[0]:4}  {crow[1]:5}",
        f"robin             {robin[0]:4}  {robin[1]:5}",
    ]


@pytest.mark.parametrize(
    "change", [{}, {"image_size": 40, "resize": 60}, {"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}]
)
def test_pictures_are_prepared_as_the_model_file_says(
    predict: Predict, trained: Path, small_picture: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    content = {**torch.load(trained / "model.pt", weights_only=True), **change}
    torch.save(content, tmp_path / "changed.pt")
    (answer,) = objects(predict("changed.pt", small_picture, "--json", "--top", 9).out)
    expected = by_torchvision(content, small_picture)
    found = {guess["label"]: guess["probability"] for guess in answer["top"]}
    assert [found["crow"], found["robin"]] == pytest.approx(expected, abs=1e-3)
    assert answer["top"][0]["probability"] == answer["probability"] == max(found.values())
    assert "truth" not in answer


def test_unreadable_pictures_are_named_and_the_rest_is_predicted(
    predict: Predict, trained: Path, birds: Path
) -> None:
    folder = birds / "val" / "robin"
    (folder / "robin_0002.jpg").write_bytes((folder / "robin_0002.jpg").read_bytes()[:900])
    (folder / "notes.txt").write_text("robins, mostly\n")
    (folder / ".hidden.jpg").write_bytes(b"nobody's picture")
    (birds / "val" / ".cache").mkdir()
    shutil.copy(folder / "robin_0000.jpg", birds / "val" / ".cache")
    for workers in (0, 3):
        done = predict(trained / "model.pt", "birds/val", "--workers", workers)
        assert done.code == 0
        assert "of 13 pictures" in done.out
        assert done.err.splitlines() == [
            "skipped: birds/val/robin/notes.txt: not a picture",
            "skipped: birds/val/robin/robin_0002.jpg: "
            + done.err.splitlines()[-1].rpartition(": ")[2],
        ]


def test_names_of_all_sorts_are_printed(predict: Predict, trained: Path, birds: Path) -> None:
    name = os.fsdecode(b"two words \xe4.jpg")
    shutil.copy(birds / "val" / "crow" / "crow_0000.jpg", name)
    assert predict(trained / "model.pt", name).out.startswith("two words \\xe4.jpg: ")
    (answer,) = objects(predict(trained / "model.pt", name, "--json").out)
    assert answer["path"] == "two words \\xe4.jpg"


def test_a_folder_with_other_classes_has_no_accuracy_and_a_hint(
    predict: Predict, trained: Path, birds: Path
) -> None:
    (birds / "train" / "crow").rename(birds / "train" / "raven")
    done = predict(trained / "model.pt", birds, birds / "train", birds / "val" / "crow")
    assert done.code == 0
    assert len(done.out.splitlines()) == 36 + 22 + 7 and "accuracy" not in done.out
    assert done.err.splitlines() == [
        f"note: {birds}: train is not a class of the model, so no accuracy; did you mean"
        f" {birds}/val?",
        f"note: {birds}/train: raven is not a class of the model, so no accuracy",
    ]


def test_some_of_the_classes_are_enough_for_an_accuracy(
    predict: Predict, trained: Path, birds: Path
) -> None:
    shutil.rmtree(birds / "val" / "crow")
    assert "of 7 pictures" in predict(trained / "model.pt", birds / "val").out


def test_where_nothing_can_be_predicted_the_code_is_1(
    predict: Predict, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    done = predict(trained / "model.pt", "empty")
    assert done == (1, "", "train: error: nothing could be predicted: there is no picture\n")
    done = predict(trained / "model.pt", "notes.txt", "--json")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "skipped: notes.txt: not a picture\n"
        "train: error: nothing could be predicted: no file is a picture\n"
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("model.pt", "arguments are required: PICTURE|FOLDER. `python -m train.predict --help`"),
        ("model.pt . --top 0", "argument --top: invalid whole number value: '0'"),
        ("model.pt nowhere", "there is no picture or folder nowhere."),
        ("nowhere.pt .", "there is no model file nowhere.pt."),
        (". .", "there is no model file .. Did you mean the model.pt in it?"),
        ("metrics.jsonl .", "metrics.jsonl is of an unknown type"),
        ("checkpoint.pt .", "checkpoint.pt is not a model.pt that the training wrote, but a check"),
        ("damaged.pt .", "the model file damaged.pt cannot be read ("),
        ("other.pt .", "the model file other.pt does not fit together ("),
    ],
)
def test_a_mistake_is_one_line_and_the_code_is_2(
    predict: Predict, trained: Path, tmp_path: Path, args: str, said: str
) -> None:
    for name in ("model.pt", "checkpoint.pt", "metrics.jsonl"):
        (tmp_path / name).symlink_to(trained / name)
    if args.startswith("damaged"):
        data = bytearray((trained / "model.pt").read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / "damaged.pt").write_bytes(data)
    if args.startswith("other"):
        content = torch.load(trained / "model.pt", weights_only=True)
        torch.save({**content, "arch": "resnet34"}, "other.pt")
    done = predict(*args.split())
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("train: error: ") and done.err.count("\n") == 1
    assert said in done.err


def test_many_classes_show_their_mistakes_and_no_matrix() -> None:
    score = Score([f"c{n}" for n in range(30)])
    for label, guess, times in ((0, 0, 5), (1, 2, 3), (29, 0, 1)):
        for _ in range(times):
            score.add(Answer(Picture(0, "x", label), [(guess, 0.9)]))
    score.add(Answer(Picture(0, "no label", -1), [(3, 0.9)]))
    assert score.as_text() == (
        "accuracy 55.6%: 5 of 9 pictures\n3 x c1 taken for c2\n1 x c29 taken for c0"
    )


@pytest.mark.slow
def test_two_ranks_print_what_one_does(
    predict: Predict, run: Run, trained: Path, birds: Path
) -> None:
    (birds / "val" / "crow" / "crow_0003.jpg").write_bytes(b"none")
    # more pictures than two ranks take at once, and a number that is not even
    args = [str(trained / "model.pt"), *["birds/train"] * 3, "birds/val", "--json"]
    alone = predict(*args)
    command = ["--nproc-per-node", "2", "--log-line-prefix-template", "", "-m", "train.predict"]
    done = run(*command, *args, timeout_s=TIMEOUT_S)
    assert done.code == 0, done.err
    assert len(alone.out.splitlines()) == 66 + 13 + 1
    assert done.out == alone.out
    assert done.err == alone.err == "skipped: birds/val/crow/crow_0003.jpg: not a picture\n"


def test_help_does_not_wait_for_torch(run_command: Run) -> None:
    code = (
        "import runpy, sys\nsys.argv = ['train.predict', '--help']\n"
        "try: runpy.run_module('train.predict', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\nassert 'torch' not in sys.modules"
    )
    done = run_command([sys.executable, "-c", code])
    assert done.code == 0, done.err
    assert "PICTURE|FOLDER" in done.out


def test_the_command_line_s_flags_are_few() -> None:
    from train.predict import build_parser

    flags = {flag for action in build_parser()._actions for flag in action.option_strings}
    assert flags == {"-h", "--help", "--json", "--top", "--precision", "--workers"}
