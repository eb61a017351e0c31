"""The scores of one recorded episode, and what is known of its reads: what the GIF and the page are made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.model import ActorCritic
from recall.record.tape import Tape
from recall.scores.decision import policy_effect
from recall.scores.registry import (
    SCORES,
    Measures,
    ReadMeasures,
    ScoreMatrix,
    as_matrix,
    kind_of,
    measure,
    measure_reads,
    score_matrices,
)


def measures_of(model: Any, tape: Tape) -> Measures | ReadMeasures | None:
    """What is known of the reads of a memory; None for a core that only carries a state."""
    if kind_of(tape) == "other":
        return None
    effect = _policy_effect(model, tape)
    return measure(tape, effect) if tape.addresses is None else measure_reads(tape, effect)


def scores_of(
    model: Any,
    tape: Tape,
    measures: Measures | ReadMeasures | None,
    names: Collection[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
    given: Mapping[str, ScoreMatrix | Any] | None = None,
    window: int | None = None,
) -> dict[str, ScoreMatrix]:
    """The named scores in the order of `SCORES`, and those `given` by the caller, each a matrix [T, T]."""
    given = given or {}
    known = measures if isinstance(measures, Measures) else None
    found = score_matrices(tape, sorted(set(names) - set(given)), known, model, progress, window)
    for name, matrix in given.items():
        found[name] = as_matrix(name, matrix, tape.steps)
    return {name: found[name] for name in SCORES if name in found}


def _policy_effect(model: Any, tape: Tape) -> NDArray[np.float64] | None:
    """Whether reading affects the action, for models of this package that can be replayed."""
    return policy_effect(model, tape) if isinstance(model, ActorCritic) and not tape.start_step else None
