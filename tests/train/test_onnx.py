"""model.onnx: the same answers as model.pt, everywhere where model.pt is taken; or no file, and
words that help.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from train import score
from train.exporting import main

Predict = Callable[..., Any]
Alone = Callable[..., Any]


@pytest.fixture
def exported(trained: Path) -> Path:
    """The model of `trained` as ONNX. Not to be changed."""
    file = trained.with_name(f"{trained.name}.onnx")
    if not file.exists():
        assert main([str(trained / "model.pt"), str(file)]) == 0
    return file


def test_the_export_names_the_largest_difference_on_the_pictures_of_the_training(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "model.onnx"
    assert main([str(trained / "model.pt"), str(target)]) == 0
    said, _, rest = capfd.readouterr().out.partition(": largest difference to torch ")
    assert said == str(target)
    difference, _, pictures = rest.partition(" on ")
    assert 0 <= float(difference) < 1e-4 and pictures == "14 pictures\n"


def test_help_does_not_wait_for_torch(run_command: Callable[..., Any]) -> None:
    code = (
        "import runpy, sys\nsys.argv = ['train.export', '--help']\n"
        "try: runpy.run_module('train.export', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\nassert 'torch' not in sys.modules"
    )
    done = run_command([sys.executable, "-c", code])
    assert done.code == 0, done.err
    assert "--pictures" in done.out


def test_the_file_has_what_a_reader_without_torch_needs(trained: Path, exported: Path) -> None:
    """By onnxruntime alone: batches of any size, the classes, and how to prepare a picture."""
    import onnxruntime

    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    content = torch.load(trained / "model.pt", weights_only=True)
    for key in ("arch", "classes", "image_size", "resize", "mean", "std", "epoch"):
        assert json.loads(metadata[key]) == content[key], key
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape) == ("images", ["batch", 3, 48, 48])
    assert (logits.name, logits.shape) == ("logits", ["batch", 2])
    for number in (1, 7):
        batch = np.zeros((number, 3, 48, 48), dtype=np.float32)
        assert session.run(None, {"images": batch})[0].shape == (number, 2)


def test_predict_answers_from_it_as_from_model_pt(
    predict: Predict, trained: Path, exported: Path, drawn_birds: Path
) -> None:
    by_torch = predict(trained / "model.pt", drawn_birds / "val", "--json")
    by_onnx = predict(exported, drawn_birds / "val", "--json", "--precision", "auto")
    assert (by_onnx.code, by_onnx.err) == (0, "")
    *answers, summary = map(json.loads, by_onnx.out.splitlines())
    *expected, expected_summary = map(json.loads, by_torch.out.splitlines())
    assert summary == expected_summary and len(answers) == 14
    for answer, other in zip(answers, expected, strict=True):
        assert (answer["path"], answer["label"]) == (other["path"], other["label"])
        assert answer["probability"] == pytest.approx(other["probability"], abs=2e-4)


@pytest.mark.slow
def test_two_ranks_answer_from_it_as_one_does(
    predict: Predict, run: Alone, exported: Path, drawn_birds: Path
) -> None:
    args = [str(exported), str(drawn_birds / "val"), "--json"]
    command = ["--nproc-per-node", "2", "--log-line-prefix-template", "", "-m", "train.predict"]
    done = run(*command, *args, timeout_s=120.0)
    assert (done.code, done.err) == (0, "")
    assert done.out == predict(*args).out


def test_the_scoring_service_takes_it_too(
    exported: Path, trained: Path, tmp_path: Path, drawn_birds: Path
) -> None:
    picture = (drawn_birds / "val" / "robin" / "robin_0001.jpg").read_bytes()
    score.init(str(trained))
    expected = score.run(picture)
    (tmp_path / "deep" / "model.onnx").parent.mkdir()
    shutil.copy(exported, tmp_path / "deep" / "model.onnx")
    score.init(str(tmp_path))
    assert score.run(picture) == {
        "label": expected["label"],
        "probability": pytest.approx(expected["probability"], abs=1e-5),
    }
    other_size = score.run(np.zeros((3, 64, 80)).tolist())
    assert other_size == {"error": "the numbers are 3x64x80, and the model takes 3x48x48"}


def test_answers_that_differ_are_an_error_and_no_file(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    exported: Path,
) -> None:
    """The translator is made to take the model of the first epoch's weights, say: not ours."""
    content = torch.load(trained / "model.pt", weights_only=True)
    content["model"]["fc.bias"] += 2e-4
    torch.save(content, tmp_path / "other.pt")
    monkeypatch.setattr("train.exporting.translate", lambda *_: exported.read_bytes())
    target = tmp_path / "model.onnx"
    target.write_bytes(b"an older one")
    pictures = json.loads((trained / "predictions.json").read_text())["data"]
    assert main([str(tmp_path / "other.pt"), str(target), "--pictures", pictures]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"train: error: {target} is not written: largest difference to torch 2.")
    assert said.endswith("e-04 on 32 pictures, more than 1e-04.\n")
    assert target.read_bytes() == b"an older one"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("model.pt", "arguments are required: ONNX. `python -m train.export --help`"),
        ("nowhere.pt x.onnx", "there is no model file nowhere.pt."),
        ("model.onnx x.onnx", "model.onnx is an ONNX file. Give the model.pt that the training"),
        ("model.pt x.onnx", "there is no picture to compare the answers on. Name some with `--pi"),
        ("model.pt x.onnx --pictures nowhere", "there is no picture or folder nowhere."),
        ("model.pt no/folder.onnx --pictures birds", "no/folder.onnx cannot be written (No such"),
    ],
)
def test_a_mistake_is_one_line_and_the_code_is_2(
    trained: Path,
    exported: Path,
    drawn_birds: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    args: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train.exporting.translate", lambda *_: exported.read_bytes())
    (tmp_path / "model.pt").symlink_to(trained / "model.pt")
    (tmp_path / "model.onnx").symlink_to(exported)
    (tmp_path / "birds").symlink_to(drawn_birds)
    assert main(args.split()) == 2
    err = capfd.readouterr().err
    assert err.startswith("train: error: ") and err.count("\n") == 1 and said in err
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no model file x.onnx."),
        (b"no model", "the model file x.onnx cannot be read ("),
        ("bare", "x.onnx is not a model.onnx that `python -m train.export` wrote (without arch"),
    ],
)
def test_another_onnx_file_is_named(
    predict: Predict, exported: Path, tmp_path: Path, content: bytes | str | None, said: str
) -> None:
    if content == "bare":
        import onnx

        model = onnx.load(exported)
        del model.metadata_props[:]
        onnx.save(model, tmp_path / "x.onnx")
    elif content is not None:
        (tmp_path / "x.onnx").write_bytes(content)
    done = predict("x.onnx", ".")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("train: error: ") and said in done.err


