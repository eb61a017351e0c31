"""Running statistics that bring observations and rewards to one scale.

They are buffers of the agent: saved with its weights, equal on all ranks, bit for bit the same after a resume, and
frozen wherever nobody counts, as in evaluation. While a rollout is collected and learnt from they stand still, so
that the policy that learns is the one that acted; `count` takes the rollout in afterwards.

    observations  x -> clip((x - mean) / sqrt(var + eps), -10, 10), each entry of a Box by itself
    rewards       r -> clip(r / sqrt(Var(G) + eps), -10, 10),  G_t = r_t + gamma G_{t-1} within an episode

Legend: T time, N environments; [...] leading axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.distributed import ALONE, Ranks
from envs.errors import UserError

EPS = 1e-8
LIMIT = 10.0
"""Of normalized observations and rewards."""
ABOUT_ONE = 0.5, 2.0
"""Magnitude of the bounds of numbers that are well scaled as they are."""


def is_normalized(space: spaces.Space[Any], choice: str) -> bool:
    """Whether a Box of numbers is normalized.

    `auto`: if it is of floats, and a bound is missing or not `ABOUT_ONE`; `unbounded`, which auto was before: if it is
    of floats and a bound is missing.
    """
    if not isinstance(space, spaces.Box) or choice == "off":
        return False
    if choice == "on" or not np.issubdtype(space.dtype, np.floating):
        return choice == "on"
    largest = np.maximum(np.abs(space.low), np.abs(space.high))
    if choice == "unbounded":
        return not np.isfinite(largest).all()
    return not ((ABOUT_ONE[0] <= largest) & (largest <= ABOUT_ONE[1])).all()


class Moments(nn.Module):
    """Mean and variance of everything that was counted, entry by entry, in float64; at first 0 and 1."""

    number: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, shape: tuple[int, ...] = (), what: str = "a reward") -> None:
        """`what` is being counted, for an error line."""
        super().__init__()
        self.what = what
        self.register_buffer("number", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))

    @torch.no_grad()
    def count(self, values: Tensor, valid: Tensor, ranks: Ranks = ALONE) -> None:
        """Take in values [T, N, *shape] of all ranks where `valid` [T, N]; raises UserError if they are too large.

        Chan et al. 1979: moments of two sets make those of their union.
        """
        counted = valid.reshape(*valid.shape, *(1,) * self.mean.dim())
        x, zero = values.double(), torch.zeros((), dtype=torch.float64, device=values.device)
        number = ranks.sum(valid.sum().double())
        if number == 0:
            return
        mean = ranks.sum(torch.where(counted, x, zero).sum((0, 1))) / number
        variance = ranks.sum(torch.where(counted, (x - mean).square(), zero).sum((0, 1))) / number
        total = self.number + number
        apart = mean - self.mean
        # Nothing was counted before the first time: its 0 and 1 stand for no observation.
        own = self.variance * self.number + apart.square() * (self.number * number / total)
        self.variance.copy_((own + variance * number) / total)
        self.mean.add_(apart * (number / total))
        self.number.copy_(total)
        if not (torch.isfinite(self.mean).all() and torch.isfinite(self.variance).all()):
            raise UserError(
                f"the running normalization of {self.what} is not finite: it met a magnitude of "
                f"{float(values.abs().max()):.3g}; scale it in the environment or switch its normalization off"
            )

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of what was counted, [*shape]."""
        return (self.variance + EPS).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        """x [..., *shape] in units of the deviation from the mean, float64."""
        return ((x - self.mean) / self.deviation).clamp(-LIMIT, LIMIT)


class RewardScale(Moments):
    """The deviation of the discounted return, in which rewards are measured for learning."""

    def __init__(self, gamma: float) -> None:
        super().__init__(what="the discounted return")
        self.gamma = gamma

    @torch.no_grad()
    def count_rewards(
        self, reward: Tensor, valid: Tensor, done: Tensor, entering: Tensor, ranks: Ranks = ALONE
    ) -> Tensor:
        """Take in rewards [T, N]; `entering` [N] is the discounted return before row 0. Returns that after row T-1."""
        returns, carried = torch.zeros_like(reward), entering
        for t in range(len(reward)):
            carried = torch.where(valid[t], self.gamma * carried + reward[t], carried)
            returns[t] = carried
            carried = carried.masked_fill(done[t], 0.0)
        self.count(returns, valid, ranks)
        return carried

    def scaled(self, reward: Tensor) -> Tensor:
        """Rewards in units of the deviation; their sign and zero are kept."""
        return (reward / self.deviation).clamp(-LIMIT, LIMIT).to(reward.dtype)
