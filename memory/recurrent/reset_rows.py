"""Resets inside a segment as extra rows of its input, so that ONE kernel call runs the whole segment.

A recurrent kernel of the library knows no resets. But a row whose gates are saturated clears its state: in an
LSTM, input and forget gate 0 give c = 0 and h = 0; in a GRU, update gate 0 and candidate 0 give h = 0. So a
RESET row is put before every row that opens an episode, and its gates are driven by columns that are appended
to the input and to the input weights. Saturated gates are exactly 0 or 1 and have slope exactly 0: values
and gradients are those of separate sequences. Columns with fewer resets are filled up behind with KEEP rows.
With 5% resets in T = 128 a segment grows by about a tenth.

Legend: T rows of the segment, S >= T rows with the extra ones, B columns, D input size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

SATURATE = 1e6
"""Input of a gate that must be exactly 0 or 1, whatever else it receives."""

MARKS = 3
"""Columns appended to the input: 1 in a row of the segment (it carries the bias), in a reset row, in a keep row."""


class RowPlan(NamedTuple):
    """Where the rows of a segment go."""

    position: Tensor
    """[T * B] cell (s * B + b) of every cell (t * B + b) of the segment."""
    marks: Tensor
    """[S, B, 3] the appended columns."""


def plan_rows(is_first: Tensor, dtype: torch.dtype) -> RowPlan:
    """The plan for resets is_first [T, B] after row 0; a reset of row 0 is the caller's."""
    steps, columns = is_first.shape
    device = is_first.device
    opens = is_first.clone()
    opens[0] = False
    row = opens.cumsum(0) + torch.arange(steps, device=device)[:, None]
    total = int(row[-1].max()) + 1
    marks = torch.zeros(total * columns, MARKS, dtype=dtype, device=device)
    position = (row * columns + torch.arange(columns, device=device)).flatten()
    marks[position, 0] = 1.0
    marks[position[opens.flatten()] - columns, 1] = 1.0
    marks = marks.view(total, columns, MARKS)
    marks[..., 2] = torch.arange(total, device=device)[:, None] > row[-1]
    return RowPlan(position, marks)


def insert_rows(xs: Tensor, plan: RowPlan) -> Tensor:
    """The input [S, B, D + 3] of the longer segment."""
    total, columns, _ = plan.marks.shape
    longer = Spread.apply(xs.flatten(0, 1), plan.position, total * columns)
    return torch.cat([longer.view(total, columns, -1), plan.marks], dim=-1)


def remove_rows(outputs: Tensor, plan: RowPlan, steps: int) -> Tensor:
    """The rows of the segment, [T, B, n], out of outputs [S, B, n]."""
    return Pick.apply(outputs.flatten(0, 1), plan.position).view(steps, *outputs.shape[1:])


class Spread(torch.autograd.Function):
    """Rows [N, D] at their positions in [size, D], zeros elsewhere; the adjoint of `Pick`.

    Positions are distinct. Autograd's own indexing does not know it, and adds row by row on the way back.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, position: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(position)
        return rows.new_zeros(size, rows.shape[1]).index_copy_(0, position, rows)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        return Pick.apply(above, *ctx.saved_tensors), None, None


class Pick(torch.autograd.Function):
    """The rows of [size, D] at distinct positions [N]; the adjoint of `Spread`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, position: Tensor) -> Tensor:
        ctx.save_for_backward(position)
        ctx.size = len(rows)
        return rows.index_select(0, position)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        return Spread.apply(above, *ctx.saved_tensors, ctx.size), None
