"""The last inputs of the core, straight to keys, values and rate: a projection and a short causal filter.

Legend: T time, B batch, X input size, K rows of the interaction layer, w width of the window.

    y_t = W_x LN(x_t)                        p_t = sum over k < w of a_k * y_{t-k}       a_k [K], * element by element

LN shifts and scales a vector to mean 0 and variance 1. The window opens with the episode: y is 0 before it. p does
not depend on the recurrence, so that a segment has all of it at once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def normalized(x: Tensor) -> Tensor:
    """LN(x) over the last axis; a gain of its own would be absorbed by the linear layer that follows."""
    return F.layer_norm(x, x.shape[-1:])


class InputWindow(nn.Module):
    """W_x and a_0..a_{w-1}; what is carried is `recent` [B, w - 1, K], y_{t-1} first."""

    def __init__(self, input_size: int, rows: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(input_size, rows, bias=False)
        bound = 1.0 / math.sqrt(width)
        self.taps = nn.Parameter(torch.empty(width, rows).uniform_(-bound, bound))
        with torch.no_grad():  # The present input passes whole.
            self.taps[0] = 1.0

    def step(self, x_t: Tensor, recent: Tensor) -> tuple[Tensor, Tensor]:
        """p_t [B, K], and `recent` for the next step."""
        window = torch.cat([self.project(normalized(x_t))[:, None], recent], dim=1)
        return (window * self.taps).sum(1), window[:, :-1]

    def segment(self, xs: Tensor, recent: Tensor, is_first: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """p [T, B, K] with its rows in the order `rows`, and `recent` after the last step, in its own order."""
        steps, width = len(xs), len(self.taps)
        y, taps = F.linear(normalized(xs), self.project.weight[rows]), self.taps[:, rows]
        past = torch.cat([recent[..., rows].flip(1).transpose(0, 1), y])
        total, last = y * taps[0], [y[-1]]
        cut = torch.zeros_like(is_first)  # Whether an episode began in the last k steps.
        for k in range(1, width):
            cut = cut | F.pad(is_first, (0, 0, k - 1, 0))[:steps]
            lagged = past[width - 1 - k : width - 1 - k + steps].masked_fill(cut[..., None], 0.0)
            total = torch.addcmul(total, lagged, taps[k])
            last.append(lagged[-1])
        return total, torch.stack(last[: width - 1], dim=1)[..., rows.argsort()] if width > 1 else recent
