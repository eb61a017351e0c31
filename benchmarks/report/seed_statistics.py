"""The statistics of the results: what is said about a few seeds, as pure functions of their numbers.

Aggregates follow Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice":
the interquartile mean over runs, and the probability that one algorithm improves on another. The bootstrap interval
of a mean is `agents.evaluation.bootstrap_interval`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


def interquartile_mean(values: Sequence[float] | Float) -> float:
    """Mean of the middle half: a quarter of the N values is cut off at either end, weighing the edges.

    With N not divisible by 4 the value at the edge counts by the part of it that lies inside, so that two or
    three seeds still have one: the function is the mean of the sorted sample over ranks N/4 .. 3N/4.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    count = len(ordered)
    ranks = np.arange(count)
    inside = np.clip(np.minimum(ranks + 1, 0.75 * count) - np.maximum(ranks, 0.25 * count), 0.0, None)
    return float((inside * ordered).sum() / inside.sum())


def probability_of_improvement(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """P(X > Y) + P(X = Y) / 2 for X drawn from `ours` and Y from `theirs` (Mann-Whitney U / nm)."""
    x, y = np.asarray(ours, dtype=float)[:, None], np.asarray(theirs, dtype=float)[None]
    return float(((x > y) + 0.5 * (x == y)).mean())


def wilson(successes: int, episodes: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95% interval of a success rate: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)."""
    p, n = successes / episodes, float(episodes)
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    # The ends are exact where all or none succeeded; rounding must not exclude them.
    return 0.0 if successes == 0 else float(low), 1.0 if successes == episodes else float(high)


def first_reach(times: Sequence[float], values: Sequence[float], threshold: float) -> float:
    """The first of `times` at which `values` is at least `threshold`; NaN if it never is."""
    for time, value in zip(times, values, strict=True):
        if value >= threshold:
            return float(time)
    return float("nan")
