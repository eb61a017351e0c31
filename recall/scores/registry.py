"""The one registry of scores: command line, GIF, page and validity report know a score by its entry here.

A score says for every pair (step t, earlier step s) of an episode what s has to do with t, as one lower-triangular
matrix. The GIF, the viewer and the tables all read the same matrices, so they cannot disagree. Row t, column s: what
the write of step s has to do with what step t reads. The diagonal is the step's own write ("now"), kept for the
residual and never ranked; above it is the future, always 0.

Others may hand in their own matrices, as a `ScoreMatrix` or as a plain [T, T] array. A new score is an entry in
`_ALL`: two functions, its name and what it applies to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError
from recall.names import check_score
from recall.record.tape import Tape, walk_weights
from recall.scores.decision import decision_effect
from recall.scores.from_tape import (
    interaction_residual,
    keep_only_one,
    key_match,
    last_layer_contribution,
    leave_one_write_out,
    symmetrised,
    symmetrised_residual,
    unit,
    use_share,
)
from recall.scores.reapplied import reapplied_removal
from recall.scores.steps import Progress, Reference, all_forgotten, step_effect

Float = NDArray[np.float64]


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
    forgotten: Float | None = None
    """[T]: for scores of whole steps, `recall.scores.steps.all_forgotten`."""


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
    """[T] `recall.scores.decision.policy_effect`; None where only the tape is known."""


@dataclass(frozen=True)
class ReadMeasures:
    """What is known of every read of a hard memory."""

    use_share: Float
    """[T] share of the read heads that read a slot, and not the null slot."""
    policy_effect: Float | None = None
    """[T] `recall.scores.decision.policy_effect`; None where only the tape is known."""


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
    read, written = unit(memory.read_key), unit(memory.write_inputs[0])
    values = np.full((tape.steps, tape.steps), -np.inf)
    for i in range(read.shape[1]):
        for j in range(written.shape[1]):
            np.maximum(values, read[:, i] @ written[:, j].T, out=values)
    return ScoreMatrix("key", np.tril(values))


def step_matrix(name: str, sources: Sources, reference: Reference) -> ScoreMatrix:
    """R5 of the whole episode, by replaying the agent."""
    model, tape = sources.model, sources.tape
    found = step_effect(model, tape, None, reference, sources.progress, sources.window)
    return ScoreMatrix(name, found.divergence, forgotten=all_forgotten(model, tape))


def keep_matrix(tape: Tape) -> ScoreMatrix:
    """Keep only one of the whole episode, |S_s| in units of the value read."""
    values = np.zeros((tape.steps, tape.steps))
    for t in range(tape.steps):
        values[t, : t + 1] = np.linalg.norm(keep_only_one(tape, t), axis=1)
    return ScoreMatrix("keep", values)


def decision_matrix(model: Any, tape: Tape) -> ScoreMatrix:
    """R4 of the whole episode: KL(pi_t || pi_t without write s), by replaying the agent."""
    if tape.start_step:
        raise UserError("the score 'decision' needs a tape that starts with its episode")
    return ScoreMatrix("decision", decision_effect(model, tape).divergence)


@dataclass(frozen=True)
class Sources:
    """What a score is computed from."""

    tape: Tape
    model: Any = None
    """The agent, for scores that replay it; None where only the tape is known."""
    measures: Measures | None = None
    """`measure(tape)`, if already at hand."""
    progress: Progress = lambda done, total: None
    """Told of what takes long."""
    window: int | None = None
    """How many steps back scores of whole steps look; None: to the beginning of the episode."""

    @property
    def measured(self) -> Measures:
        """`measure(tape)`."""
        return self.measures or measure(self.tape)


Kind = Literal["written", "slots", "other"]
"""Of memory: one that is written (mnm-g, mnm-p), slots that are read by address (hard), or nothing but a state."""
EVERY: tuple[Kind, ...] = ("written", "slots", "other")


@dataclass(frozen=True)
class Score:
    """A score: how it is called wherever it is shown, and how it is computed."""

    name: str
    """On the command line."""
    label: str
    """In pictures and on the page."""
    title: str
    """In the validity report."""
    meaning: str
    unit: str
    """What a score of 1 is; completes "as ..."."""
    memory: tuple[Kind, ...]
    """The kinds of memory to which it applies."""
    matrix: Callable[[Sources], ScoreMatrix]
    """The score of every pair of steps."""
    at: Callable[[Sources, int], Float]
    """Scores [t] of the steps s < t, at step t alone."""
    needs_agent: bool = False
    """Whether it replays the agent; else the tape is enough."""
    cheap: bool = True
    """Whether the page offers it without being asked."""
    reported: bool = True
    """Whether the validity report compares it."""
    of_policy: bool = False
    """Whether it is itself a change of the policy, and not of the value read."""
    of_steps: bool = False
    """Whether it asks for whole steps, whatever carried them, and not for what was written to a memory."""


SHARE = "a share of all that memory adds to the value read"
NATS = "a KL divergence in nats"
LENGTH = "a length of the value read"
_ALL = (
    Score(
        "removal", "R2", "R2 removal", "change of the value read now if that write is removed", SHARE, ("written",),
        lambda x: x.measured.removal, lambda x, t: leave_one_write_out(x.tape, t).norms[:t],
    ),
    Score(
        "symmetrised", "symmetrised", "symmetrised", "mean effect of removing that write and of keeping it alone",
        SHARE, ("written",), lambda x: x.measured.symmetrised,
        lambda x, t: np.linalg.norm(
            symmetrised(leave_one_write_out(x.tape, t), keep_only_one(x.tape, t)), axis=1
        )[:t],
    ),
    Score(
        "contribution", "R1", "R1 last layer", "what that write adds in the last layer to the value read",
        "a share of the sum", ("written",), lambda x: contribution_matrix(x.tape),
        lambda x, t: last_layer_contribution(x.tape, t).norms[:t],
    ),
    Score(
        "key", "R0", "R0 key match", "likeness of the key read now and the key written then (not a use)", "a cosine",
        ("written",), lambda x: key_matrix(x.tape), lambda x, t: key_match(x.tape, t)[:t],
    ),
    Score(
        "keep", "keep only", "keep only one", "what that write alone would return now", LENGTH, ("written",),
        lambda x: keep_matrix(x.tape), lambda x, t: np.linalg.norm(keep_only_one(x.tape, t), axis=1)[:t],
        cheap=False,
    ),
    Score(
        "reapplied", "R3", "R3 re-applied",
        "change of the value read now if that write had not been made and all later ones were made again", LENGTH,
        ("written",), lambda x: ScoreMatrix("reapplied", np.asarray(reapplied_removal(x.tape), np.float64)),
        lambda x, t: np.asarray(reapplied_removal(x.tape, t)[t, :t], np.float64), cheap=False,
    ),
    Score(
        "decision", "R4", "R4 decision", "change of the policy now if that write had not been made", NATS, ("written",),
        lambda x: decision_matrix(x.model, x.tape),
        lambda x, t: decision_effect(x.model, x.tape, t).divergence[t, :t],
        needs_agent=True, cheap=False, of_policy=True,
    ),
    Score(
        "step", "R5", "R5 step removal", "change of the policy now if that step had not been taken in", NATS, EVERY,
        lambda x: step_matrix("step", x, None), lambda x, t: step_effect(x.model, x.tape, t).divergence[t, :t],
        needs_agent=True, cheap=False, of_policy=True, of_steps=True,
    ),
    Score(
        "held", "R5 held", "R5 held observation",
        "change of the policy now if it had seen in that step what it saw before", NATS, EVERY,
        lambda x: step_matrix("held", x, "held"),
        lambda x, t: step_effect(x.model, x.tape, t, "held").divergence[t, :t],
        needs_agent=True, cheap=False, of_policy=True, of_steps=True,
    ),
    Score(
        "blank", "R5 blank", "R5 blank observation",
        "change of the policy now if that observation had been all zeros", NATS, EVERY,
        lambda x: step_matrix("blank", x, "blank"),
        lambda x, t: step_effect(x.model, x.tape, t, "blank").divergence[t, :t],
        needs_agent=True, cheap=False, reported=False, of_policy=True, of_steps=True,
    ),
    Score(
        "address", "address", "address", "whether that slot is read now (exact)", "a share of the read heads",
        ("slots",), lambda x: address_matrix(x.tape), lambda x, t: address_matrix(x.tape).values[t, :t],
    ),
)  # fmt: skip
SCORES: dict[str, Score] = {score.name: score for score in _ALL}
"""Every score that can be shown, in the order in which they are offered."""


def kind_of(memory: Any) -> Kind:
    """The kind of memory of a core, or of the episode that a tape holds."""
    if isinstance(memory, Tape):
        slots, written = memory.addresses is not None, memory.memory is not None
    else:
        slots, written = memory.addresses, memory.writes
    return "slots" if slots else "written" if written else "other"


def score_matrices(
    tape: Tape,
    names: Sequence[str] | None = None,
    measures: Measures | None = None,
    model: Any = None,
    progress: Progress = lambda done, total: None,
    window: int | None = None,
) -> dict[str, ScoreMatrix]:
    """The named scores of an episode, in the order of `SCORES`; by default all that the tape alone gives cheaply."""
    kind = kind_of(tape)
    names = cheap_scores(kind) if names is None else names
    for name in names:
        check_applies(name, tape.core, kind)
        if SCORES[name].needs_agent and model is None:
            raise UserError(f"the score {name!r} replays the agent: the tape alone does not give it")
    if measures is None and {"removal", "symmetrised"} & set(names):
        measures = measure(tape)
    sources = Sources(tape, model, measures, progress, window)
    return {name: score.matrix(sources) for name, score in SCORES.items() if name in names}


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


def cheap_scores(kind: Kind) -> tuple[str, ...]:
    """The scores that a tape alone gives quickly, for a kind of memory."""
    return tuple(
        name
        for name, score in SCORES.items()
        if kind in score.memory and score.cheap and not score.needs_agent
    )


def usual_score(kind: Kind) -> str:
    """The score that ranks the recalls of a kind of memory unless another one is asked for."""
    return {"written": "removal", "slots": "address", "other": "step"}[kind]


def check_applies(name: str, core: str, kind: Kind) -> None:
    """Refuse a score that does not exist, or says nothing of this kind of memory."""
    check_score(name)
    if kind not in SCORES[name].memory:
        valid = [score.name for score in SCORES.values() if kind in score.memory]
        raise UserError(f"the score {name!r} does not apply to the core {core!r}; valid: {', '.join(valid)}")
