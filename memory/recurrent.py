"""Cores without a write memory: `none` (the memoryless control), `lstm` and `gru`.

LSTM and GRU run a segment without resets inside in ONE library kernel call. Where there are resets, each
column is cut at them into pieces; a piece that opens at a reset starts from zeros, a piece that opens the
segment starts from the carried state; all pieces go through the kernel together as one packed sequence.
No flag is left inside a piece, so the number of kernel calls does not grow with the number of resets.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from memory.core import CoreOutput, MemoryCore, output_without_writes, reset_state

BLOCK = 16
"""Rows that are packed together. On the CPU the backward pass of a packed sequence of T rows costs O(T^2),
because the kernel slices one long tensor per row; blocks keep it linear (measured: 2 to 5 times faster)."""


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

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.layer = nn.Linear(input_size, hidden_size)

    def initial_state(self, batch_size: int) -> NoState:
        return NoState()

    def step(self, x_t: Tensor, state: NoState, record: bool = False) -> tuple[CoreOutput, NoState]:
        return output_without_writes(torch.relu(self.layer(x_t))), state

    def unroll(self, xs: Tensor, state: NoState, is_first: Tensor) -> tuple[CoreOutput, NoState]:
        return self.step(xs, state)


class Pieces(NamedTuple):
    """How the T * B cells of a segment are laid out in a packed sequence of episode pieces."""

    order: Tensor
    """[T * B] flat cell (t * B + b) that stands at each packed position."""
    batch_sizes: Tensor
    """Number of pieces alive at each offset, on the CPU as the kernel demands."""
    opens_segment: Tensor
    """[P] column b whose carried state the piece continues, or -1 if it opens at a reset."""
    last_of_column: Tensor
    """[B] piece that holds the last row of each column."""


def cut_at_resets(is_first: Tensor) -> Pieces:
    """Cut the columns of is_first [T, B] into pieces, sorted by falling length as packing demands."""
    steps, columns = is_first.shape
    opens = is_first.clone()
    opens[0] = True
    # Cells in column order, so that consecutive numbers walk along a column.
    opens_flat = opens.t().reshape(-1)
    starts = opens_flat.nonzero().squeeze(1)
    piece = opens_flat.long().cumsum(0) - 1
    offset = torch.arange(steps * columns, device=is_first.device) - starts[piece]
    lengths = torch.bincount(piece)
    rank = torch.argsort(torch.argsort(lengths, descending=True, stable=True))

    batch_sizes = torch.bincount(offset)
    position = (batch_sizes.cumsum(0) - batch_sizes)[offset] + rank[piece]
    cell = torch.arange(steps * columns, device=is_first.device)
    order = torch.empty_like(position)
    order[position] = (cell % steps) * columns + cell // steps

    column = starts // steps
    continues = (starts % steps == 0) & ~is_first[0, column]
    opens_segment = torch.empty_like(starts)
    opens_segment[rank] = torch.where(continues, column, -1)
    return Pieces(order, batch_sizes.cpu(), opens_segment, rank[piece[steps - 1 :: steps]])


def run_kernel(
    rnn: nn.LSTM | nn.GRU, xs: Tensor, state: tuple[Tensor, ...], is_first: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Outputs [T, B, n] and final state of the library's kernel over a segment with resets.

    xs [T, B, D]; state: one tensor [B, n] per state variable of the kernel.
    """
    if not is_first[1:].any():
        return _run_plain(rnn, xs, reset_state(state, is_first[0]))
    outputs = []
    for block, flags in zip(xs.split(BLOCK), is_first.split(BLOCK), strict=True):
        out, state = _run_packed(rnn, block, state, flags)
        outputs.append(out)
    return torch.cat(outputs), state


def _run_plain(
    rnn: nn.LSTM | nn.GRU, xs: Tensor, state: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    starts = tuple(x.unsqueeze(0) for x in state)
    out, final = rnn(xs, starts if len(starts) > 1 else starts[0])
    return out, tuple(x[0] for x in (final if isinstance(final, tuple) else (final,)))


def _run_packed(
    rnn: nn.LSTM | nn.GRU, xs: Tensor, state: tuple[Tensor, ...], is_first: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    steps, columns = is_first.shape
    pieces = cut_at_resets(is_first)
    continues = (pieces.opens_segment >= 0)[:, None]
    starts = tuple(
        torch.where(continues, carried[pieces.opens_segment.clamp(min=0)], 0.0).unsqueeze(0)
        for carried in state
    )
    packed = PackedSequence(xs.flatten(0, 1)[pieces.order], pieces.batch_sizes)
    out, final = rnn(packed, starts if len(starts) > 1 else starts[0])
    final = final if isinstance(final, tuple) else (final,)
    inverse = torch.empty_like(pieces.order)
    inverse[pieces.order] = torch.arange(len(inverse), device=inverse.device)
    features = out.data[inverse].view(steps, columns, -1)
    return features, tuple(x[0, pieces.last_of_column] for x in final)


class LSTMCore(MemoryCore):
    """A plain LSTM; its features are the hidden state h_t."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.rnn = nn.LSTM(input_size, hidden_size)

    def initial_state(self, batch_size: int) -> LSTMState:
        zeros = self._zeros(batch_size, self.output_size)
        return LSTMState(zeros, zeros)

    def step(self, x_t: Tensor, state: LSTMState, record: bool = False) -> tuple[CoreOutput, LSTMState]:
        out, (h, c) = self.rnn(x_t[None], (state.h[None], state.c[None]))
        return output_without_writes(out[0]), LSTMState(h[0], c[0])

    def unroll(self, xs: Tensor, state: LSTMState, is_first: Tensor) -> tuple[CoreOutput, LSTMState]:
        features, final = run_kernel(self.rnn, xs, state, is_first)
        return output_without_writes(features), LSTMState(*final)


class GRUCore(MemoryCore):
    """A plain GRU; its features are the hidden state h_t."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.rnn = nn.GRU(input_size, hidden_size)

    def initial_state(self, batch_size: int) -> GRUState:
        return GRUState(self._zeros(batch_size, self.output_size))

    def step(self, x_t: Tensor, state: GRUState, record: bool = False) -> tuple[CoreOutput, GRUState]:
        out, h = self.rnn(x_t[None], state.h[None])
        return output_without_writes(out[0]), GRUState(h[0])

    def unroll(self, xs: Tensor, state: GRUState, is_first: Tensor) -> tuple[CoreOutput, GRUState]:
        features, final = run_kernel(self.rnn, xs, state, is_first)
        return output_without_writes(features), GRUState(*final)
