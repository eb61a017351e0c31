"""A2C and PPO as two losses over the same rows, every mean taken over valid rows only.

Legend: T time, B environments of a minibatch; every tensor is [T, B] unless it says otherwise.
The total of both:  L = L_policy + c_v L_value - c_e entropy + c_m L_meta.
Sources: Mnih et al. 2016 (A2C), Schulman et al. 2017 (PPO), Munkhdalai et al. 2019 (meta loss).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from agents.distributed import ALONE, Ranks

MOST_LOG_RATIO = 20.0
"""exp of it is 5e8: far outside of every clipping range, and its gradient still a number."""


class NewPolicy(NamedTuple):
    """What the current parameters say about the rows of a rollout."""

    log_prob: Tensor
    """log pi(a_t | ...) of the actions taken."""
    entropy: Tensor
    """Entropy of pi(. | ...), in nats."""
    value: Tensor
    meta_loss: Tensor


class Targets(NamedTuple):
    """What the rollout says about its own rows; constants of the update."""

    log_prob: Tensor
    value: Tensor
    advantage: Tensor
    """Used by the policy loss; usually normalised."""
    returns: Tensor
    """Target of the value function."""
    valid: Tensor
    """bool; rows that merely reset an environment are False."""


class LossTerms(NamedTuple):
    """The parts of the loss before weighting (scalars), and two diagnostics of PPO."""

    policy: Tensor
    value: Tensor
    entropy: Tensor
    meta: Tensor
    approx_kl: Tensor
    """Mean of (ratio - 1) - log ratio, an unbiased and positive estimate of KL(old || new)."""
    clip_fraction: Tensor

    def total(self, value_coef: float, entropy_coef: float, meta_coef: float) -> Tensor:
        """What is minimized."""
        return self.policy + value_coef * self.value - entropy_coef * self.entropy + meta_coef * self.meta


def masked_mean(x: Tensor, valid: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """Mean of x over the rows of all ranks where `valid` is set; 0 (never NaN) if there is none.

    Selects instead of multiplying, so that whatever stands in an invalid row has no effect.
    """
    return ranks.sum(torch.where(valid, x, 0.0).sum()) / ranks.sum(valid.sum()).clamp(min=1)


def masked_variance(x: Tensor, valid: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """Variance of x over the valid rows of all ranks."""
    return masked_mean((x - masked_mean(x, valid, ranks)).square(), valid, ranks)


def normalise(x: Tensor, valid: Tensor, ranks: Ranks = ALONE, eps: float = 1e-8) -> Tensor:
    """Shift and scale x to mean 0 and standard deviation 1 over the valid rows of all ranks."""
    mean = masked_mean(x, valid, ranks)
    std = masked_mean((x - mean).square(), valid, ranks).sqrt()
    return (x - mean) / (std + eps)


def a2c_loss(new: NewPolicy, targets: Targets) -> LossTerms:
    """Policy gradient -log pi(a) A and squared value error 1/2 (G - v)^2, one pass over the rollout."""
    value = 0.5 * (targets.returns - new.value).square()
    policy = -new.log_prob * targets.advantage
    return _terms(policy, value, new, targets, clip=None)


def ppo_loss(new: NewPolicy, targets: Targets, clip: float, value_clip: float | None = None) -> LossTerms:
    """-min(rho A, clip(rho, 1 - clip, 1 + clip) A) with rho = pi_new(a) / pi_old(a).

    `value_clip` is PPO's value clipping range: the larger of the clipped and unclipped errors counts.
    """
    ratio = log_ratio(new, targets).exp()
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    policy = -torch.minimum(ratio * targets.advantage, clipped * targets.advantage)
    value = 0.5 * (targets.returns - new.value).square()
    if value_clip is not None:
        near = targets.value + (new.value - targets.value).clamp(-value_clip, value_clip)
        value = torch.maximum(value, 0.5 * (targets.returns - near).square())
    return _terms(policy, value, new, targets, clip)


def log_ratio(new: NewPolicy, targets: Targets) -> Tensor:
    """log rho, held where exp is finite.

    A Gaussian whose mean moves by a dozen deviations within an update gives more than the 88 at which float32
    overflows, and one such action would end the run. Held, it has no gradient, and all others keep theirs.
    """
    return (new.log_prob - targets.log_prob).clamp(-MOST_LOG_RATIO, MOST_LOG_RATIO)


def _terms(policy: Tensor, value: Tensor, new: NewPolicy, targets: Targets, clip: float | None) -> LossTerms:
    with torch.no_grad():
        logs = log_ratio(new, targets)
        approx_kl = masked_mean(torch.expm1(logs) - logs, targets.valid)
        outside = torch.zeros_like(logs) if clip is None else ((logs.exp() - 1.0).abs() > clip) * 1.0
        clip_fraction = masked_mean(outside, targets.valid)
    return LossTerms(
        policy=masked_mean(policy, targets.valid),
        value=masked_mean(value, targets.valid),
        entropy=masked_mean(new.entropy, targets.valid),
        meta=masked_mean(new.meta_loss, targets.valid),
        approx_kl=approx_kl,
        clip_fraction=clip_fraction,
    )
