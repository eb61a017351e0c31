"""Where a run computes, and its random streams."""

from __future__ import annotations

import torch

from envs.errors import UserError


def pick_device(name: str, local: int = 0) -> torch.device:
    """The device that `--device` names, for process number `local` of this machine; raises UserError."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda was asked for, but PyTorch finds no CUDA device; use --device cpu")
    found = torch.cuda.device_count()
    if local >= found:
        raise UserError(
            f"every process needs a CUDA device of its own, and this machine has {found}; start {found}, or "
            "use --device cpu"
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def make_generator(seed: int, stream: int, device: torch.device) -> torch.Generator:
    """A random stream of its own for one use."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + stream)
