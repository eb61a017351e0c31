"""Which earlier write matters to what is read now? Pure functions over a `Tape`.

Rules that hold for every score:
* A write is the whole write of one step, all H write heads and all layers together.
* Vectors per read head are averaged over the read heads BEFORE a norm is taken, because the mean is what the
  controller receives.
* The write of the step itself (lag 0) precedes the read and would top most lists. The functions return it as
  the last entry, since the residual needs it; `rank` never ranks it.

f_W(k) = W_3 tanh(W_2 tanh(W_1 k)), no biases; W_t = W_0 - sum over s <= t of U_s^T Z_s in every layer. v_r(t)
is the mean over heads of f_{W_t}(k_r(t)), v_0(t) the same from the unwritten memory W_0. Everything is
computed in float64, from weights rebuilt in the tape's own precision.

Letters in the einsum strings: s write step, r read head, w write head, i input and o output of a layer.
Definitions and their exactness: the counterfactual (R2) follows the leave-one-out tradition of causal
ablation; R0 is the plain cosine similarity of keys that memory figures commonly show, kept for comparison
only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from recall.record.tape import Array, Tape, weights_at

Float = NDArray[np.float64]


class Removal(NamedTuple):
    """Result of `leave_one_write_out` at one step t."""

    differences: Float
    """[t+1, d] D_s for s = 0..t; the last row is the step's own write."""
    norms: Float
    """[t+1] |D_s|, the score R2."""
    value_read: Float
    """[d] v_r(t)."""
    value_unwritten: Float
    """[d] v_0(t), what the memory would have answered had nothing been written."""


def key_match(tape: Tape, t: int) -> Float:
    """R0: the best cosine between a read key of now and a write key of then, over all pairs of heads. [t+1]

        R0_s = max over r, w of  <k_r(t), k_w(s)> / (|k_r(t)| |k_w(s)|)

    Geometry of the keys only: it ignores beta, later overwriting and layers 2 and 3. A key of length 0 scores
    0.
    """
    memory = tape.written()
    keys_now = unit(memory.read_key[t])
    keys_then = unit(memory.write_inputs[0][: t + 1])
    result: Float = np.einsum("swi,ri->swr", keys_then, keys_now).max(axis=(1, 2))
    return result


class Contribution(NamedTuple):
    """Result of `last_layer_contribution` at one step t."""

    terms: Float
    """[t+1, d] c_s for s = 0..t; the last row is the step's own write."""
    norms: Float
    """[t+1] |c_s|, the score R1."""
    shares: Float
    """[t+1] <c_s, v_r - b> / |v_r - b|^2, signed; they sum to 1 where v_r differs from b."""
    base: Float
    """[d] b(t) = W_{3,0} z_2(t), NOT v_0(t): z_2 went through written layers already."""
    value_read: Float
    """[d] v_r(t) = b(t) + sum of the terms."""


def last_layer_contribution(tape: Tape, t: int) -> Contribution:
    """R1: the additive share of each write in the last layer, given z_2. Needs no weights but W_{3,0}.

        c_s = -U_{3,s}^T (Z_{3,s} z_2(t)),   v_r(t) = W_{3,0} z_2(t) + sum over s <= t of c_s,

    averaged over read heads. What a write does through layers 1 and 2 is not credited to it; a fact that was
    overwritten appears as a negative term, as it should. Cost per t: 4 d H t.
    """
    memory = tape.written()
    inputs = memory.write_inputs[2][: t + 1].astype(np.float64)
    steps = memory.write_steps[2][: t + 1].astype(np.float64)
    # The terms are linear in z_2, so the mean over read heads may be taken of z_2.
    hidden = memory.read_hidden[1][t].astype(np.float64).mean(axis=0)
    terms: Float = -np.einsum("sw,swo->so", inputs @ hidden, steps)
    base: Float = memory.initial_weights[2].astype(np.float64) @ hidden
    total = terms.sum(axis=0)
    size = float(total @ total)
    shares = terms @ total / size if size > 0 else np.zeros(t + 1)
    return Contribution(terms, np.linalg.norm(terms, axis=1), shares, base, base + total)


