"""Cores without a write memory: `none` (the memoryless control), `lstm` and `gru`.

LSTM and GRU run a whole segment in ONE kernel call, resets included (reset_rows.py). The LSTM's kernel is
the library's. The GRU's is the library's on CUDA, and ours (gru_sequence.py) on the CPU.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memory.core import CoreOutput, MemoryCore, output_without_writes, reset_state
from memory.options import SizeOptions
from memory.recurrent.gru_sequence import GRUSequence
from memory.recurrent.reset_rows import SATURATE, insert_rows, plan_rows, remove_rows


class NoState(NamedTuple):
    """The state of a core that remembers nothing."""


class LSTMState(NamedTuple):
    """Hidden state h [B, n] and cell c [B, n]."""

    h: Tensor
    c: Tensor


class GRUState(NamedTuple):
    """Hidden state h [B, n]."""

    h: Tensor


class NoMemory(MemoryCore):
    """A feed-forward layer of the same size: what an agent can do without memory."""

    def __init__(self, input_size: int, options: SizeOptions) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, options.hidden_size
        self.layer = nn.Linear(input_size, options.hidden_size)

    def initial_state(self, batch_size: int) -> NoState:
        return NoState()

    def step(
        self, x_t: Tensor, state: NoState, record: bool = False, noise: Tensor | None = None
    ) -> tuple[CoreOutput, NoState]:
        return output_without_writes(torch.relu(self.layer(x_t))), state

    def unroll(
        self, xs: Tensor, state: NoState, is_first: Tensor, noise: Tensor | None = None
    ) -> tuple[CoreOutput, NoState]:
        return self.step(xs, state)


class KernelWeights(NamedTuple):
    """The parameters of an LSTM or GRU in the library's order; G = gates * n."""

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


class LSTMCore(MemoryCore):
    """A plain LSTM; its features are the hidden state h_t."""

    def __init__(self, input_size: int, options: SizeOptions) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, options.hidden_size
        self.rnn = nn.LSTM(input_size, options.hidden_size)

    def initial_state(self, batch_size: int) -> LSTMState:
        zeros = self._zeros(batch_size, self.output_size)
        return LSTMState(zeros, zeros)

    def step(
        self, x_t: Tensor, state: LSTMState, record: bool = False, noise: Tensor | None = None
    ) -> tuple[CoreOutput, LSTMState]:
        outputs, h, c = self._run(x_t[None], state, self.weights)
        return output_without_writes(outputs[0]), LSTMState(h, c)

    def unroll(
        self, xs: Tensor, state: LSTMState, is_first: Tensor, noise: Tensor | None = None
    ) -> tuple[CoreOutput, LSTMState]:
        weights, entering = self.weights, reset_state(state, is_first[0])
        if not is_first[1:].any():
            outputs, h, c = self._run(xs, entering, weights)
            return output_without_writes(outputs), LSTMState(h, c)
        plan = plan_rows(is_first, xs.dtype)
        # Gates i, f, candidate, o: a reset row empties the cell, a keep row leaves it as it is.
        weights = weights.marked(on_reset=(-1, -1, 0, 0), on_keep=(-1, 1, 0, 0))
        longer, _, c = self._run(insert_rows(xs, plan), entering, weights)
        features = remove_rows(longer, plan, len(xs))
        return output_without_writes(features), LSTMState(features[-1], c)

    @property
    def weights(self) -> KernelWeights:
        """The parameters; asked of the module one by one, they would take as long as a small product."""
        return KernelWeights(*cast(list[Tensor], self.rnn._flat_weights))

    def _run(self, xs: Tensor, state: LSTMState, weights: KernelWeights) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs [T, B, n], and h and c after the last row."""
        starts = (state.h[None], state.c[None])
        outputs, h, c = torch.lstm(xs, starts, weights, True, 1, 0.0, self.training, False, False)
        return outputs, h[0], c[0]


class GRUCore(MemoryCore):
    """A plain GRU; its features are the hidden state h_t."""

    def __init__(self, input_size: int, options: SizeOptions) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, options.hidden_size
        self.rnn = nn.GRU(input_size, options.hidden_size)

    def initial_state(self, batch_size: int) -> GRUState:
        return GRUState(self._zeros(batch_size, self.output_size))

    def step(
        self, x_t: Tensor, state: GRUState, record: bool = False, noise: Tensor | None = None
    ) -> tuple[CoreOutput, GRUState]:
        out, h = self.rnn(x_t[None], state.h[None])
        return output_without_writes(out[0]), GRUState(h[0])

    def unroll(
        self, xs: Tensor, state: GRUState, is_first: Tensor, noise: Tensor | None = None
    ) -> tuple[CoreOutput, GRUState]:
        weights, h = KernelWeights(*self.rnn.all_weights[0]), reset_state(state, is_first[0]).h
        if not is_first[1:].any():
            features = self._run(xs, h, weights)
        else:
            plan = plan_rows(is_first, xs.dtype)
            # Gates r, z, candidate: a reset row takes the candidate, which is tanh(0).
            weights = weights.marked(on_reset=(-1, -1, 0), on_keep=(0, 1, 0))
            features = remove_rows(self._run(insert_rows(xs, plan), h, weights), plan, len(xs))
        return output_without_writes(features), GRUState(features[-1])

    def _run(self, xs: Tensor, h: Tensor, weights: KernelWeights) -> Tensor:
        """Outputs [T, B, n]."""
        if not xs.is_cuda:
            gates = F.linear(xs, weights.input, weights.input_bias)
            return GRUSequence.apply(gates, h, weights.hidden, weights.hidden_bias)
        return torch.gru(xs, h[None], weights, True, 1, 0.0, self.training, False, False)[0]
