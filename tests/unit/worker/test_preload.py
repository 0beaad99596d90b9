"""Which modules a fork server may import, from the script's source; and what keeps it from doing
so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.worker import preload

Scan = Callable[..., preload.ScanResult]


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scan:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def go(text: str, others: dict[str, str] | None = None) -> preload.ScanResult:
        for name, content in {"script.py": text, **(others or {})}.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        return preload.scan("script", str(tmp_path / "script.py"))

    return go


def test_heavy_modules_are_found_wherever_they_are_imported(scan: Scan) -> None:
    found = scan(
        "import os, numpy as np\ndef f():\n    from scipy import sparse\nif 0:\n    import"
        " tqdm.auto\n"
    )
    assert {"numpy", "scipy", "scipy.sparse", "tqdm.auto"} <= set(found.modules)
    assert "os" not in found.modules
    assert found.obstacle == ""


def test_torch_brings_what_every_rank_needs_of_it(scan: Scan) -> None:
    assert {"torch", "torch.distributed"} <= set(scan("import torch\n").modules)
    assert scan("import launcher\n").modules == (
        *("torch", "torch.distributed"),
        *("launcher.worker.context", "launcher.worker.dist"),  # for launcher.init()
    )
    for text in (
        "from launcher.jobs import Run",
        "import launcher.jobs",
        "from launcher import jobs",
    ):
        assert scan(text + "\n").modules == ()


def test_ignite_is_shared_and_brings_torch(scan: Scan) -> None:
    found = scan("from ignite.engine import Engine\nimport ignite.distributed as idist\n")
    assert {"torch", "ignite.engine", "ignite.distributed"} <= set(found.modules)


@pytest.mark.parametrize("name", ["lightning", "timm", "transformers", "accelerate"])
def test_what_looks_around_while_it_is_loaded_is_loaded_by_each_rank(name: str, scan: Scan) -> None:
    assert set(scan(f"import {name}\n").modules) == {"torch", "torch.distributed"}


def test_imports_of_the_users_own_modules_are_followed(scan: Scan) -> None:
    files = {
        "mine.py": "import numpy",
        "package/__init__.py": "",
        "package/inner.py": "from . import more",
        "package/more.py": "import pandas",
    }
    found = scan("import mine\nfrom package import inner\n", files)
    assert {"numpy", "pandas"} <= set(found.modules)
    assert not {"mine", "package", "package.inner"} & set(found.modules)


@pytest.mark.parametrize(
    ("setting", "variable"),
    [
        ("os.environ['OMP_NUM_THREADS'] = '1'", "OMP_NUM_THREADS"),
        ("environ['MKL_NUM_THREADS'] = '1'", "MKL_NUM_THREADS"),
        ("os.environ.setdefault('KMP_AFFINITY', 'x')", "KMP_AFFINITY"),
        ("os.environ.update({'a': '', 'OPENBLAS_NUM_THREADS': '1'})", "OPENBLAS_NUM_THREADS"),
        ("os.environ.update(TORCH_HOME='x')", "TORCH_HOME"),
        ("os.environ |= {'PYTORCH_CUDA_ALLOC_CONF': 'x'}", "PYTORCH_CUDA_ALLOC_CONF"),
        ("os.putenv('TQDM_DISABLE', '1')", "TQDM_DISABLE"),
        ("from os import putenv; putenv('OMP_DYNAMIC', '1')", "OMP_DYNAMIC"),
        ("from os import environ as env; env['OMP_DYNAMIC'] = '1'", "OMP_DYNAMIC"),
        ("env = os.environ\nenv.update(OMP_DYNAMIC='1')", "OMP_DYNAMIC"),
    ],
)
def test_variables_that_are_set_before_a_heavy_import_are_an_obstacle(
    scan: Scan, setting: str, variable: str
) -> None:
    assert f"script.py sets {variable}" in scan(f"import os\n{setting}\nimport torch\n").obstacle
    assert scan(f"import os, torch\n{setting}\n").obstacle == ""


@pytest.mark.parametrize("text", ["x = (\n", "\0", "import numpy\nclass\n", "", "\xff\xfe"])
def test_a_source_that_cannot_be_read_is_no_error_here(scan: Scan, text: str) -> None:
    assert scan(text) == preload.ScanResult((), "")


@pytest.mark.parametrize(
    "setting",
    [
        "any_dict['OMP_NUM_THREADS'] = 1",
        "defaults.setdefault('OMP_NUM_THREADS', 1)",
        "config.update({'MKL_NUM_THREADS': 1}, OMP_NUM_THREADS=1)",
        "table |= {'OMP_NUM_THREADS': 1}",
        "child_env = dict(os.environ)\nchild_env['OMP_NUM_THREADS'] = '1'",
    ],
)
def test_only_what_is_set_in_the_environment_is_an_obstacle(scan: Scan, setting: str) -> None:
    assert scan(f"import os\n{setting}\nimport torch\n").obstacle == ""


def test_harmless_settings_are_no_obstacle(scan: Scan) -> None:
    text = "import os\nos.environ['CUDA_VISIBLE_DEVICES'] = os.environ['LOCAL_RANK']\n"
    text += "config = {}\nconfig.update(lr=1)\nimport torch\n"
    assert scan(text).obstacle == ""
