"""The recalls of every step of an episode: the top k earlier steps by a score, and whether they may be believed.

The score is R2 unless another one is asked for, or R5 where there is nothing but a recurrent state. A list of recalls
is shown in grey, with the reason, where it would mislead:
* "memory not used": the share of what was written in the value read is below a threshold;
* "action unaffected": had the unwritten memory answered, no action's probability would differ by more than a
  threshold. It can be told only with the model at hand. What is read also enters the controller's state and
  may matter later; but it does not explain what the agent does now. For scores of whole steps (R5) the same is asked
  of everything that came before: the agent that has just begun would do what this one does;
* "no single step", for scores of whole steps: everything before matters to the action, and no step by itself does,
  as when the same thing was seen in several steps;
* "writes interact": the single removals do not add up (residual rho above a threshold), so that the score of
  one write alone does not say how much it contributed. Only the bars are grey then: which write matters stays
  meaningful, and so does the joint removal of the listed writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recall.record.tape import Tape, walk_weights
from recall.scores.from_tape import joint_removal, rank
from recall.scores.registry import (
    SCORES,
    Measures,
    ReadMeasures,
    ScoreMatrix,
    address_matrix,
    measure,
    measure_reads,
)

SCORE_NAME = SCORES["removal"].label
SCORE_MEANING = SCORES["removal"].meaning
NOT_USED = "memory not used"
INTERACT = "writes interact"
UNAFFECTED = "action unaffected"
NO_SINGLE = "no single step"
DOUBTS = ("", NOT_USED, INTERACT, UNAFFECTED, NO_SINGLE)
CLEARLY = 1.25
"""A recall changes its row only to pass one that it exceeds by this factor."""


@dataclass(frozen=True)
class Thresholds:
    """Where a list of recalls turns grey."""

    use_share: float = 0.05
    """Below this share |v_r - v_0| / |v_r| the memory counts as not used."""
    residual: float = 0.3
    """Above this residual rho single writes are not meaningful by themselves."""
    policy: float = 0.02
    """Below this change of every action's probability what is read does not affect the action."""

    @property
    def divergence(self) -> float:
        """The KL divergence below which no probability can change by `policy`: |p - q| <= sqrt(KL / 2), which
        is Pinsker's inequality."""
        return 2.0 * self.policy**2


@dataclass(frozen=True)
class StepRecalls:
    """The recalls of one step t. R2 scores are divided by |v_r - v_0|, the whole effect of memory on this
    read."""

    writes: tuple[int, ...]
    """Rows s < t of the tape, best first; at most top k, and never a write that scores 0 or less."""
    scores: tuple[float, ...]
    """The score of each, for R2 |D_s| / |v_r - v_0|."""
    supports: tuple[bool, ...]
    """Whether D_s points along v_r - v_0 (the write supports what was read) or against it."""
    own_score: float
    """The same score of the step's own write ("now"), which is shown apart and never ranked."""
    joint_score: float
    """|change| / |v_r - v_0| if all listed writes are removed together."""
    use_share: float
    """|v_r - v_0| / |v_r|; 1 for a score of whole steps."""
    residual: float
    """The interaction residual: rho, or that of the score where it has its own."""
    judged_by_residual: bool = True
    """False for a score in which writes cannot hide each other: a large residual does not make it doubtful."""
    policy_effect: float | None = None
    """The greatest change of an action's probability if v_0 had been read, or, for a score of whole steps, if nothing
    had been taken in; None if it is not known."""
    of_policy: bool = False
    """Whether the scores are themselves changes of the policy (R4, R5), not of the value read."""
    of_steps: bool = False
    """Whether the scores are of whole steps (R5), not of what was written to or read from a memory."""
    had_effect: tuple[bool, ...] | None = None
    """Hard memory: whether each listed write was read at all, or only came close; None: every one has its score.
    """

    def counts(self, rank: int) -> bool:
        """Whether the write at this rank, counted from 0, had an effect on what was read."""
        return self.had_effect is None or self.had_effect[rank]

    def belongs_above(self, lower: int, upper: int) -> bool:
        """Whether the rank `lower` must not stand below the rank `upper`: it alone had an effect, or is clearly
        better."""
        if self.counts(lower) != self.counts(upper):
            return self.counts(lower)
        return self.scores[lower] > CLEARLY * self.scores[upper]

    def doubt(self, thresholds: Thresholds) -> str:
        """Why the list must not be taken at face value; empty if it may be."""
        if self.of_steps:
            if self.scores and self.scores[0] >= thresholds.divergence:
                return ""
            needed = self.policy_effect is not None and self.policy_effect >= thresholds.policy
            return NO_SINGLE if needed else UNAFFECTED
        if self.use_share < thresholds.use_share:
            return NOT_USED
        if self.of_policy:
            return UNAFFECTED if self.scores and self.scores[0] < thresholds.divergence else ""
        if self.policy_effect is not None and self.policy_effect < thresholds.policy:
            return UNAFFECTED
        return INTERACT if self.judged_by_residual and self.residual > thresholds.residual else ""


