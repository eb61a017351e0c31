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
of ALL steps t, because the memories do not depend on t. Cost: about T^2 / 2 writes and reads. The memories are
walked in blocks of neighbouring s that fit into the cache together, and the run is carried from block to block.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from envs.errors import UserError
from recall.record.tape import Array, MemoryTape, Tape, WriteRule

Real = NDArray[np.floating]
Layers = tuple[Real, Real, Real]


CACHE_BYTES = 8 * 2**20
"""What the memories of a block may take together."""


def memories_in_cache(memory_bytes: int) -> int:
    """How many memories are worth replaying together on a CPU.

    Every step reads and writes all of every memory, so a block that leaves the cache waits for main memory:
    200 memories of 196 KB take ten times as long for a step as two blocks of 100.
    """
    return max(2, CACHE_BYTES // memory_bytes)


def reapplied_removal(tape: Tape, last: int | None = None, dtype: DTypeLike | None = None) -> Real:
    """R3 of every pair of steps: result[t, s] for s <= t <= last, 0 elsewhere. [last+1, last+1]

    `last` is the last step of interest (default: the last of the tape). The writes are made again in the
    precision in which they were made, or in `dtype`: in float32, effects below 1e-6 of the value are lost.
    """
    memory = tape.written()
    steps = tape.steps if last is None else last + 1
    replay = _Replay(memory, np.dtype(dtype or memory.initial_weights[0].dtype))
    count = memories_in_cache(sum(w.nbytes for w in replay.start))
    scores: Real = np.zeros((steps, steps), replay.start[0].dtype)
    start = replay.start
    for first in range(0, steps, count):
        stop = min(first + count, steps)
        scores[first:, first:stop], start = replay.block(start, first, stop, steps)
    return scores


class _Replay:
    """A recorded memory and its writes, ready to be made again in one floating-point type."""

    def __init__(self, memory: MemoryTape, dtype: np.dtype) -> None:
        self.rule = _rule(memory)
        self.start: Layers = tuple(w.astype(dtype) for w in memory.initial_weights)  # type: ignore[assignment]
        self.keys = memory.write_inputs[0].astype(dtype)
        self.steps = [u.astype(dtype) for u in memory.write_steps]
        self.targets = memory.target_value.astype(dtype)
        self.read_keys = memory.read_key.astype(dtype)
        self.beta = memory.beta

    def block(self, start: Layers, first: int, stop: int, end: int) -> tuple[Real, Layers]:
        """Scores [end - first, stop - first] of the writes first..stop-1 at the steps from `first` on, and the
        memory of the run before step `stop`. `start` is the memory of the run before step `first`."""
        # Row 0 is the run itself; row 1 + i leaves out write first + i and is opened there.
        branches = [np.empty((stop - first + 1, *w.shape), w.dtype) for w in start]
        for weights, w in zip(branches, start, strict=True):
            weights[0] = w
        following = start
        scores = np.zeros((end - first, stop - first), start[0].dtype)
        for tau in range(first, end):
            writing = min(tau, stop) - first + 1
            if tau < stop:
                for weights in branches:
                    weights[writing] = weights[0]
            live: Layers = tuple(weights[:writing] for weights in branches)  # type: ignore[assignment]
            self._write(live, tau)
            if tau + 1 == stop:
                following = tuple(weights[0].copy() for weights in branches)
            opened: Layers = tuple(w[: min(tau + 1, stop) - first + 1] for w in branches)  # type: ignore[assignment]
            values = _forward(opened, self.read_keys[tau])[2].mean(axis=1)
            scores[tau - first, : len(values) - 1] = np.linalg.norm(values[0] - values[1:], axis=1)
        return scores, following

    def _write(self, weights: Layers, tau: int) -> None:
        """Make the write of step tau again in every memory, in place."""
        key, target = self.keys[tau], self.targets[tau]
        passes = _forward(weights, key)
        errors = _errors(self.rule, weights, passes, target)
        inputs = (np.repeat(key[None], len(passes[0]), axis=0), passes[0], passes[1])
        for weight, error, u, z in zip(weights, errors, self.steps, inputs, strict=True):
            rate = _rate(u[tau], error[0], len(target), float(self.beta[tau]))
            _subtract_outer(weight, error.dtype.type(rate) * error, z)


def _subtract_outer(weights: Real, rows_out: Real, rows_in: Real) -> None:
    """weights [S, p, q] -= rows_out [S, H, p]^T rows_in [S, H, q], in one pass over the weights."""
    whole, out, into = (torch.from_numpy(x) for x in (weights, rows_out, rows_in))
    if rows_out.shape[1] == 1:
        whole.addcmul_(out.mT, into, value=-1.0)
    else:
        whole.baddbmm_(out.mT, into, alpha=-1.0)


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
