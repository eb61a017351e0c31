"""Advantages and returns as pure functions of one rollout.

Legend: T time, N environments; every argument is [T, N].

    delta_t = r_t + gamma * v_tp1 - v_t
    A_t     = delta_t + gamma * lambda * (1 - done_t) * A_tp1 ,   A_T = 0

`next_values` holds v_tp1: the value of the observation that FOLLOWS IN THE SAME EPISODE, under the memory
state carried to it, and 0 where the episode terminated. A truncated episode therefore bootstraps and a
terminated one does not, with no flag in the first line; the second line is cut at every end of episode.

Source: Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation".
Reduces to: lambda = 0, the one-step error delta; lambda = 1, the n-step return to the rollout's end minus v_t.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    rewards: Tensor, values: Tensor, next_values: Tensor, done: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Generalised advantage estimates [T, N]; done = terminated | truncated (bool)."""
    _check_shapes(rewards, values, next_values, done)
    delta = rewards + gamma * next_values - values
    decay = gamma * gae_lambda * (~done).to(delta.dtype)
    advantages = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        running = delta[t] + decay[t] * running
        advantages[t] = running
    return advantages


def _check_shapes(first: Tensor, *others: Tensor) -> None:
    for other in others:
        if other.shape != first.shape:
            raise ValueError(
                f"shapes must be equal [T, N], got {tuple(first.shape)} and {tuple(other.shape)}"
            )
