"""Which programs use Horovod, and which its elastic form: seen in the script's text, or said by a
variable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.horovod.use import horovod_use
from launcher.options.spec import LaunchSpec

_IMPORT = "import horovod.torch as hvd\n"


def uses(folder: Path, text: str, said: str | None = None, **options: Any) -> bool:
    (folder / "train.py").write_text(text)
    spec = LaunchSpec(script=str(folder / "train.py"), **options)
    return horovod_use(spec, {} if said is None else {"HOROVOD_ELASTIC": said}) == "elastic"


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
def test_a_script_shows_it(tmp_path: Path, text: str, expected: bool) -> None:
    assert uses(tmp_path, text) is expected


def test_where_it_cannot_be_seen_it_is_said(tmp_path: Path) -> None:
    assert not uses(tmp_path, "", module=True, backend="horovod")
    assert uses(tmp_path, "", "1", module=True, backend="horovod")
    assert uses(tmp_path, _IMPORT, "1")
    assert not uses(tmp_path, f"{_IMPORT}@hvd.elastic.run\n", "0")
    assert not uses(tmp_path, "", "1", backend="gloo")


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
    (tmp_path / "train.py").write_text(text)
    assert horovod_use(LaunchSpec(script=str(tmp_path / "train.py")), {}) == expected
