"""Pictures: which observations are pictures, how they are scaled, and the convolutions that read them.

A Box is a picture if it has the bounds and the shape of one:

    bounds   0 to 255, or floats from 0 to 1
    shape    [H, W] grey, [H, W, C] or [C, H, W], or a stack [K, ...] of the latter, H and W at least 8 pixels

Of [a, b, c] the channels are the end that is not a side of a square, else the shorter one; the pictures of a stack
become channels. Values are divided by the largest bound. `--encoder` names the encoder of all pictures, or of single
observations by their keys (`camera=nature,map=flat`), which also makes a picture of a Box with other bounds:

    auto     small from 36 x 36 pixels, fine below
    fine     three 3x3 convolutions of stride 2
    small    16 of 8x8 and stride 4, 32 of 4x4 and stride 2 (Mnih et al. 2016)
    nature   32 of 8x8 and stride 4, 64 of 4x4 and stride 2, 64 of 3x3 (Mnih et al. 2015): 4 times the work of small
    impala   three stages of a convolution, pooling and two residual blocks (Espeholt et al. 2018): 28 times
    flat     a linear map of all values
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from agents.encoder_names import BYTES, parse_encoder
from agents.options import suggestion
from envs.errors import UserError

LEAST_SIDE = 8
LEAST_COARSE = 36
"""Pixels per side that leave the last convolutions of `small` and `nature` something to see."""


def check_encoder(text: str, space: spaces.Dict) -> None:
    """Refuse --encoder where no observation has the key that it names, or none is a picture."""
    named, keys = parse_encoder(text), list(space.spaces)
    for key in named:
        if key and key not in keys:
            raise UserError(
                f"--encoder: there is no observation {key!r}{suggestion(key, keys)}; there are {', '.join(keys)}"
            )
    pictures = [key for key, part in space.items() if key in named or is_picture(part)]
    if named.get("") in CONVOLUTIONS and not pictures:
        raise UserError(
            f"--encoder {named['']}: no observation is a picture (a Box from 0 to 255, or of floats from 0 to 1, of "
            f"at least {LEAST_SIDE} x {LEAST_SIDE} pixels); KEY={named['']} takes another Box for one"
        )


def encoder_of(text: str, key: str, space: spaces.Box) -> str | None:
    """The encoder of a Box among fine, small, nature and impala; None if it is encoded as numbers. Raises UserError."""
    if len(space.shape) > 1 and 0 in space.shape:
        raise UserError(f"observation {key!r} is of size 0: {space}; expected at least one pixel or number")
    named = parse_encoder(text)
    name = named.get(key) or named.get("", "auto")
    if name == BYTES:
        return "fine" if is_picture_of_bytes(space) else None
    if name == "flat" or not (key in named or is_picture(space)):
        return None
    if not has_shape(space.shape) or not np.isfinite([space.low.min(), space.high.max()]).all():
        raise UserError(
            f"--encoder {key}={name}: {space} cannot be a picture; expected bounds, and a shape such as [H, W, C] "
            f"with at least {LEAST_SIDE} x {LEAST_SIDE} pixels"
        )
    _, height, width = form(space.shape)
    if name == "auto":
        return "small" if min(height, width) >= LEAST_COARSE else "fine"
    if name in ("small", "nature") and min(height, width) < LEAST_COARSE:
        raise UserError(
            f"--encoder {name} needs at least {LEAST_COARSE} x {LEAST_COARSE} pixels, observation {key!r} has "
            f"{height} x {width}; expected auto, fine, impala or flat"
        )
    return name


def is_picture(space: Any) -> bool:
    """Whether a space is a picture by itself: grids of categories or of zeros and ones have other bounds."""
    if not isinstance(space, spaces.Box) or not has_shape(space.shape):
        return False
    bounds = float(space.low.min()), float(space.high.max())
    return bounds == (0.0, 255.0) or (bounds == (0.0, 1.0) and np.issubdtype(space.dtype, np.floating))


def is_picture_of_bytes(space: spaces.Box) -> bool:
    """The rule of BYTES."""
    has_form = len(space.shape) == 3 and space.dtype == np.uint8 and sorted(space.shape)[1] >= LEAST_SIDE
    return has_form and int(space.low.min()) == 0 and int(space.high.max()) == 255


def has_shape(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape can be a picture."""
    return 2 <= len(shape) <= 4 and min(shape) > 0 and min(form(shape)[1:]) >= LEAST_SIDE


def form(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of a picture or stack of pictures."""
    if len(shape) == 2:
        return 1, *shape
    count, (a, b, c) = shape[0] if len(shape) == 4 else 1, shape[-3:]
    return (count * a, b, c) if has_channels_first((a, b, c)) else (count * c, a, b)


def has_channels_first(shape: tuple[int, ...]) -> bool:
    """Which end of [a, b, c] holds the channels: the one that is not the side of a square, else the shorter one."""
    if shape[0] == shape[1] or shape[1] == shape[2]:
        return shape[0] != shape[1]
    return shape[0] < shape[2]


def channels_first(x: Tensor) -> Tensor:
    """Pictures [N, *shape] as [N, C, H, W]."""
    if x.dim() == 3:
        return x.unsqueeze(1)
    if not has_channels_first(x.shape[-3:]):
        x = x.movedim(-1, -3)
    return x.flatten(1, -3)


class ImageEncoder(nn.Module):
    """Convolutions over a picture in any of its forms, then a linear map."""

    def __init__(self, space: spaces.Box, size: int, name: str = "fine") -> None:
        super().__init__()
        self.scale = max(abs(float(space.low.min())), float(space.high.max()))
        self.dims = len(space.shape)
        channels, height, width = form(space.shape)
        self.convolutions = CONVOLUTIONS[name](channels)
        with torch.no_grad():
            features = self.convolutions(torch.zeros(1, channels, height, width)).shape[1]
        self.linear = nn.Linear(features, size)

    def forward(self, x: Tensor) -> Tensor:
        leading = x.shape[: x.dim() - self.dims]
        image = channels_first(x.reshape(-1, *x.shape[x.dim() - self.dims :]))
        first: Any
        first, *others = self.convolutions
        # The scale is applied to the few weights instead of the many pixels; whatever follows has no part in it.
        x = F.conv2d(
            image.to(first.weight.dtype), first.weight / self.scale, first.bias, first.stride, first.padding
        )
        for layer in others:
            x = layer(x)
        return self.linear(x).view(*leading, -1)


def fine(channels: int) -> nn.Sequential:
    """Three 3x3 convolutions of stride 2."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
    )


def small(channels: int) -> nn.Sequential:
    """The convolutions of Mnih et al. 2016."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 8, stride=4),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2),
        nn.ReLU(),
        nn.Flatten(),
    )


def nature(channels: int) -> nn.Sequential:
    """The convolutions of Mnih et al. 2015."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, 8, stride=4),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.Flatten(),
    )


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


def impala(channels: int) -> nn.Sequential:
    """The residual network of Espeholt et al. 2018."""
    layers: list[nn.Module] = []
    for width in (16, 32, 32):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1),
            nn.MaxPool2d(3, stride=2, padding=1),
            Residual(width),
            Residual(width),
        ]
        channels = width
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten())


CONVOLUTIONS = {"fine": fine, "small": small, "nature": nature, "impala": impala}