def keep_only_one(tape: Tape, t: int) -> Float:
    """S_s: what the write of step s alone, on the unwritten memory, adds to the value read at t. [t+1, d]

        S_s = f_{W_0 - U_s^T Z_s in every layer}(k_r) - v_0,   averaged over read heads

    Sufficiency, where R2 is necessity: when a fact was written twice, each copy hides the other from R2 and
    both are seen here.
    """
    change, _ = _changes(tape, t, tape.written().initial_weights, sign=-1.0)
    return change


def symmetrised(removal: Removal, kept: Float) -> Float:
    """(D_s + S_s) / 2, the Shapley value of each write if writes interact in pairs at most. [t+1, d]"""
    return (removal.differences + kept) / 2.0


def leave_one_write_out(tape: Tape, t: int, weights: Sequence[Array] | None = None) -> Removal:
    """R2: how much the value read at t changes if the write of step s is taken out, for all s <= t at once.

        D_s = f_{W_t}(k_r) - f_{W_t + U_s^T Z_s in every layer}(k_r), averaged over read heads;   score |D_s|

    The later writes stay as they were recorded and the read key stays fixed: an exact counterfactual on the
    value read, not on what the agent would have done. `weights` are those of `weights_at(tape, t)`, if
    already at hand.

    Method: with a correction of rank H per layer no weight matrix is ever copied. The CHANGE of each
    activation is carried through the layers, not the activation itself, so that an empty write (U = 0, as for
    beta = 0) scores exactly 0 and small effects do not drown in rounding:

        x_0 = 0;   y_l = W_l x_{l-1} + U_{l,s}^T Z_{l,s} (z_{l-1} + x_{l-1});
        x_l = tanh(W_l z_{l-1} + y_l) - z_l  for l = 1, 2;   D_s = - mean over heads of y_3

    Cost per t: 2 u^2-sized products with (t+1) H columns, plus the rank-H corrections.
    """
    weights = weights_at(tape, t) if weights is None else weights
    change, value_read = _changes(tape, t, weights, sign=1.0)
    start = [w.astype(np.float64) for w in tape.written().initial_weights]
    keys = tape.written().read_key[t].astype(np.float64)
    return Removal(-change, np.linalg.norm(change, axis=1), value_read, _read(start, keys))


def _changes(tape: Tape, t: int, weights: Sequence[Array], sign: float) -> tuple[Float, Float]:
    """How the value read at t changes if sign * U_s^T Z_s is added to every layer of `weights`, for each
    s <= t: [t+1, d]; and the value read from `weights` themselves, [d]. Method: see `leave_one_write_out`."""
    memory = tape.written()
    layers = [w.astype(np.float64) for w in weights]
    inputs = [z[: t + 1].astype(np.float64) for z in memory.write_inputs]
    steps = [sign * u[: t + 1].astype(np.float64) for u in memory.write_steps]
    keys = memory.read_key[t].astype(np.float64)

    activation = keys  # z_{l-1} [r, i]
    change: Float | float = 0.0  # x_{l-1} [s, r, i]; the keys are the same with and without a write
    for layer, (weight, z, u) in enumerate(zip(layers, inputs, steps, strict=True)):
        before = activation @ weight.T  # W_l z_{l-1} [r, o]
        entering = np.broadcast_to(activation + change, (t + 1, *activation.shape))
        strength = np.einsum("sri,swi->srw", entering, z)
        after = np.einsum("srw,swo->sro", strength, u)  # y_l [s, r, o]
        if layer > 0:
            after += _product(change, weight)
        if layer < len(layers) - 1:
            activation = np.tanh(before)
            change = np.tanh(before + after) - activation
    result: Float = after.mean(axis=1)
    return result, before.mean(axis=0)