def recalls_of(
    tape: Tape,
    top_k: int,
    matrix: ScoreMatrix | None = None,
    measures: Measures | ReadMeasures | None = None,
) -> list[StepRecalls]:
    """`StepRecalls` of every row of a tape, by R2 or by the score in `matrix`.

    `measures` are those of `measure(tape)`, if already at hand. The tape of a hard memory has one list beside R5.
    """
    if matrix is not None and SCORES[matrix.name].of_steps:
        return step_recalls(tape, top_k, matrix)
    if tape.addresses is not None:
        return address_recalls(tape, top_k, measures)
    assert not isinstance(measures, ReadMeasures)
    known = measures or measure(tape)
    matrix = matrix or known.removal
    residual = known.residual if matrix.residual is None else matrix.residual
    found = []
    for t, weights in enumerate(walk_weights(tape)):
        row = matrix.values[t]
        writes = [s for s in rank(row[: t + 1], t, top_k) if row[s] > 0]
        joint = float(np.linalg.norm(joint_removal(tape, t, writes, weights))) if writes else 0.0
        found.append(
            StepRecalls(
                writes=tuple(writes),
                scores=tuple(float(row[s]) for s in writes),
                supports=tuple(matrix.supports is None or bool(matrix.supports[t, s]) for s in writes),
                own_score=float(row[t]),
                joint_score=joint / known.effect[t] if known.effect[t] > 0 else 0.0,
                use_share=float(known.use_share[t]),
                residual=float(residual[t]),
                judged_by_residual=matrix.residual is not None,
                policy_effect=None if known.policy_effect is None else float(known.policy_effect[t]),
                of_policy=SCORES[matrix.name].of_policy,
            )
        )
    return found


def step_recalls(tape: Tape, top_k: int, matrix: ScoreMatrix) -> list[StepRecalls]:
    """The steps without which the policy would differ most, for a score of whole steps."""
    found = []
    for t in range(tape.steps):
        row = matrix.values[t]
        steps = [s for s in rank(row[: t + 1], t, top_k) if row[s] > 0] if t else []
        found.append(
            StepRecalls(
                writes=tuple(steps),
                scores=tuple(float(row[s]) for s in steps),
                supports=(True,) * len(steps),
                own_score=float(row[t]),
                joint_score=0.0,
                use_share=1.0,
                residual=0.0,
                judged_by_residual=False,
                policy_effect=None if matrix.forgotten is None else float(matrix.forgotten[t]),
                of_policy=True,
                of_steps=True,
            )
        )
    return found


def address_recalls(
    tape: Tape, top_k: int, measures: Measures | ReadMeasures | None = None
) -> list[StepRecalls]:
    """The slots that were read, by the share of the heads that read them, then the runners-up.

    A runner-up had no effect: its score is only the probability of that address, averaged over the heads.
    """
    assert tape.addresses is not None
    known = measure_reads(tape) if measures is None else measures
    shares = address_matrix(tape).values
    likely = tape.addresses.probability.mean(axis=1)
    found = []
    for t in range(tape.steps):
        chances = np.zeros(t)
        for slot, tag in enumerate(tape.addresses.tags[t]):
            if tag >= tape.start_step:
                chances[tag - tape.start_step] = likely[t, slot]
        read = [s for s in rank(shares[t, :t], t, top_k) if shares[t, s] > 0] if t else []
        close = (
            [s for s in rank(chances, t, t) if s not in read and chances[s] > 0][: top_k - len(read)]
            if t
            else []
        )
        found.append(
            StepRecalls(
                writes=(*read, *close),
                scores=(*(float(shares[t, s]) for s in read), *(float(chances[s]) for s in close)),
                supports=(True,) * (len(read) + len(close)),
                own_score=0.0,
                joint_score=0.0,
                use_share=float(known.use_share[t]),
                residual=0.0,
                judged_by_residual=False,
                policy_effect=None if known.policy_effect is None else float(known.policy_effect[t]),
                had_effect=(True,) * len(read) + (False,) * len(close),
            )
        )
    return found


def bar_scale(recalls: Sequence[StepRecalls], thresholds: Thresholds) -> float:
    """The score that fills a bar, one for the whole episode: the highest that may be believed, else the
    highest."""
    best = [(step.scores[0], step.doubt(thresholds)) for step in recalls if step.scores]
    for accepted in (("", UNAFFECTED), ("", UNAFFECTED, INTERACT), DOUBTS):
        highest = max((score for score, doubt in best if doubt in accepted), default=0.0)
        if highest > 0:
            return highest
    return 1.0


Rows = tuple[int | None, ...]
"""[top k] which rank, counted from 0, is shown in each row; None leaves the row empty."""


def stable_rows(recalls: Sequence[StepRecalls], top_k: int) -> list[Rows]:
    """In which row each recall is shown, for every step: best on top, without needless movement.

    Sorting strictly at every step lets two nearly equal recalls swap places back and forth, and lets one
    newcomer push all others down; nobody can follow that at six frames a second. Never sorting hides which is
    the best. Therefore: a recall that stays in the list keeps its row, newcomers take the rows of those that
    left, and two neighbours change places only if the lower one is better by a factor of `CLEARLY`. The exact
    rank is written on every tile. A row never shows a recall that is more than that factor worse than the one
    below it.
    """
    shown: list[Rows] = []
    before: list[int] = []
    for step in recalls:
        ranks = {s: place for place, s in enumerate(step.writes)}
        newcomers = [s for s in step.writes if s not in before]
        # Rows that became free go to the newcomers, best first; further newcomers follow below.
        order = [s if s in ranks else newcomers.pop(0) if newcomers else None for s in before]
        writes = [s for s in order if s is not None] + newcomers
        row = 0
        while row < len(writes) - 1:  # down while in order, back up behind every exchange
            upper, lower = writes[row], writes[row + 1]
            if step.belongs_above(ranks[lower], ranks[upper]):
                writes[row], writes[row + 1] = lower, upper
                row = max(0, row - 1)
            else:
                row += 1
        shown.append(tuple(ranks[s] for s in writes) + (None,) * (top_k - len(writes)))
        before = writes
    return shown
