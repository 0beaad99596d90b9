"""Measuring in turns: a slow minute of the machine hits all that are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import measure


def take_turns(
    names: Iterable[str], repeat: int, one: Callable[[str], float], *, tell: bool = True
) -> dict[str, list[float]]:
    """Measure each `repeat` times in turns, after one run that does not count.

    Returns the samples of those that never failed. tell: print each sample, too.
    """
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-1, repeat):
        for name in list(samples):
            try:
                value = one(name)
            except measure.Failed as error:
                print(f"  {name} failed: {error}; left out", flush=True)
                del samples[name]
                continue
            if tell:
                print(f"  {name}: {value:.3g}{' (does not count)' if turn < 0 else ''}", flush=True)
            if turn >= 0:
                samples[name].append(value)
    return samples
