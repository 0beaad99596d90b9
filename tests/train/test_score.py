"""The articles' scoring interface: every form of a request has the same answer, and a broken one
has an answer, too.
"""

from __future__ import annotations

import base64
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from train import score
from train.data import MEAN, STD
from train.errors import TrainerError
from train.pictures import decode, validation_crop


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test finds the model of another one."""
    monkeypatch.delenv("AZUREML_MODEL_DIR", raising=False)
    monkeypatch.setattr(score, "_classifier", None)
    yield


@pytest.fixture
def picture(drawn_birds: Path) -> Path:
    return drawn_birds / "val" / "robin" / "robin_0001.jpg"


def normalised(picture: Path) -> list[Any]:
    """What the article's client sends: 3 x 48 x 48 numbers."""
    pixels = np.asarray(validation_crop(decode(str(picture), 48), 48), dtype=np.float64) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1).tolist()


def test_every_form_of_a_picture_has_the_answer_of_predict(
    trained: Path, picture: Path, predict: Callable[..., Any]
) -> None:
    expected = json.loads(predict(trained / "model.pt", picture, "--json").out)
    content, numbers = picture.read_bytes(), normalised(picture)
    text = base64.b64encode(content).decode()
    score.init(str(trained))
    requests = [
        content,
        bytearray(content),
        text,
        base64.encodebytes(content).decode(),
        f"data:image/jpeg;base64,{text}",
        json.dumps(text),
        {"data": text},
        json.dumps({"data": text}),
        json.dumps({"data": text}).encode(),
        numbers,
        [numbers],
        {"data": [numbers]},
        json.dumps({"data": [numbers]}),
        json.dumps(numbers),
    ]
    for request in requests:
        answer = score.run(request)
        assert json.loads(json.dumps(answer)) == answer, str(request)[:40]
        assert set(answer) == {"label", "probability"}, answer
        assert answer["label"] == expected["label"]
        assert answer["probability"] == pytest.approx(expected["probability"], abs=2e-4)


def test_another_size_of_numbers_is_taken_as_it_is(trained: Path) -> None:
    score.init(str(trained / "model.pt"))
    assert "label" in score.run(np.zeros((3, 64, 80)).tolist())


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (b"", "the picture cannot be read: not a picture"),
        (b"GIF89a", "the picture cannot be read: not a picture"),
        ("", "the picture cannot be read: not a picture"),
        ("not base64!", "neither JSON nor base64"),
        ("{", "the text is no JSON: "),
        (b"[1, 2\xff", "codec can't decode"),
        ("[" * 100_000, "the text is no JSON: "),
        ("{}", 'the JSON object has no "data"'),
        ({"data": None}, "not NoneType"),
        (None, "not NoneType"),
        (3, "not int"),
        ([], "the numbers are 0, not 3xHxW or 1x3xHxW"),
        ([[[[0.0]] * 3]] * 2, "the numbers are 2x1x3x1, not"),
        ([[[0.0]], [[0.0]]], "the numbers are 2x1x1, not"),
        ([[1], [1, 2]], "the list is no array of numbers"),
        ([["a"]], "the list is no array of numbers"),
        ([[[10**400]]] * 3, "the list is no array of numbers"),
        ([[[math.nan]]] * 3, "the numbers are too large for the model, or no numbers"),
        ([[[math.inf]]] * 3, "the numbers are too large for the model, or no numbers"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_broken_request_is_an_answer(trained: Path, request_: Any, said: str) -> None:
    score.init(str(trained))
    answer = score.run(request_)
    assert set(answer) == {"error"}
    assert said in answer["error"] and "\n" not in answer["error"]


def test_a_truncated_picture_is_an_answer(trained: Path, picture: Path) -> None:
    score.init(str(trained))
    assert "the picture cannot be read: " in score.run(picture.read_bytes()[:600])["error"]
    assert score.run(picture.read_bytes())["label"] in ("crow", "robin")  # and it goes on


def test_the_model_is_found_in_the_folder_of_the_variable(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Path
) -> None:
    inner = tmp_path / "model" / "outputs"
    inner.mkdir(parents=True)
    (inner / "model.pt").symlink_to(trained / "model.pt")
    for folder in (inner, tmp_path / "model"):
        monkeypatch.setenv("AZUREML_MODEL_DIR", str(folder))
        score.init()
        assert "label" in score.run(picture.read_bytes())
    shutil.copytree(inner, tmp_path / "model" / "again", symlinks=True)
    with pytest.raises(TrainerError, match=r"there are 2 files model\.pt in "):
        score.init()


def test_without_a_model_it_is_said_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="call init"):
        score.run(b"")
    with pytest.raises(TrainerError, match="or set AZUREML_MODEL_DIR"):
        score.init()
    with pytest.raises(TrainerError, match=r"there is no model\.pt and no model\.onnx in "):
        score.init(str(tmp_path))
    with pytest.raises(TrainerError, match="there is no model file"):
        score.init(str(tmp_path / "model.pt"))
