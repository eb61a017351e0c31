"""A score for every pair (step t, earlier write s) of an episode, as one lower-triangular matrix.

The GIF, the viewer and the tables all read the same matrices, so they cannot disagree. Row t, column s: what
the write of step s has to do with what step t reads. The diagonal is the step's own write ("now"), kept for
the residual and never ranked; above it is the future, always 0.

All scores but one come from the tape alone; `decision` replays the agent and needs it. Others may hand in
their own matrices, as a `ScoreMatrix` or as a plain [T, T] array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError, nearest
from recall.record.tape import Tape, walk_weights
from recall.scores.from_tape import (
    interaction_residual,
    keep_only_one,
    last_layer_contribution,
    leave_one_write_out,
    symmetrised,
    symmetrised_residual,
    use_share,
)

Float = NDArray[np.float64]


class ScoreInfo(NamedTuple):
    """How a score is named and explained wherever it is shown."""

    label: str
    meaning: str
    unit: str
    """What a score of 1 is; completes "as ..."."""


SHARE = "a share of all that memory adds to the value read"
SCORES: dict[str, ScoreInfo] = {
    "removal": ScoreInfo("R2", "change of the value read now if that write is removed", SHARE),
    "symmetrised": ScoreInfo("symmetrised", "mean effect of removing that write and of keeping it alone", SHARE),
    "contribution": ScoreInfo("R1", "what that write adds in the last layer to the value read", "a share of the sum"),
    "key": ScoreInfo("R0", "likeness of the key read now and the key written then (not a use)", "a cosine"),
    "decision": ScoreInfo("R4", "change of the policy now if that write had not been made", "a KL divergence in nats"),
    "address": ScoreInfo("address", "whether that slot is read now (exact)", "a share of the read heads"),
}  # fmt: skip
"""Every score that can be shown, in the order in which they are offered."""
FROM_TAPE = ("removal", "symmetrised", "contribution", "key")
"""The scores of a neural memory for which the tape is enough."""
OF_ADDRESSES = ("address",)
"""The scores of a hard memory: nothing else is to be told, since one slot is read and no other."""


@dataclass(frozen=True)
class ScoreMatrix:
    """One score of a whole episode."""

    name: str
    values: Float
    """[T, T]: values[t, s] for s <= t, 0 above the diagonal."""
    supports: NDArray[np.bool_] | None = None
    """[T, T]: whether the write points along what memory adds, or against it; None if the score has no sign."""
    residual: Float | None = None
    """[T]: the interaction residual by which this score is doubted; None if writes cannot hide each other in
    it."""


@dataclass(frozen=True)
class Measures:
    """What is known of every read before any score is chosen, and the scores that give it."""

    removal: ScoreMatrix
    symmetrised: ScoreMatrix
    use_share: Float
    """[T] |v_r - v_0| / |v_r|: does what was written matter to this read?"""
    residual: Float
    """[T] rho, the interaction residual of R2."""
    effect: Float
    """[T] |v_r - v_0|, the length that scores of values are divided by."""
    policy_effect: Float | None = None
    """[T] `recall.scores.effect.policy_effect`; None where only the tape is known."""


@dataclass(frozen=True)
class ReadMeasures:
    """What is known of every read of a hard memory."""

    use_share: Float
    """[T] share of the read heads that read a slot, and not the null slot."""
    policy_effect: Float | None = None
    """[T] `recall.scores.effect.policy_effect`; None where only the tape is known."""


def measure_reads(tape: Tape, policy_effect: Float | None = None) -> ReadMeasures:
    """The same as `measure` for the tape of a hard memory."""
    assert tape.addresses is not None
    return ReadMeasures((tape.addresses.read_step >= 0).mean(axis=1), policy_effect)


def measure(tape: Tape, policy_effect: Float | None = None) -> Measures:
    """R2 and its symmetrised form as shares of |v_r - v_0|, with use share and residuals, in one pass.

    `policy_effect` is taken over as it is; it needs the model, the rest does not.
    """
    steps = tape.steps
    values, supports = np.zeros((2, steps, steps)), np.ones((2, steps, steps), bool)
    residual, used, effect = np.zeros((2, steps)), np.zeros(steps), np.zeros(steps)
    for t, weights in enumerate(walk_weights(tape)):
        removal = leave_one_write_out(tape, t, weights)
        kept = keep_only_one(tape, t)
        change = removal.value_read - removal.value_unwritten
        effect[t] = np.linalg.norm(change)
        used[t] = use_share(removal.value_read, removal.value_unwritten)
        residual[:, t] = interaction_residual(removal), symmetrised_residual(removal, kept)
        # A read on which memory has no effect at all has no scale; it is "not used" whatever is listed.
        scale = 1.0 / effect[t] if effect[t] > 0 else 0.0
        for kind, terms in enumerate((removal.differences, symmetrised(removal, kept))):
            values[kind, t, : t + 1] = np.linalg.norm(terms, axis=1) * scale
            supports[kind, t, : t + 1] = terms @ change >= 0
    removed, both = (
        ScoreMatrix(name, values[kind], supports[kind], residual[kind])
        for kind, name in enumerate(("removal", "symmetrised"))
    )
    return Measures(removed, both, used, residual[0], effect, policy_effect)


def contribution_matrix(tape: Tape) -> ScoreMatrix:
    """R1 of the whole episode, |c_s| / |v_r - b|: the terms add up, so no residual applies."""
    values, supports = np.zeros((tape.steps, tape.steps)), np.ones((tape.steps, tape.steps), bool)
    for t in range(tape.steps):
        found = last_layer_contribution(tape, t)
        total = float(np.linalg.norm(found.value_read - found.base))
        values[t, : t + 1] = found.norms / total if total > 0 else 0.0
        supports[t, : t + 1] = found.shares >= 0
    return ScoreMatrix("contribution", values, supports)


def address_matrix(tape: Tape) -> ScoreMatrix:
    """Which share of the read heads of step t read the slot that step s wrote; every other slot had no effect."""
    assert tape.addresses is not None
    read = tape.addresses.read_step - tape.start_step
    shares = (read[:, :, None] == np.arange(tape.steps)).mean(axis=1)
    return ScoreMatrix("address", shares)


def key_matrix(tape: Tape) -> ScoreMatrix:
    """R0 of the whole episode: the best cosine over all pairs of a read head of t and a write head of s."""
    memory = tape.written()
    read, written = _unit(memory.read_key), _unit(memory.write_inputs[0])
    values = np.full((tape.steps, tape.steps), -np.inf)
    for i in range(read.shape[1]):
        for j in range(written.shape[1]):
            np.maximum(values, read[:, i] @ written[:, j].T, out=values)
    return ScoreMatrix("key", np.tril(values))


def decision_matrix(model: Any, tape: Tape) -> ScoreMatrix:
    """R4 of the whole episode: KL(pi_t || pi_t without write s), by replaying the agent."""
    from recall.scores.decision import decision_effect  # imports the agents, which a tape alone does not need

    if tape.start_step:
        raise UserError("the score 'decision' needs a tape that starts with its episode")
    return ScoreMatrix("decision", decision_effect(model, tape).divergence)


def score_matrices(
    tape: Tape, names: Sequence[str] | None = None, measures: Measures | None = None, model: Any = None
) -> dict[str, ScoreMatrix]:
    """The named scores of an episode, in the order of `SCORES`; by default all that the tape alone gives."""
    names = scores_that_apply(tape.addresses is not None) if names is None else names
    for name in names:
        check_score(name)
        check_applies(name, tape.core, tape.addresses is not None)
    if tape.addresses is not None:
        return {name: address_matrix(tape) for name in names}
    found = {}
    for name in (name for name in SCORES if name in names):
        if name in ("removal", "symmetrised"):
            measures = measures or measure(tape)
            found[name] = measures.removal if name == "removal" else measures.symmetrised
        elif name == "decision":
            if model is None:
                raise UserError("the score 'decision' replays the agent: the tape alone does not give it")
            found[name] = decision_matrix(model, tape)
        else:
            found[name] = contribution_matrix(tape) if name == "contribution" else key_matrix(tape)
    return found


def as_matrix(name: str, given: ScoreMatrix | Float, steps: int) -> ScoreMatrix:
    """A checked `ScoreMatrix` of an array [T, T]; a residual or a sign that it lacks stays unknown."""
    check_score(name)
    matrix = given if isinstance(given, ScoreMatrix) else ScoreMatrix(name, np.asarray(given, np.float64))
    if matrix.values.shape != (steps, steps):
        raise ValueError(f"the score {name!r} has shape {matrix.values.shape}, expected {(steps, steps)}")
    if np.isnan(matrix.values).any():
        raise ValueError(f"the score {name!r} holds values that are not numbers")
    if np.triu(matrix.values, 1).any():
        raise ValueError(f"the score {name!r} gives writes of the future (row t must be 0 for columns s > t)")
    return matrix


def scores_that_apply(addresses: bool) -> tuple[str, ...]:
    """The scores that a tape alone gives: of a hard memory, or of a neural one. The first is the usual one."""
    return OF_ADDRESSES if addresses else FROM_TAPE


def check_applies(name: str, core: str, addresses: bool) -> None:
    """Refuse a score that says nothing of this kind of memory."""
    if (name in OF_ADDRESSES) != addresses:
        valid = [score for score in SCORES if (score in OF_ADDRESSES) == addresses]
        raise UserError(f"the score {name!r} does not apply to the core {core!r}; valid: {', '.join(valid)}")


def check_score(name: str) -> None:
    """Refuse the name of a score that does not exist."""
    if name not in SCORES:
        likely = nearest(name, SCORES)
        hint = f" (did you mean {likely}?)" if likely else ""
        raise UserError(f"unknown score {name!r}{hint}; the scores are {', '.join(SCORES)}")


def _unit(vectors: NDArray[np.floating]) -> Float:
    wide: Float = vectors.astype(np.float64)
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    return np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
