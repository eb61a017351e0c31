"""The statistics of the results, held against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agents.evaluation import bootstrap_interval
from benchmarks.report.seed_statistics import (
    first_reach,
    interquartile_mean,
    probability_of_improvement,
    wilson,
)


def test_the_interquartile_mean_drops_a_quarter_at_either_end() -> None:
    assert interquartile_mean([100.0, 2.0, 4.0, -50.0]) == 3.0
    assert interquartile_mean([5.0]) == 5.0
    # Three values: 3/4 of either end is cut, so (0.25 * 0 + 1 * 6 + 0.25 * 18) / 1.5.
    assert interquartile_mean([18.0, 0.0, 6.0]) == pytest.approx(7.0)


def test_probability_of_improvement_counts_pairs_and_halves_ties() -> None:
    assert probability_of_improvement([3.0, 1.0], [2.0, 0.0]) == 0.75
    assert probability_of_improvement([1.0], [1.0]) == 0.5
    assert probability_of_improvement([1.0, 2.0], [5.0]) == 0.0


def test_wilson_matches_its_textbook_value_and_never_leaves_the_unit_interval() -> None:
    low, high = wilson(95, 100)
    assert (round(low, 3), round(high, 3)) == (0.888, 0.978)
    assert wilson(200, 200, z=3.29)[1] == 1.0
    assert wilson(0, 200, z=3.29)[0] == 0.0


def test_the_bootstrap_interval_covers_the_mean_and_shrinks_with_more_seeds() -> None:
    rng = np.random.default_rng(3)
    few, many = rng.normal(5.0, 1.0, 5), rng.normal(5.0, 1.0, 80)
    widths = []
    for sample in (few, many):
        low, high = bootstrap_interval(sample)
        assert low < sample.mean() < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
    assert bootstrap_interval(np.array([2.0, 2.0])) == (2.0, 2.0)


def test_first_reach_is_the_first_time_and_nan_if_there_is_none() -> None:
    assert first_reach([10, 20, 30], [0.1, 0.6, 0.4], 0.5) == 20.0
    assert math.isnan(first_reach([10, 20], [0.1, 0.2], 0.5))
