"""The noisy quadratic and its best fit by the cells of a bank: data and closed forms.

Legend: n cells; x uniform on [-1, 1]; target x^2, observed with normal noise.

The best fit takes the nearest cell for every x. Between sorted cells a < b it switches at x^2 = (a + b) / 2,
so its error is an integral of polynomials and needs no sampling.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LOW, HIGH = -1.0, 1.0
"""The range of x in training and in the test."""


class Fit(NamedTuple):
    """A piecewise constant fit beside the best one; all [N], on the CPU."""

    x: Tensor
    target: Tensor
    """x^2, without noise."""
    value: Tensor
    """What was read."""
    cell: Tensor
    """From which cell."""
    best_value: Tensor
    """The cell nearest to the target."""
    best_cell: Tensor
    probabilities: Tensor
    """softmax of the address logits [N, n]."""


def uniform_cells(count: int) -> Tensor:
    """The bank of the source: `count` values evenly spaced on [0, 1], both ends included."""
    return torch.linspace(0.0, 1.0, count)


def noisy_quadratic(count: int, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x uniform on [-1, 1] and y = x^2 + noise * N(0, 1), both [count]."""
    x = LOW + (HIGH - LOW) * torch.rand(count, generator=generator)
    return x, x.square() + noise * torch.randn(count, generator=generator)


def grid(count: int) -> Tensor:
    """Midpoints of `count` equal parts of [-1, 1]: the x of the test, [count]."""
    return LOW + (HIGH - LOW) * (torch.arange(count) + 0.5) / count


def best_cell(targets: Tensor, cells: Tensor) -> Tensor:
    """The cell nearest to each target [...], as an index."""
    return (targets.unsqueeze(-1) - cells).abs().argmin(dim=-1)


def switch_points(cells: Tensor) -> Tensor:
    """The |x| in (0, 1) at which the best fit changes its cell, ascending."""
    ordered = cells.double().sort().values
    middle = (ordered[1:] + ordered[:-1]) / 2
    return middle[(middle > 0) & (middle < 1)].sqrt()


def optimal_error(cells: Tensor) -> float:
    """Mean squared error of the best fit without noise: the integral of (x^2 - c(x))^2 over [0, 1]."""
    edges = torch.cat([torch.zeros(1), switch_points(cells), torch.ones(1)]).double()
    middle = (edges[1:] + edges[:-1]) / 2
    c = cells.double()[best_cell(middle.square(), cells.double())]

    def primitive(x: Tensor) -> Tensor:
        return x.pow(5) / 5 - 2 * c * x.pow(3) / 3 + c.square() * x

    return float((primitive(edges[1:]) - primitive(edges[:-1])).sum())


def optimal_cells(count: int, sweeps: int = 2_000) -> Tensor:
    """The best bank of `count` values, by Lloyd's alternation: nearest cell, then the mean of its targets."""
    cells = (torch.arange(count).double() + 0.5) / count
    for _ in range(sweeps):
        edges = torch.cat([torch.zeros(1), switch_points(cells), torch.ones(1)]).double()
        # The mean of x^2 over an interval [a, b] of x.
        cells = (edges[1:].pow(3) - edges[:-1].pow(3)) / (3 * (edges[1:] - edges[:-1]))
    return cells
