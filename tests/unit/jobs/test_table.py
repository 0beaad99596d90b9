"""What a person sees in a terminal."""

from __future__ import annotations

import math

import pytest

from launcher.jobs.cli import table
from launcher.jobs.index import read_arguments


def test_columns_are_aligned_and_the_flexible_one_is_cut() -> None:
    text = table.render(["A", "WHAT"], [["one", "x" * 40], ["three", "short"]], 20)
    assert text.splitlines() == ["A      WHAT", "one    xxxxxxxxxxxx…", "three  short"]


def test_a_status_has_a_colour_on_terminals_only() -> None:
    rows = [["Failed", "Completed of sorts"]]
    plain = table.render(["STATUS", "WHAT"], rows, 80)
    assert "\033" not in plain
    coloured = table.render(["STATUS", "WHAT"], rows, 80, is_colourful=True)
    assert coloured.count("\033[31mFailed\033[0m") == 1 and "\033[32m" not in coloured


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.7, "9.7 s"), (75, "75 s"), (600, "10 min"), (9000, "2 h"), (1e6, "12 d")],
)
def test_ages_are_short(seconds: float, text: str) -> None:
    assert table.show_age(seconds) == text


def test_a_plot_has_its_range_at_the_side() -> None:
    lines = table.plot("loss", [1.0, math.nan, 0.5, 0.0], 40).splitlines()
    assert lines[0] == "loss: 4 values, last 0"
    assert lines[1].startswith("1 |•") and lines[-1].startswith("0 |") and lines[-1].endswith("•")
    assert max(map(len, lines)) <= 40
    assert table.plot("nan", [math.nan], 40) == "nan: no finite value"


def test_arguments_are_read_as_people_write_them() -> None:
    words = ["--lr", "0.1", "--epochs=3", "-b", "64", "--amp", "--shift", "-1", "seed=7", "x"]
    assert read_arguments(words) == {
        "lr": 0.1,
        "epochs": 3,
        "b": 64,
        "amp": "",
        "shift": -1,
        "seed": 7,
    }
