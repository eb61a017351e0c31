"""Cores without a write memory: `none` (the memoryless control), `lstm` and `gru`.

LSTM and GRU run a whole segment in ONE kernel call, resets included (segments.py).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from memory.core import CoreOutput, MemoryCore, output_without_writes
from memory.options import SizeOptions
from memory.recurrent.segments import KernelWeights, gru_segment, lstm_segment


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
        # For a single step the segment's kernel takes longer to lay out the weights than to multiply by them.
        h, c = torch.lstm_cell(x_t, [state.h, state.c], *weights_of(self.rnn))
        return output_without_writes(h), LSTMState(h, c)

    def unroll(
        self, xs: Tensor, state: LSTMState, is_first: Tensor, noise: Tensor | None = None
    ) -> tuple[CoreOutput, LSTMState]:
        outputs, h, c = lstm_segment(xs, state.h, state.c, is_first, weights_of(self.rnn), self.training)
        return output_without_writes(outputs), LSTMState(h, c)


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
        h = torch.gru_cell(x_t, state.h, *weights_of(self.rnn))
        return output_without_writes(h), GRUState(h)

    def unroll(
        self, xs: Tensor, state: GRUState, is_first: Tensor, noise: Tensor | None = None
    ) -> tuple[CoreOutput, GRUState]:
        features = gru_segment(xs, state.h, is_first, weights_of(self.rnn), self.training)
        return output_without_writes(features), GRUState(features[-1])


def weights_of(rnn: nn.RNNBase) -> KernelWeights:
    """The parameters; asked of the module one by one, they would take as long as a small product."""
    return KernelWeights(*cast(list[Tensor], rnn._flat_weights))
