"""The recalls of every step of an episode: the top k writes by score R2, and whether they may be believed.

A list of recalls is shown in grey, with the reason, where it would mislead:
* "memory not used": the share of what was written in the value read is below a threshold;
* "writes interact": the single removals do not add up (residual rho above a threshold), so that the score of
  one write alone does not say what it contributed. The joint removal of the listed writes stays meaningful.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recall.scores import interaction_residual, joint_removal, leave_one_write_out, rank, use_share
from recall.tape import Tape, walk_weights

SCORE_NAME = "R2"
SCORE_MEANING = "change of the value read now if that write is removed"
NOT_USED = "memory not used"
INTERACT = "writes interact"


@dataclass(frozen=True)
class Thresholds:
    """Where a list of recalls turns grey."""

    use_share: float = 0.05
    """Below this share |v_r - v_0| / |v_r| the memory counts as not used."""
    residual: float = 0.3
    """Above this residual rho single writes are not meaningful by themselves."""


@dataclass(frozen=True)
class StepRecalls:
    """The recalls of one step t. Scores are divided by |v_r - v_0|, the whole effect of memory on this read."""

    writes: tuple[int, ...]
    """Rows s < t of the tape, best first; at most top k, and never a write whose removal changes nothing."""
    scores: tuple[float, ...]
    """|D_s| / |v_r - v_0| of each."""
    supports: tuple[bool, ...]
    """Whether D_s points along v_r - v_0 (the write supports what was read) or against it."""
    own_score: float
    """The same score of the step's own write ("now"), which is shown apart and never ranked."""
    joint_score: float
    """|change| / |v_r - v_0| if all listed writes are removed together."""
    use_share: float
    """|v_r - v_0| / |v_r|."""
    residual: float
    """rho, the interaction residual."""

    def doubt(self, thresholds: Thresholds) -> str:
        """Why the list must not be taken at face value; empty if it may be."""
        if self.use_share < thresholds.use_share:
            return NOT_USED
        return INTERACT if self.residual > thresholds.residual else ""


def recalls_of(tape: Tape, top_k: int) -> list[StepRecalls]:
    """`StepRecalls` of every row of a tape with write memory, in one pass over the rebuilt weights."""
    found = []
    for t, weights in enumerate(walk_weights(tape)):
        removal = leave_one_write_out(tape, t, weights)
        effect = removal.value_read - removal.value_unwritten
        size = float(np.linalg.norm(effect))
        # A read on which the memory has no effect at all has no scale; it is "not used" whatever is listed.
        scale = 1.0 / size if size > 0 else 0.0
        writes = [s for s in rank(removal.norms, t, top_k) if removal.norms[s] > 0]
        joint = float(np.linalg.norm(joint_removal(tape, t, writes, weights))) if writes else 0.0
        found.append(
            StepRecalls(
                writes=tuple(writes),
                scores=tuple(float(removal.norms[s]) * scale for s in writes),
                supports=tuple(bool(removal.differences[s] @ effect >= 0) for s in writes),
                own_score=float(removal.norms[t]) * scale,
                joint_score=joint * scale,
                use_share=use_share(removal.value_read, removal.value_unwritten),
                residual=interaction_residual(removal),
            )
        )
    return found


def bar_scale(recalls: list[StepRecalls], thresholds: Thresholds) -> float:
    """The score that fills a bar, one for the whole episode: the highest that may be believed, else the
    highest."""
    best = [(step.scores[0], step.doubt(thresholds)) for step in recalls if step.scores]
    for accepted in (("",), ("", INTERACT), ("", INTERACT, NOT_USED)):
        highest = max((score for score, doubt in best if doubt in accepted), default=0.0)
        if highest > 0:
            return highest
    return 1.0
