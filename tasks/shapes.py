"""Drawn 12 x 12 prototypes, and user images: one of them with defects and noise.

Legend: B images, n prototypes; images [.., 12, 12] with ink 1 on paper 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

SIDE = 12
DEFECT = 3
"""Side of a defect, a square in which ink and paper are exchanged."""

# u runs from left to right and v from top to bottom, both over (-1, 1).
SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disc": lambda u, v: u.square() + v.square() < 0.55,
    "frame": lambda u, v: torch.maximum(u.abs(), v.abs()) > 0.66,
    "plus": lambda u, v: torch.minimum(u.abs(), v.abs()) < 0.2,
    "cross": lambda u, v: (u.abs() - v.abs()).abs() < 0.25,
    "triangle": lambda u, v: (v > -0.7) & (u.abs() < (v + 0.9) / 1.8),
    "stripes": lambda u, v: torch.remainder(v + 1.0, 2 / 3) < 1 / 3,
    "half": lambda u, v: u < 0.0,
    "checks": lambda u, v: (torch.remainder(u + 1.0, 1.0) < 0.5) ^ (torch.remainder(v + 1.0, 1.0) < 0.5),
}
SPARE: Callable[[Tensor, Tensor], Tensor] = lambda u, v: (u + v).abs() < 0.5  # noqa: E731
"""A diagonal bar, in no bank: it replaces a prototype after training."""


class UserImages(NamedTuple):
    """A batch of user images; which prototype each was made from is never shown to the network."""

    images: Tensor
    """[B, 12, 12]."""
    shape: Tensor
    """[B], int64."""


def draw(shape: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The image [12, 12] of a shape."""
    middle = (torch.arange(SIDE) + 0.5) * (2 / SIDE) - 1
    v, u = torch.meshgrid(middle, middle, indexing="ij")
    return shape(u, v).float()


def prototypes(count: int) -> Tensor:
    """The first `count` shapes, [count, 12, 12]."""
    return torch.stack([draw(shape) for shape in list(SHAPES.values())[:count]])


def user_images(
    bank: Tensor, count: int, defects: int, noise: float, generator: torch.Generator
) -> UserImages:
    """`count` images, each one of `bank` [n, 12, 12] with 0 to `defects` inverted squares, and noise."""
    shape = torch.randint(len(bank), (count,), generator=generator)
    images = bank[shape]
    number = torch.randint(defects + 1, (count,), generator=generator)
    corners = torch.randint(SIDE - DEFECT + 1, (count, defects, 2, 1), generator=generator)
    along = (torch.arange(SIDE) >= corners) & (torch.arange(SIDE) < corners + DEFECT)
    squares = along[:, :, 0, :, None] & along[:, :, 1, None, :]
    squares &= (torch.arange(defects) < number[:, None])[:, :, None, None]
    images = torch.where(squares.any(dim=1), 1.0 - images, images)
    return UserImages(images + noise * torch.randn(images.shape, generator=generator), shape)


def difference(images: Tensor, others: Tensor) -> Tensor:
    """Ten times the mean squared difference of images [.., 12, 12]: the number that is supervised, [..]."""
    return 10.0 * (images - others).square().mean(dim=(-2, -1))