def joint_removal(tape: Tape, t: int, writes: Sequence[int], weights: Sequence[Array] | None = None) -> Float:
    """The change of the value read at t if several writes are taken out together. [d]

        D_S = f_{W_t}(k_r) - f_{W_t + sum over s in S of U_s^T Z_s in every layer}(k_r)

    Where writes interact (`interaction_residual`), single removals hide each other and this is what remains
    meaningful: a fact that was written twice is gone only if both copies go.
    """
    memory = tape.written()
    chosen = list(writes)
    keys = memory.read_key[t].astype(np.float64)
    full = [w.astype(np.float64) for w in (weights_at(tape, t) if weights is None else weights)]
    without = [
        w + np.einsum("swo,swi->oi", u[chosen].astype(np.float64), z[chosen].astype(np.float64))
        for w, u, z in zip(full, memory.write_steps, memory.write_inputs, strict=True)
    ]
    return _read(full, keys) - _read(without, keys)


def joint_keep(tape: Tape, t: int, writes: Sequence[int]) -> Float:
    """What the writes `writes` alone, on the unwritten memory, add to the value read at t. [d]"""
    memory = tape.written()
    chosen = list(writes)
    keys = memory.read_key[t].astype(np.float64)
    start = [w.astype(np.float64) for w in memory.initial_weights]
    kept = [
        w - np.einsum("swo,swi->oi", u[chosen].astype(np.float64), z[chosen].astype(np.float64))
        for w, u, z in zip(start, memory.write_steps, memory.write_inputs, strict=True)
    ]
    return _read(kept, keys) - _read(start, keys)


def use_share(value_read: Float, value_unwritten: Float) -> float:
    """|v_r - v_0| / |v_r|: does what was written matter to this read at all? 0 if nothing was read."""
    return _ratio(float(np.linalg.norm(value_read - value_unwritten)), float(np.linalg.norm(value_read)))


def interaction_residual(removal: Removal) -> float:
    """rho(t) = |v_r - v_0 - sum over s <= t of D_s| / |v_r - v_0|, the step's own write included.

    0 when writes do not interact (a memory of one linear layer, or only the last layer written). When it is
    large, the single removals do not add up to what the memory did, and R2 alone does not explain the read.
    Where nothing was written (v_r = v_0) the residual is 0 if all D_s are 0, and infinite otherwise.
    """
    return residual_of(removal.differences, removal)


def symmetrised_residual(removal: Removal, kept: Float) -> float:
    """rho_sym(t): the same residual for the symmetrised score (D_s + S_s) / 2."""
    return residual_of(symmetrised(removal, kept), removal)


def residual_of(terms: Float, removal: Removal) -> float:
    """|v_r - v_0 - sum of `terms`| / |v_r - v_0|: how far the terms [t+1, d] miss what the memory did."""
    effect = removal.value_read - removal.value_unwritten
    missing = float(np.linalg.norm(effect - terms.sum(axis=0)))
    return _ratio(missing, float(np.linalg.norm(effect)))


def rank(scores: Float, t: int, top_k: int) -> list[int]:
    """The `top_k` writes with the highest score among s < t, best first; of equal scores the more recent
    first."""
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    candidates = np.asarray(scores)[:t]
    if np.isnan(candidates).any():
        raise ValueError("a score is not a number, so the writes cannot be ranked")
    # lexsort sorts by its last key first: descending score, then descending step.
    order = np.lexsort((-np.arange(len(candidates)), -candidates))
    return [int(s) for s in order[:top_k]]


def _read(weights: Sequence[Float], keys: Float) -> Float:
    """Mean over heads of f_W(k), keys [H, d] -> [d]."""
    activation = keys
    for weight in weights[:-1]:
        activation = np.tanh(activation @ weight.T)
    result: Float = (activation @ weights[-1].T).mean(axis=0)
    return result


def _product(x: Float | float, weight: Float) -> Float:
    """x [s, r, i] times weight [o, i], as ONE product: NumPy would make a product of every s."""
    rows = torch.from_numpy(np.asarray(x).reshape(-1, weight.shape[1]))
    product: Float = (rows @ torch.from_numpy(weight).T).numpy()
    return product.reshape(*np.shape(x)[:-1], -1)


def unit(vectors: Array) -> Float:
    """Vectors of length 1 along the last axis; zero vectors stay zero."""
    vectors = vectors.astype(np.float64)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def _ratio(part: float, whole: float) -> float:
    if whole > 0:
        return part / whole
    return 0.0 if part == 0 else float("inf")
