"""Hard addressing: the choice of exactly ONE of n cells, trained by back-propagation all the same.

Legend: n cells; `...` any leading axes, such as [B] or [T, B]; h address logits; g noise; tau temperature.

    i = argmax(h + g)                    g standard Gumbel noise, so that P(i) = softmax(h)_i
    y = softmax((h + g) / tau)           used for its gradient alone
    o = one-hot(i)                       the value that the rest of the network sees

tau never changes which cell is chosen or how often: it is a parameter of the gradient only. Large tau gives
a smooth, biased gradient; small tau an almost unbiased one of large variance. How random the choice is
depends on the size of the logits.

Noise is an argument everywhere: whoever keeps it can replay a choice exactly. Other estimators of the same
gradient are in `memory/hard/estimators.py`, a bank that is read by such addresses in `memory/hard/bank.py`.
Source: Jang, Gu, Poole 2017 and Maddison, Mnih, Teh 2017; straight-through: Bengio, Léonard, Courville 2013.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_TEMPERATURE = 1e-3
"""Temperatures below are raised to this: the gradient would be 0 or huge, never useful."""


def gumbel_noise(
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Standard Gumbel noise g = -log E, E ~ Exp(1), of the given shape; always finite, always float32.

    `device` defaults to that of `generator`. Lower precisions are not offered: float16 rounds a uniform
    number to 1 about once in 4,000 draws, which is an infinite g.
    """
    if device is None and generator is not None:
        device = generator.device
    exponential = torch.empty(tuple(shape), dtype=torch.float32, device=device)
    exponential.exponential_(generator=generator)
    # Some generators return an exact 0 once in a while.
    return exponential.clamp_(min=torch.finfo(torch.float32).tiny).log_().neg_()


def straight_through(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """The chosen cell as a vector: value exactly one-hot, gradient of softmax((h + g) / tau).

    `logits` and `noise` [..., n]; the result [..., n] has the dtype of `logits`, while the arithmetic is
    done in float32 or float64. A cell with logit -inf is never chosen. With noise 0 this is the argmax.

    Raises ValueError if the shapes differ, if there is no cell, if the temperature is not above 0, or if a
    row of logits holds NaN or +inf or has no finite entry.
    """
    perturbed = perturb(logits, noise)
    soft = torch.softmax(perturbed / checked_temperature(temperature), dim=-1)
    return carry_gradient(one_hot(perturbed.argmax(dim=-1), soft), soft).to(logits.dtype)


def perturb(logits: Tensor, noise: Tensor) -> Tensor:
    """h + g in at least float32; see `straight_through` for the errors."""
    check_logits(logits)
    if noise.shape != logits.shape:
        raise ValueError(
            f"the noise must have the shape of the logits {list(logits.shape)}, got {list(noise.shape)}"
        )
    return at_least_float32(logits) + noise


def at_least_float32(x: Tensor) -> Tensor:
    """float16 and bfloat16 become float32; float32 and float64 stay."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def one_hot(index: Tensor, like: Tensor) -> Tensor:
    """One-hot rows of `index` [...] with the shape [..., n] and dtype of `like`."""
    return torch.zeros_like(like).scatter_(-1, index.unsqueeze(-1), 1.0)


def carry_gradient(value: Tensor, gradient_of: Tensor) -> Tensor:
    """A tensor equal to `value` with the gradient of `gradient_of`.

    Exact for any finite `gradient_of`, since y - y is 0 in every precision; (value - y) + y would round.
    """
    return value.detach() + (gradient_of - gradient_of.detach())


def check_logits(logits: Tensor) -> None:
    """Raise ValueError unless `logits` [..., n] can be turned into a choice."""
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(f"address logits need at least one cell in the last axis, got {list(logits.shape)}")
    if not logits.is_floating_point():
        raise ValueError(f"address logits must be floating point, got {logits.dtype}")
    # One reduction finds NaN, +inf and rows that mask every cell.
    if not logits.detach().amax(dim=-1).isfinite().all():
        raise ValueError(
            "address logits hold NaN or +inf, or mask every cell of a row: has the training diverged?"
        )


def checked_temperature(temperature: float) -> float:
    """`temperature`, raised to `SMALLEST_TEMPERATURE`; ValueError unless it is finite and above 0."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"the temperature must be finite and above 0, got {temperature}")
    return max(temperature, SMALLEST_TEMPERATURE)


@dataclass(frozen=True)
class Annealing:
    """The temperature over a training run: tau = start * (end / start) ** progress, geometric."""

    start: float = 2.0
    """Temperature at the beginning. At 2, cells that are rarely right still get a gradient."""
    end: float = 0.3
    """Temperature at the end; equal to `start` for a fixed temperature."""

    def __post_init__(self) -> None:
        checked_temperature(self.start)
        checked_temperature(self.end)

    def at(self, progress: float) -> float:
        """The temperature after the share `progress` in [0, 1] of the training."""
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress is a share of the training, from 0 to 1, got {progress}")
        return self.start * (self.end / self.start) ** progress
