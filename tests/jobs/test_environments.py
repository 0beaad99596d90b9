"""Environments that are built: once for all runs, and with the failing requirement named.

The packages come from a folder, so that no test needs a network.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from launcher.jobs import CondaDependencies, Environment, packages, solver
from tests.jobs.conftest import Submit

pytestmark = pytest.mark.slow

_SCRIPT = "import tiny, sys\nprint(tiny.VERSION, sys.prefix)\n"


def needing(*names: str, python: str | None = None) -> Environment:
    environment = Environment("tiny")
    environment.python.conda_dependencies = CondaDependencies.create(
        pip_packages=["azureml-defaults", *names], python_version=python
    )
    return environment


def test_an_environment_is_built_once(submit: Submit, wheels: Path) -> None:
    first = submit(_SCRIPT, environment=needing("tiny==1.0"))
    first.wait_for_completion()
    version, prefix = Path(first._folder.driver_log).read_text().split()
    assert version == "1.0" and "/cache/envs/" in prefix
    assert "azureml-logs/20_image_build_log.txt" in first.get_file_names()
    second = submit(_SCRIPT, environment=needing("tiny==1.0"))
    second.wait_for_completion()
    assert prefix in Path(second._folder.driver_log).read_text()
    assert not Path(second._folder.build_log).exists()
    assert [built.packages for built in packages.list_built()] == [{"tiny": "1.0"}]
    assert packages.prune(0.0) == [] and packages.prune(2e10) == [prefix]


def test_a_pin_that_cannot_be_had_is_named(submit: Submit, wheels: Path) -> None:
    run = submit(_SCRIPT, environment=needing("tiny==0.5"))
    details = run.wait_for_completion(raise_on_error=False)
    error = details["error"]["error"]
    assert error["code"] == "EnvironmentFailed"
    assert "tiny==0.5 cannot be had for Python" in error["message"]
    assert "the nearest version is 1.0" in error["message"] and "nearest = True" in error["message"]


def test_the_nearest_versions_are_taken_where_that_is_wanted(submit: Submit, wheels: Path) -> None:
    environment = needing("tiny==0.5", python="3.6.2")
    environment.python.nearest = True
    run = submit(_SCRIPT, environment=environment)
    run.wait_for_completion()
    assert Path(run._folder.driver_log).read_text().startswith("1.0 ")
    log = Path(run._folder.build_log).read_text()
    assert "launcher.jobs: python=3.6.2 cannot be had;" in log
    assert "launcher.jobs: tiny==0.5 cannot be had; 1.0 is taken instead" in log


def test_a_package_that_does_not_exist_is_named(submit: Submit, wheels: Path) -> None:
    run = submit(_SCRIPT, environment=needing("nothing-like-it"))
    reason = run.wait_for_completion(raise_on_error=False)["statusReason"]
    assert reason == "nothing-like-it cannot be had: there is no such package here."


@pytest.fixture
def conda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for micromamba, which is not here: a solver that knows one package.

    It writes down what it is told, and makes a virtual environment with that package.
    """
    folder = tmp_path / "conda"
    folder.mkdir()
    program = folder / "micromamba"
    program.write_text(
        f"""#!/bin/sh
echo "$@" >{folder}/told
case "$*" in *nothing-like-it*)
    echo "error    libmamba Could not solve for environment specs"
    echo "    └─ nothing-like-it does not exist (perhaps a typo or a missing channel)."
    exit 1
esac
while [ "$1" != --prefix ]; do shift; done
{sys.executable} -m venv --without-pip "$2"
echo "VERSION = 'of conda'" >"$(echo "$2"/lib/python*/site-packages)/tiny.py"
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def of_conda(*names: str) -> Environment:
    environment = Environment("tiny")
    environment.python.conda_dependencies = CondaDependencies.create(conda_packages=[*names])
    environment.python.conda_dependencies.add_channel("birds")
    return environment


def test_a_solver_of_conda_makes_what_asks_for_its_packages(submit: Submit, conda: Path) -> None:
    run = submit(_SCRIPT, environment=of_conda("tiny=1.0"))
    run.wait_for_completion()
    version, prefix = Path(run._folder.driver_log).read_text().removeprefix("of ").split()
    assert version == "conda" and "/cache/envs/" in prefix
    python = ".".join(map(str, sys.version_info[:2]))
    assert (conda / "told").read_text() == (
        f"create --yes --prefix {prefix} --channel birds python={python} pip tiny=1.0\n"
    )


def test_what_a_solver_refuses_is_named(submit: Submit, conda: Path) -> None:
    asked = of_conda("nothing-like-it")
    refused = submit("pass", environment=asked).wait_for_completion(raise_on_error=False)
    assert refused["statusReason"] == (
        "micromamba cannot make it: nothing-like-it does not exist (perhaps a typo or a missing"
        " channel)."
    )


def test_what_a_solver_refuses_may_come_from_elsewhere(submit: Submit, conda: Path) -> None:
    asked = of_conda("cudatoolkit=nothing-like-it")
    asked.python.nearest = True
    run = submit("print('there')", environment=asked)
    run.wait_for_completion()
    assert Path(run._folder.driver_log).read_text() == "there\n"
    log = Path(run._folder.build_log).read_text()
    assert "launcher.jobs: micromamba cannot make it: " in log
    assert "cudatoolkit=nothing-like-it is no package of PyPI's and was left out" in log


def test_a_python_in_which_no_run_can_begin_is_refused(submit: Submit) -> None:
    run = submit("pass", environment=needing("tiny", python="3.6.2"))
    reason = run.wait_for_completion(raise_on_error=False)["statusReason"]
    assert reason.startswith("python=3.6.2 cannot be had: runs need 3.10; the nearest is 3.")


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            "PackagesNotFoundError: The following packages are not available:\n\n  - owl=1.0\n\nx",
            "owl=1.0 is in no channel",
        ),
        ("error\n  ├─ owl =1 does not exist (a typo).\nend", "owl =1 does not exist (a typo)."),
        ("one\nconnection refused\n\n", "connection refused"),
        ("", "see the log of the build"),
    ],
)
def test_the_line_of_a_solver_that_names_the_cause(said: str, cause: str) -> None:
    assert solver._refused(said) == cause


@pytest.mark.parametrize(
    ("wanted", "versions", "nearest"),
    [
        ("1.6.0", ["2.0.0", "1.13.1", "1.5"], "1.13.1"),
        ("3.0", ["1.0", "2.10", "2.9"], "2.10"),
        ("1.0", ["1.0+cpu", "2.0"], "1.0+cpu"),
    ],
)
def test_the_nearest_version(wanted: str, versions: list[str], nearest: str) -> None:
    assert packages.find_nearest(wanted, versions) == nearest


def test_packages_of_conda_have_other_names_at_pypi() -> None:
    notes: list[str] = []
    asked = ["pytorch=1.6", "numpy", "cudatoolkit=10.1", "conda-forge::scipy>=1"]
    assert packages._from_conda(asked, notes) == ["torch==1.6.*", "numpy", "scipy>=1"]
    assert "cudatoolkit=10.1 is no package of PyPI's and was left out" in notes
