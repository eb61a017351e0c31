"""A memory core of one's own: the gated delta rule, one linear layer of fast weights per head and no controller.

    python train_rl.py --preset maze --core examples.gated_delta:GatedDelta --core-kwargs '{"heads": 2}'

Legend: T time, B batch, H heads, d size of a head. With k_t and q_t of length 1, and gates a_t, b_t in (0, 1):

    W_t = a_t (W_{t-1} - b_t (W_{t-1} k_t - v_t) k_t^T)      forget all a little, replace what k_t answers
    out_t = W_o [W_t q_t for every head] + W_s x_t           the second term is the skip

Source: Yang, Kautz, Hatamizadeh, "Gated Delta Networks", ICLR 2025, without its convolution and its norms. The
forget gate is applied after the write here, so that a_t = 0 forgets the write too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from memory import CoreOutput, MemoryCore, output_without_writes, reset_state


class FastWeights(NamedTuple):
    """Everything that is carried from one step to the next; zeros when an episode opens."""

    w: Tensor
    """[B, H, d, d]."""


class GatedDelta(MemoryCore):
    """Called as GatedDelta(input_size, **core_kwargs)."""

    def __init__(self, input_size: int, heads: int = 4, size: int = 32, output_size: int = 128) -> None:
        super().__init__()
        self.input_size, self.output_size, self.heads, self.size = input_size, output_size, heads, size
        self.project = nn.Linear(input_size, heads * (3 * size + 2))
        self.output = nn.Linear(heads * size, output_size)
        self.skip = nn.Linear(input_size, output_size)
        with torch.no_grad():  # Forgetting begins slowly: sigmoid(4) = 0.98.
            self.project.bias.view(heads, -1)[:, -2] = 4.0

    def initial_state(self, batch_size: int) -> FastWeights:
        return FastWeights(self._zeros(batch_size, self.heads, self.size, self.size))

    def step(
        self, x_t: Tensor, state: FastWeights, record: bool = False, noise: Tensor | None = None
    ) -> tuple[CoreOutput, FastWeights]:
        read, w = self._advance(self._projected(x_t), state.w)
        return self._mixed(read, x_t), FastWeights(w)

    def unroll(
        self, xs: Tensor, state: FastWeights, is_first: Tensor, noise: Tensor | None = None
    ) -> tuple[CoreOutput, FastWeights]:
        """Equals repeated step; what does not depend on the fast weights is computed for all T at once."""
        reads, projected = [], self._projected(xs)
        for row, is_first_t in zip(zip(*projected, strict=True), is_first, strict=True):
            read, w = self._advance(row, reset_state(state, is_first_t).w)
            state = FastWeights(w)
            reads.append(read)
        return self._mixed(torch.stack(reads), xs), state

    def _projected(self, x: Tensor) -> tuple[Tensor, ...]:
        """Keys, queries and values [.., H, d], forget and write gates [.., H, 1]."""
        k, q, v, a, b = self.project(x).unflatten(-1, (self.heads, -1)).split([*[self.size] * 3, 1, 1], -1)
        return normalize(k, dim=-1), normalize(q, dim=-1), v, a.sigmoid(), b.sigmoid()

    def _advance(self, row: tuple[Tensor, ...], w: Tensor) -> tuple[Tensor, Tensor]:
        """What is read [B, H, d], and the new fast weights."""
        k, q, v, a, b = row
        error = (w @ k[..., None]).squeeze(-1) - v
        w = a[..., None] * (w - (b * error)[..., None] * k[..., None, :])
        return (w @ q[..., None]).squeeze(-1), w

    def _mixed(self, read: Tensor, x: Tensor) -> CoreOutput:
        return output_without_writes(self.output(read.flatten(-2)) + self.skip(x))
