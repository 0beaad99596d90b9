"""What is said of a run whose launcher has left no report."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.jobs.agent import _Agent
from launcher.jobs.store import RunFolder

_RULE = "-" * 74


@pytest.mark.parametrize(
    ("driver", "ranks", "words"),
    [
        ("", {}, ""),
        ("begun\nlauncher: error: no such file\n\n", {}, "launcher: error: no such file"),
        (f"{_RULE}\nmpirun detected\n  Exit code:    1\n{_RULE}\n", {}, "Exit code:    1"),
        (
            f"{_RULE}\n  Exit code:    137\n{_RULE}\n",
            {0: "up\n", 1: "up\nlauncher: the supervisor was killed\nbye\n"},
            "launcher: the supervisor was killed",
        ),
    ],
)
def test_the_last_words_name_a_cause(
    driver: str, ranks: dict[int, str], words: str, tmp_path: Path
) -> None:
    run = RunFolder(str(tmp_path))
    Path(run.driver_log).write_text(driver)
    for rank, text in ranks.items():
        Path(run.ranks).mkdir(exist_ok=True)
        Path(run.ranks, f"{rank}.log").write_text(text)
    assert _Agent(run)._last_words() == words
