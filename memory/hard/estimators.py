"""Estimators of the gradient through a hard choice: same index for the same noise, different gradients.

Legend: n cells; `...` leading axes; h logits; p = softmax(h); i the chosen cell, o its one-hot vector;
J(q) = diag(q) - q q^T, the Jacobian of the softmax at the point q; L the loss as a function of the vector.

    st           J(softmax((h + g) / tau)) / tau        biased, one sample
    gumbel-rao   the mean of st over K noises redrawn GIVEN i: same mean, lower variance
    reinmax      2 J((softmax(h / tau) + o) / 2) - J(p) / 2    second order; tau around 1 and above
    reinforce    none through o; (L - baseline) grad log p_i is added to the loss: unbiased
    (exact)      grad sum_i p_i L_i, `expected_loss`: the oracle, where every L_i is at hand

The first three are given as `Choice.weights`: value o, gradient as above. Sources: Paulus, Maddison, Krause
2020 (gumbel-rao, arXiv 2010.04838); Liu et al. 2023 (reinmax, arXiv 2304.08612); Williams 1992 (reinforce).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from memory.hard.straight_through import (
    at_least_float32,
    carry_gradient,
    check_logits,
    checked_temperature,
    gumbel_noise,
    one_hot,
    perturb,
)

EstimatorName = Literal["st", "gumbel-rao", "reinmax", "reinforce"]
ESTIMATORS: tuple[str, ...] = get_args(EstimatorName)


class Choice(NamedTuple):
    """One cell chosen per row."""

    cell: Tensor
    """i [...], int64."""
    weights: Tensor
    """[..., n] in the dtype of the logits: value exactly one-hot, gradient of the estimator."""
    log_probability: Tensor
    """log softmax(h)_i [...], float32 or float64, with its exact gradient."""


def choice_noise(
    shape: Sequence[int],
    estimator: EstimatorName = "st",
    samples: int = 8,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """The noise that `choose` needs for logits of `shape`: [*shape], or [1 + samples, *shape] for gumbel-rao."""
    check_estimator(estimator)
    if estimator != "gumbel-rao":
        return gumbel_noise(shape, generator, device)
    if samples < 1:
        raise ValueError(f"gumbel-rao needs at least one sample, got {samples}")
    return gumbel_noise((1 + samples, *shape), generator, device)


def choose(
    logits: Tensor, noise: Tensor, temperature: float = 1.0, estimator: EstimatorName = "st"
) -> Choice:
    """Choose a cell by `argmax(h + g)` and attach the gradient of `estimator`.

    `noise` as drawn by `choice_noise`; for gumbel-rao its first entry makes the choice and the others are
    the redrawn ones, so that a stored noise replays value and gradient. Raises ValueError on an unknown
    estimator and wherever `memory.hard.straight_through` does.
    """
    check_estimator(estimator)
    tau = checked_temperature(temperature)
    redrawn = None
    if estimator == "gumbel-rao":
        if noise.dim() != logits.dim() + 1 or noise.shape[0] < 2:
            raise ValueError(
                f"gumbel-rao needs noise of the shape [1 + samples, *logits] for logits {list(logits.shape)}, "
                f"got {list(noise.shape)}"
            )
        noise, redrawn = noise[0], noise[1:]
    perturbed = perturb(logits, noise)
    index = perturbed.argmax(dim=-1)
    h = at_least_float32(logits)
    hard = one_hot(index, perturbed)
    if redrawn is not None:
        weights = carry_gradient(hard, _rao_blackwell(h, index, redrawn, tau))
    elif estimator == "reinmax":
        weights = carry_gradient(hard, _second_order(h, hard, tau))
    elif estimator == "st":
        weights = carry_gradient(hard, torch.softmax(perturbed / tau, dim=-1))
    else:
        weights = hard
    return Choice(index, weights.to(logits.dtype), _log_probability(h, index))


def choose_best(logits: Tensor) -> Choice:
    """The cell of the largest logit, without noise and without a gradient through the weights: for use."""
    check_logits(logits)
    index = logits.argmax(dim=-1)
    return Choice(index, one_hot(index, logits), _log_probability(at_least_float32(logits), index))


def conditional_perturbed(logits: Tensor, index: Tensor, noise: Tensor) -> Tensor:
    """Turn fresh noise into a sample of h + g GIVEN that cell `index` is the largest.

        (h + g)_i = g_i + log Z ,   (h + g)_j = -log(exp(-g_j - h_j) + exp(-g_i - log Z))   for j != i

    with log Z = logsumexp(h); `logits` [..., n], `index` [...], `noise` [K, ..., n], result like `noise`.
    """
    log_z = logits.logsumexp(dim=-1, keepdim=True)
    chosen = index.unsqueeze(-1).expand(*noise.shape[:-1], 1)
    largest = noise.gather(-1, chosen) + log_z
    others = -torch.logaddexp(-noise - logits, -largest)
    return others.scatter(-1, chosen, largest)


def expected_loss(logits: Tensor, losses: Tensor) -> Tensor:
    """Exact enumeration: sum_i p_i L_i [...] for `losses` [..., n], the loss of every possible choice."""
    check_logits(logits)
    if losses.shape != logits.shape:
        raise ValueError(
            f"one loss per cell is needed: logits {list(logits.shape)}, losses {list(losses.shape)}"
        )
    return (torch.softmax(at_least_float32(logits), dim=-1) * losses).sum(dim=-1)


def score_function(log_probability: Tensor, loss: Tensor, baseline: Tensor | float) -> Tensor:
    """The term that REINFORCE adds to the loss: value 0, gradient (L - baseline) grad log p_i.

    All [...]. Any baseline that does not depend on the choice leaves the mean unchanged.
    """
    if log_probability.shape != loss.shape:
        raise ValueError(
            f"one loss per choice is needed: choices {list(log_probability.shape)}, losses {list(loss.shape)}"
        )
    return (loss - baseline).detach() * (log_probability - log_probability.detach())


def check_estimator(name: str) -> None:
    """Raise ValueError on a name that is no estimator."""
    if name not in ESTIMATORS:
        raise ValueError(f"unknown estimator {name!r}; known estimators: {', '.join(ESTIMATORS)}")


def _log_probability(h: Tensor, index: Tensor) -> Tensor:
    return torch.log_softmax(h, dim=-1).gather(-1, index.unsqueeze(-1)).squeeze(-1)


def _slope(h: Tensor, point: Tensor) -> Tensor:
    """A function of h whose gradient is J(q) at the constant point q, finite for masked cells too."""
    q = point.detach()
    centred = h.masked_fill(h == -torch.inf, 0.0)
    return q * (centred - (q * centred).sum(dim=-1, keepdim=True))


def _rao_blackwell(h: Tensor, index: Tensor, noise: Tensor, tau: float) -> Tensor:
    perturbed = conditional_perturbed(h.detach(), index, noise)
    return _slope(h, torch.softmax(perturbed / tau, dim=-1)).mean(dim=0) / tau


def _second_order(h: Tensor, hard: Tensor, tau: float) -> Tensor:
    p = torch.softmax(h.detach(), dim=-1)
    midpoint = (torch.softmax(h.detach() / tau, dim=-1) + hard) / 2
    return 2.0 * _slope(h, midpoint) - 0.5 * _slope(h, p)
