"""A whole segment of an LSTM or a GRU in ONE kernel call, resets included, as functions of the parameters.

Legend: T time, B batch, D input size, n hidden size, G = gates * n.

Resets are extra rows of the input (reset_rows.py). The LSTM's kernel is the library's. The GRU's is the library's on
CUDA, and ours (gru_sequence.py) on the CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from memory.core import reset_state
from memory.recurrent.gru_sequence import GRUSequence
from memory.recurrent.reset_rows import SATURATE, insert_rows, plan_rows, remove_rows


class KernelWeights(NamedTuple):
    """The parameters of an LSTM or GRU in the library's order."""

    input: Tensor
    """[G, D], or with the columns of the marks [G, D + 3]."""
    hidden: Tensor
    """[G, n]."""
    input_bias: Tensor
    hidden_bias: Tensor

    def marked(self, on_reset: tuple[float, ...], on_keep: tuple[float, ...]) -> KernelWeights:
        """For an input with marks; on_reset and on_keep say where each gate is driven: to -1, 0 or 1.

        The bias becomes a column, so that an extra row does not receive it.
        """
        driven = SATURATE * self.input.new_tensor([on_reset, on_keep])
        columns = driven.repeat_interleave(self.hidden.shape[1], dim=1).t()
        wide = torch.cat([self.input, self.input_bias[:, None], columns], dim=1)
        return self._replace(input=wide, input_bias=torch.zeros_like(self.input_bias))


def run_lstm(
    xs: Tensor, h: Tensor, c: Tensor, weights: KernelWeights, train: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [T, B, n], and h and c after the last row, without resets."""
    outputs, h, c = torch.lstm(xs, (h[None], c[None]), weights, True, 1, 0.0, train, False, False)
    return outputs, h[0], c[0]


def lstm_segment(
    xs: Tensor, h: Tensor, c: Tensor, is_first: Tensor, weights: KernelWeights, train: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """h of all steps [T, B, n], and h and c after the last; xs [T, B, D], is_first bool [T, B]."""
    h, c = reset_state((h, c), is_first[0])
    if not is_first[1:].any():
        return run_lstm(xs, h, c, weights, train)
    plan = plan_rows(is_first, xs.dtype)
    # Gates i, f, candidate, o: a reset row empties the cell, a keep row leaves it as it is.
    weights = weights.marked(on_reset=(-1, -1, 0, 0), on_keep=(-1, 1, 0, 0))
    longer, _, c = run_lstm(insert_rows(xs, plan), h, c, weights, train)
    outputs = remove_rows(longer, plan, len(xs))
    return outputs, outputs[-1], c


def run_gru(xs: Tensor, h: Tensor, weights: KernelWeights, train: bool) -> Tensor:
    """Outputs [T, B, n], without resets."""
    if not xs.is_cuda:
        gates = F.linear(xs, weights.input, weights.input_bias)
        return GRUSequence.apply(gates, h, weights.hidden, weights.hidden_bias)
    return torch.gru(xs, h[None], weights, True, 1, 0.0, train, False, False)[0]


def gru_segment(xs: Tensor, h: Tensor, is_first: Tensor, weights: KernelWeights, train: bool) -> Tensor:
    """h of all steps [T, B, n]; xs [T, B, D], is_first bool [T, B]."""
    (h,) = reset_state((h,), is_first[0])
    if not is_first[1:].any():
        return run_gru(xs, h, weights, train)
    plan = plan_rows(is_first, xs.dtype)
    # Gates r, z, candidate: a reset row takes the candidate, which is tanh(0).
    weights = weights.marked(on_reset=(-1, -1, 0), on_keep=(0, 1, 0))
    return remove_rows(run_gru(insert_rows(xs, plan), h, weights, train), plan, len(xs))
