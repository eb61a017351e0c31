"""Does a ranking of the earlier writes find the step that is known to be needed?

For every episode the writes s < t are ranked by a score at the decision step t, and the rank of the cue's step
is noted. Beside the scores stand baselines that know nothing of the memory's content: a score is worth showing
only if it beats them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluation import bootstrap_interval
from agents.play import Actor
from recall.record.tape import Tape
from recall.scores.from_tape import rank
from recall.scores.recalls import Thresholds
from recall.scores.registry import SCORES, Kind, Sources
from recall.validate.planted import PlayedEpisode

Float = NDArray[np.float64]
R2, R4 = SCORES["removal"].title, SCORES["decision"].title
OF_POLICY = [score.title for score in SCORES.values() if score.of_policy]
BASELINES = ("random", "recency", "oldest first", "best fixed lag", "write strength", "beta")
BLIND_BASELINES = BASELINES[:4]
"""Baselines that do not look at the memory at all."""
RESAMPLES = 2_000


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def bootstrap(values: Sequence[float] | Float) -> Interval:
    """Percentile bootstrap over episodes, from a fixed random stream."""
    x = np.asarray(values, np.float64)
    return Interval(float(x.mean()), *bootstrap_interval(x, resamples=RESAMPLES))


@dataclass(frozen=True)
class RankingResult:
    """How well one ranking finds the cue."""

    name: str
    hit_1: Interval
    hit_5: Interval
    mrr: Interval
    near_1: float
    """Share of episodes whose first-ranked step is the cue's or a neighbour of it."""
    near_2: float
    """The same within two steps."""
    by_cue: dict[int, float]
    """hit@1 for every value of the cue."""
    seconds: float
    """Time for the scores of all episodes, at their decision steps; 0 for baselines."""
    shown: float | None = None
    """For scores of the policy: share of the decisions at which a panel would not be grey, since some step matters."""
    hit_1_shown: Interval | None = None
    """hit@1 among those decisions."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        intervals = {
            name: [getattr(self, name).mean, getattr(self, name).low, getattr(self, name).high]
            for name in ("hit_1", "hit_5", "mrr")
        }
        if self.hit_1_shown is not None:
            shown = self.hit_1_shown
            intervals["hit_1_shown"] = [shown.mean, shown.low, shown.high]
        return {
            "name": self.name,
            **intervals,
            "near_1": self.near_1,
            "near_2": self.near_2,
            "hit_1_by_cue": {str(cue): value for cue, value in self.by_cue.items()},
            "shown": self.shown,
            "seconds": self.seconds,
        }


def write_sizes(tape: Tape, t: int) -> Float:
    """|U_s| of the writes s < t, over all heads and layers. [t]"""
    squares = sum(np.square(u[:t].astype(np.float64)).sum(axis=(1, 2)) for u in tape.written().write_steps)
    return np.sqrt(squares)


def scores_at_decision(
    episodes: Sequence[PlayedEpisode], kind: Kind, model: Actor
) -> tuple[dict[str, list[Float]], dict[str, float]]:
    """Title -> one array of scores per episode, of every score that is reported; and title -> seconds."""
    scores: dict[str, list[Float]] = {}
    seconds: dict[str, float] = {}
    for score in SCORES.values():
        if kind in score.memory and score.reported:
            begun = time.perf_counter()
            scores[score.title] = [score.at(Sources(e.tape, model), e.decision) for e in episodes]
            seconds[score.title] = time.perf_counter() - begun
    return scores, seconds


def blind_scores(episodes: Sequence[PlayedEpisode], seed: int = 0) -> dict[str, list[Float]]:
    """Rankings that do not look at the memory at all; `best fixed lag` is the best one in hindsight."""
    rng = np.random.default_rng(seed)
    lags = [episode.decision - episode.cue_step for episode in episodes]
    best = np.bincount(lags).argmax() if lags else 1
    decisions = [episode.decision for episode in episodes]
    return {
        "random": [rng.random(t) for t in decisions],
        "recency": [np.arange(t, dtype=np.float64) for t in decisions],
        "oldest first": [-np.arange(t, dtype=np.float64) for t in decisions],
        "best fixed lag": [-np.abs(t - np.arange(t) - best).astype(np.float64) for t in decisions],
    }


def baseline_scores(episodes: Sequence[PlayedEpisode], seed: int = 0) -> dict[str, list[Float]]:
    """The blind rankings, and two that look at how much was written and not at what."""
    tapes = [(episode.tape, episode.decision) for episode in episodes]
    return {
        **blind_scores(episodes, seed),
        "write strength": [write_sizes(tape, t) for tape, t in tapes],
        "beta": [tape.written().beta[:t].astype(np.float64) for tape, t in tapes],
    }


def judge(
    name: str, scores: Sequence[Float], episodes: Sequence[PlayedEpisode], seconds: float = 0.0
) -> RankingResult:
    """Where the cue's step, or the first of several needed ones, stands in the ranking of every episode."""
    orders = [rank(row, len(row), len(row)) for row in scores]
    pairs = list(zip(orders, episodes, strict=True))
    places = np.array([1 + min(order.index(step) for step in e.needed) for order, e in pairs])
    missed = np.array([min(abs(order[0] - step) for step in e.needed) for order, e in pairs])
    cues = np.array([e.cue for e in episodes])
    hits = places == 1
    shown = None
    if name in OF_POLICY:
        shown = np.array([row.max() >= Thresholds().divergence for row in scores])
    return RankingResult(
        name,
        bootstrap(hits.astype(np.float64)),
        bootstrap((places <= 5).astype(np.float64)),
        bootstrap(1.0 / places),
        float((missed <= 1).mean()),
        float((missed <= 2).mean()),
        {int(cue): float(hits[cues == cue].mean()) for cue in np.unique(cues)},
        seconds,
        None if shown is None else float(shown.mean()),
        None if shown is None or not shown.any() else bootstrap(hits[shown].astype(np.float64)),
    )
