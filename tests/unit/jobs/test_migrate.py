"""What `migrate` does with the import lines of Azure ML's scripts and notebooks."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from launcher.jobs import VERSION
from launcher.jobs.cli.migrate import migrate_text


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("from azureml.core import Run", "from launcher.jobs.core import Run"),
        ("  from azureml import core", "  from launcher.jobs import core"),
        ("import azureml.core", "import launcher.jobs.core, launcher.jobs as azureml"),
        ("import azureml", "import launcher.jobs as azureml"),
        ("import azureml.core as core  # SDK", "import launcher.jobs.core as core  # SDK"),
        ("import os, azureml.core", "import os, launcher.jobs.core, launcher.jobs as azureml"),
        ("import azuremlish", "import azuremlish"),
        ("print('from azureml')", "print('from azureml')"),
    ],
)
def test_only_import_lines_are_changed(line: str, becomes: str) -> None:
    new, count, missing = migrate_text(line + "\n")
    assert (new, count, missing) == (becomes + "\n", int(line != becomes), [])


def test_a_name_that_is_used_after_its_import_still_means_something(tmp_path: Path) -> None:
    # The first cell of nearly every notebook.
    new, _, _ = migrate_text("import azureml.core\nversion = azureml.core.VERSION\n")
    (tmp_path / "cell.py").write_text(new)
    assert runpy.run_path(str(tmp_path / "cell.py"))["version"] == VERSION


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        (
            "from azureml.core import (\n    Run,  # a run\n    Webservice as W,\n)",
            "core.Webservice",
        ),
        ("from azureml.core import Run, \\\n    Webservice", "core.Webservice"),
        ("from azureml.train.hyperdrive import choice; x = 1", "train.hyperdrive.choice"),
        ("import azureml.contrib.tools as tools", "contrib.tools"),
    ],
)
def test_what_has_no_counterpart_is_named(text: str, missing: str) -> None:
    assert migrate_text(text)[2] == [f"azureml.{missing}"]
