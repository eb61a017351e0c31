"""R3: the effect of a write if it had not been made and all later writes had been made again.

Both write rules correct an ERROR, so a later write to a similar key depends on what is already there: with
write s left out (beta_s := 0), the writes s+1..t come out differently. R2 keeps them as recorded, R3 redoes
them with the recorded keys, target values and rates:

    M_s = memory before write s;   for tau = s+1..t:  U_l, Z_l from the rule under M,  M_l <- M_l - U_l^T Z_l

        MNM-p:  U_l = r_l (z_l - B_l v^w - c_l)                                   r_l = 2 beta_l / (H d_l)
        MNM-g:  U_3 = r_3 (z_3 - v^w),  U_l = r_l / r_{l+1} (W_{l+1}^T U_{l+1}) (1 - z_l^2)   r_l = 2 beta_l / (H d)

    score R3_s(t) = |f_{W_t}(k_r(t)) - f_{M_s at t}(k_r(t))|,  averaged over read heads before the norm

Letters: T steps, H heads, d key and value size, u hidden width, s the write left out (a batch axis: one memory
per s, there is no loop over the past writes), tau the step in hand. One pass over an episode gives the scores
of ALL steps t, because the memories do not depend on t. Cost: about T^2 / 2 writes and reads, T memories.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError
from recall.tape import Array, MemoryTape, Tape, WriteRule

Real = NDArray[np.floating]
Layers = tuple[Real, Real, Real]


def reapplied_removal(tape: Tape, last: int | None = None, dtype: type = np.float64) -> Real:
    """R3 of every pair of steps: result[t, s] for s <= t <= last, 0 elsewhere. [last+1, last+1]

    `last` is the last step of interest (default: the last of the tape). With `dtype=np.float32` the time is
    about halved and effects below 1e-6 of the value are lost.
    """
    memory = tape.written()
    rule = _rule(memory)
    steps = tape.steps if last is None else last + 1
    heads = memory.target_value.shape[1]
    start: list[Real] = [w.astype(dtype) for w in memory.initial_weights]
    # Row 0 is the run itself; row 1 + s has no write s. Rows are opened as time reaches them.
    branches = [np.empty((steps + 1, *w.shape), dtype) for w in start]
    for weights, w in zip(branches, start, strict=True):
        weights[0] = w
    scores: Real = np.zeros((steps, steps), dtype)
    for tau in range(steps):
        # Branch 1 + tau parts from the run here: it keeps the memory of before this write.
        for weights in branches:
            weights[tau + 1] = weights[0]
        live: Layers = tuple(weights[: tau + 1] for weights in branches)  # type: ignore[assignment]
        key = memory.write_inputs[0][tau].astype(dtype)
        target = memory.target_value[tau].astype(dtype)
        passes = _forward(live, key)
        errors = _errors(rule, live, passes, target)
        recorded = [u[tau].astype(dtype) for u in memory.write_steps]
        inputs = (key, passes[0], passes[1])
        for weights, error, u, z in zip(live, errors, recorded, inputs, strict=True):
            rate = dtype(_rate(u, error[0], heads, float(memory.beta[tau])))
            weights -= np.matmul((rate * error).swapaxes(1, 2), z)
        opened: Layers = tuple(weights[: tau + 2] for weights in branches)  # type: ignore[assignment]
        values = _forward(opened, memory.read_key[tau].astype(dtype))[2].mean(axis=1)
        scores[tau, : tau + 1] = np.linalg.norm(values[0] - values[1:], axis=1)
    return scores


def _rule(memory: MemoryTape) -> WriteRule:
    rule = memory.rule
    if rule is None:
        raise UserError(
            "this tape does not carry its write rule, so its writes cannot be made again (score R3); "
            "record it anew with TapeRecorder(..., rule=write_rule_of(core))"
        )
    return rule


def _forward(weights: Layers, keys: Real) -> Layers:
    """z_1, z_2, f of keys [H, d], each [S, H, width]."""
    hidden1 = np.tanh(np.matmul(keys, weights[0].swapaxes(1, 2)))
    hidden2 = np.tanh(np.matmul(hidden1, weights[1].swapaxes(1, 2)))
    return hidden1, hidden2, np.matmul(hidden2, weights[2].swapaxes(1, 2))


def _errors(rule: WriteRule, weights: Layers, passes: Layers, target: Real) -> Layers:
    """The part of U_l that depends on the memory, [S, H, d_l]; U_l is this times a rate."""
    if rule.name == "gradient":
        error3 = passes[2] - target
        error2 = np.matmul(error3, weights[2]) * (1.0 - np.square(passes[1]))
        error1 = np.matmul(error2, weights[1]) * (1.0 - np.square(passes[0]))
        return error1, error2, error3
    weight, bias = _feedback(rule, target.dtype)
    wanted = np.split(target @ weight.T + bias, 3, axis=-1)
    return passes[0] - wanted[0], passes[1] - wanted[1], passes[2] - wanted[2]


def _feedback(rule: WriteRule, dtype: np.dtype) -> tuple[Array, Array]:
    if rule.feedback_weight is None or rule.feedback_bias is None:
        raise UserError("this tape is of the local rule but lacks the map from values to targets")
    return rule.feedback_weight.astype(dtype), rule.feedback_bias.astype(dtype)


def _rate(recorded: Real, error: Real, heads: int, beta: float) -> float:
    """The rate r_l of a layer: the recorded U_l is r_l times the error of the run.

    Taken from that proportion, so that layers may have rates of their own; from beta, which is then their
    mean, only where there was no error to take it from. A recorded rate of 0 gives exactly 0.
    """
    size = float(np.square(error).sum())
    if size > 0:
        return float((recorded * error).sum() / size)
    return 2.0 * beta / (heads * recorded.shape[1])
