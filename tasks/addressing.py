"""Common parts of the hard-addressing tasks: the loss of a sampled read, its temperature, its logged metrics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from envs.errors import UserError
from memory.hard.estimators import Choice, EstimatorName, expected_loss, score_function
from memory.hard.straight_through import Annealing
from tasks.config import AddressOptions


def annealing(options: AddressOptions) -> Annealing:
    """The temperature over the training."""
    return Annealing(options.tau_start, options.tau_end)


def sampler(options: AddressOptions) -> EstimatorName:
    """The estimator that the bank itself uses; enumeration reads like `st` where a sample is shown."""
    return "st" if options.estimator == "exact" else options.estimator


def read_loss(
    options: AddressOptions,
    logits: Tensor,
    choice: Choice,
    errors: Tensor,
    errors_of_cells: Callable[[], Tensor],
) -> Tensor:
    """The mean loss of a batch with the gradient of the chosen estimator.

    `errors` [B] of the sampled reads; `errors_of_cells()` [B, n], what every cell would have cost, is asked
    for by `exact` alone.
    """
    if options.estimator == "exact":
        return expected_loss(logits, errors_of_cells()).mean()
    if options.estimator == "reinforce":
        # The mean over the OTHER examples is a baseline that does not depend on this example's choice.
        others = (errors.sum() - errors) / (len(errors) - 1)
        return (errors + score_function(choice.log_probability, errors, others)).mean()
    return errors.mean()


def read_figures(logits: Tensor, choice: Choice, temperature: float) -> dict[str, Tensor | float]:
    """Temperature, how sure the addresses are, and how many cells the batch read."""
    return {
        "temperature": temperature,
        "largest_probability": logits.detach().softmax(-1).amax(-1).mean(),
        "cells_read": float(choice.cell.unique().numel()),
    }


def finite_logits(logits: Tensor) -> Tensor:
    """`logits`, or a UserError if the training has diverged."""
    if not torch.isfinite(logits).all():
        raise UserError("the address logits are not finite: the training diverged; lower --learning-rate")
    return logits


def squared_errors(value: Tensor, target: Tensor) -> Tensor:
    """(value - target)^2; refuses shapes that would broadcast, such as [B, 1] with [B]."""
    if value.shape != target.shape:
        raise ValueError(f"values {list(value.shape)} and targets {list(target.shape)} must have one shape")
    return (value - target).square()