def test_predict_has_no_bfloat16_for_it(predict: Predict, exported: Path) -> None:
    done = predict(exported, ".", "--precision", "bf16")
    assert done.code == 2 and "an ONNX file computes in float32; leave out" in done.err


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As if the packages were not installed."""
    from importlib.util import find_spec

    monkeypatch.setattr(
        "train.command.find_spec", lambda name: None if name in names else find_spec(name)
    )


def test_without_the_packages_the_command_is_named(
    trained: Path,
    exported: Path,
    predict: Predict,
    alone: Alone,
    drawn_birds: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    without(monkeypatch, "onnx", "onnxscript", "onnxruntime")
    install = f"Type: {sys.executable} -m pip install "
    assert main([str(trained / "model.pt"), "x.onnx"]) == 2
    assert capfd.readouterr().err == (
        "train: error: the export needs onnx, onnxscript, onnxruntime, which this Python does not"
        f" have. {install}onnx onnxscript onnxruntime\n"
    )
    done = predict(exported, ".")
    assert done.code == 2 and f"{exported} needs onnxruntime, which" in done.err
    assert done.err.endswith(f"{install}onnxruntime\n")
    # Before the first step, not after the last.
    done = alone("--data", drawn_birds, "--export-onnx")
    assert done.code == 2 and "--export-onnx needs onnx, onnxscript, onnxruntime" in done.err
    assert not (tmp_path / "outputs").exists()


def test_the_trainer_exports_its_best_model_at_the_end(
    alone: Alone, drawn_birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Path
) -> None:
    args = ("--data", drawn_birds, "--epochs", 1)
    done = alone(*args, "--export-onnx")
    assert done.code == 0, done.err
    assert "onnx        outputs/model.onnx: largest difference to torch " in done.out
    assert "on 14 pictures\n" in done.out
    (tmp_path / "outputs" / "model.onnx").unlink()
    # The model of another training.
    monkeypatch.setattr("train.exporting.translate", lambda *_: exported.read_bytes())
    done = alone(*args, "--resume", "--export-onnx")
    assert done.code == 1
    assert "train: error: outputs/model.onnx is not written: largest difference" in done.out
    assert not (tmp_path / "outputs" / "model.onnx").exists()
