"""What Slurm's commands answer, and what is made of it."""

from __future__ import annotations

import subprocess

import pytest

from launcher.engines import slurm_client
from launcher.engines.slurm_client import Job


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, subprocess.CompletedProcess[str]]:
    """What each command answers from now on; others fail."""
    found: dict[str, subprocess.CompletedProcess[str]] = {}

    def call(*argv: str, environ: object = None) -> subprocess.CompletedProcess[str]:
        return found.get(argv[0], subprocess.CompletedProcess(argv, 1, "", "no"))

    monkeypatch.setattr(slurm_client, "call", call)
    return found


def said(out: str, err: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess((), code, out, err)


def test_steps_of_other_names_are_left_alone(answers: dict[str, object]) -> None:
    """squeue's own --name lets them through."""
    answers["squeue"] = said("7.0 sleep\n8.0 my train.py.12ab\n8.1 train.py.12ab\n9.0 train.py\n")
    assert slurm_client.find_steps("train.py.12ab") == ["8.1"]
    assert slurm_client.find_steps("my train.py.12ab") == ["8.0"]


UNKNOWN = said("", "slurm_load_jobs error: Invalid job id specified\n", 1)
SILENT = said("", "slurm_load_jobs error: Unable to contact slurm controller\n", 1)


def test_the_state_of_a_job(answers: dict[str, object]) -> None:
    answers["squeue"] = said("PENDING|Resources\n")
    assert slurm_client.ask("12") == Job("PENDING", "Resources")
    answers["squeue"] = said("RUNNING|None\n")
    assert slurm_client.ask("12") == Job("RUNNING")
    answers["squeue"] = UNKNOWN
    assert slurm_client.ask("12") == Job("")
    answers["sacct"] = said("CANCELLED by 0\n")
    assert slurm_client.ask("12") == Job("CANCELLED")
    answers["squeue"] = SILENT
    assert "Unable to contact" in slurm_client.ask("12").reason


@pytest.mark.parametrize(
    ("shown", "accounted", "code"),
    [
        ("JobId=12 JobState=FAILED ExitCode=3:0 DerivedExitCode=9:0", "", 3),
        ("JobId=12 JobState=CANCELLED ExitCode=0:15", "", 143),
        ("", "7:0\n", 7),
        ("", "", None),
    ],
)
def test_how_a_job_has_ended(
    answers: dict[str, object], shown: str, accounted: str, code: int | None
) -> None:
    answers["scontrol"] = said(shown)
    answers["sacct"] = said(accounted)
    assert slurm_client.ask_exit_code("12") == code


def test_a_submitted_job_has_a_number_or_slurms_words_against_it(
    answers: dict[str, object],
) -> None:
    answers["sbatch"] = said("12;cluster\n")
    assert slurm_client.submit("job.sh", {}) == ("12", "")
    answers["sbatch"] = said("", "sbatch: error: Invalid account\n", 1)
    assert slurm_client.submit("job.sh", {}) == ("", "sbatch: error: Invalid account")
