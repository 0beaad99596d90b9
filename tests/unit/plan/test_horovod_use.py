"""Which programs use Horovod, and which its elastic form: seen in the script, or said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.options.spec import LaunchSpec
from launcher.plan.program import horovod_use

_IMPORT = "import horovod.torch as hvd\n"


def use(folder: Path, text: str, said: str | None = None, **options: Any) -> str:
    (folder / "train.py").write_text(text)
    spec = LaunchSpec(script=str(folder / "train.py"), **options)
    return horovod_use(spec, {} if said is None else {"HOROVOD_ELASTIC": said})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{_IMPORT}@hvd.elastic.run\ndef train(state): ...\n", True),
        (f"{_IMPORT}if True:\n    state = hvd.elastic.TorchState(model)\n", True),
        ("from horovod.torch import elastic\n", True),
        ("import horovod.torch.elastic as restartable\n", True),
        (_IMPORT, False),
        (f"{_IMPORT}# @hvd.elastic.run\n", False),
        (f"{_IMPORT}from torch.distributed.elastic.multiprocessing.errors import record\n", False),
        (f"{_IMPORT}elastic = 0.5\n", False),
        ("model.elastic.run()\n", False),
    ],
)
def test_a_script_shows_whether_it_uses_the_elastic_form(
    tmp_path: Path, text: str, expected: bool
) -> None:
    assert (use(tmp_path, text) == "elastic") is expected


def test_where_it_cannot_be_seen_it_is_said(tmp_path: Path) -> None:
    assert use(tmp_path, "", module=True, backend="horovod") == "fixed"
    assert use(tmp_path, "", "1", module=True, backend="horovod") == "elastic"
    assert use(tmp_path, _IMPORT, "1") == "elastic"
    assert use(tmp_path, f"{_IMPORT}@hvd.elastic.run\n", "0") == "fixed"


def test_a_backend_that_is_another_one_rules_it_out(tmp_path: Path) -> None:
    assert use(tmp_path, "", "1", backend="gloo") == ""
    assert use(tmp_path, f"{_IMPORT}@hvd.elastic.run\n", backend="nccl") == ""


def test_a_script_that_has_gone_uses_nothing(tmp_path: Path) -> None:
    assert horovod_use(LaunchSpec(script=str(tmp_path / "gone.py")), {}) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (_IMPORT, "fixed"),
        ('import launcher\nctx = launcher.init(backend="horovod")\n', "fixed"),
        ("import launcher\nctx = launcher.init('horovod', timeout_s=9)\n", "fixed"),
        ('import launcher\nctx = launcher.init(\n    backend="horovod",\n)\n', "fixed"),
        ('import launcher\nctx = launcher.init(backend="gloo")\n', ""),
        ('parser.add_argument("--backend", choices=["gloo", "horovod"])\n', ""),
    ],
)
def test_a_script_shows_whether_it_uses_horovod(tmp_path: Path, text: str, expected: str) -> None:
    assert use(tmp_path, text) == expected
