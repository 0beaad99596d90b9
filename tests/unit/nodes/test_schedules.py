"""Random schedules over simulated nodes: whatever happens to whom and when, all promises hold.

A seed that fails prints itself, what was typed, and all that has happened. It is run again alone,
or more of them are run, by a variable: SCHEDULES=KIND:SEED or SCHEDULES=FIRST-LAST.

    SCHEDULES=ends:4711 python -m pytest tests/unit/nodes/test_schedules.py
    SCHEDULES=0-50000 python -m pytest tests/unit/nodes/test_schedules.py
"""

from __future__ import annotations

import os

import pytest

from tests.unit.nodes.simulation.network import simulated
from tests.unit.nodes.simulation.promises import broken_promises
from tests.unit.nodes.simulation.schedule import KINDS, Schedule

# How many of each kind the suite tries.
_NUM_SEEDS = 500

_WANTED = os.environ.get("SCHEDULES", f"0-{_NUM_SEEDS}")


def _seeds(kind: str) -> range:
    if ":" in _WANTED:
        wanted_kind, _, seed = _WANTED.partition(":")
        return range(int(seed), int(seed) + (wanted_kind == kind))
    first, _, last = _WANTED.partition("-")
    return range(int(first), int(last))


def play(kind: str, seed: int) -> str:
    """Play one schedule; return its story where a promise was broken, else ""."""
    schedule = Schedule(kind, seed)
    with simulated(schedule.world) as world:
        try:
            has_ended = world.run(schedule.bound_s)
        except Exception as error:
            raise AssertionError("\n".join([str(schedule), *world.log])) from error
    broken = broken_promises(schedule, has_ended=has_ended)
    return "\n".join([*broken, str(schedule), *world.log]) if broken else ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_happens_all_nodes_end_and_agree(kind: str) -> None:
    stories = (play(kind, seed) for seed in _seeds(kind))
    first_broken = next(filter(None, stories), "")
    assert not first_broken, first_broken
