"""Where a run computes, and its random streams."""

from __future__ import annotations

import torch

from envs.errors import UserError


def pick_device(name: str) -> torch.device:
    """The device that `--device` names; raises UserError if CUDA is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda was asked for, but PyTorch finds no CUDA device; use --device cpu")
    return torch.device(
        "cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu")
    )


def make_generator(seed: int, stream: int, device: torch.device) -> torch.Generator:
    """A random stream of its own for one use."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + stream)
