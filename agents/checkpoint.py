"""Checkpoints: one file each, written atomically, read without unpickling arbitrary objects.

A file holds plain tensors, numbers, lists and text only, so that `torch.load(weights_only=True)` can read
it. `latest` holds everything that an exact continuation needs; `best` holds the agent alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from agents.files import atomic_file
from envs.errors import UserError

FORMAT = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        torch.save({"format": FORMAT, **content}, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; raises UserError if it is missing, damaged or not one of ours."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the user
        raise UserError(f"{path} is truncated or not a checkpoint ({type(error).__name__})") from None
    if not isinstance(content, dict) or "model" not in content:
        raise UserError(f"{path} is not a checkpoint of mnm-rl: it holds no model")
    if content.get("format") != FORMAT:
        raise UserError(f"{path} has checkpoint format {content.get('format')!r}, expected {FORMAT}")
    return content


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], source: Path) -> None:
    """Put `weights` into `model`; raises UserError, naming the first difference, if they do not fit."""
    own = model.state_dict()
    for name in sorted(set(own) | set(weights)):
        if name not in weights:
            raise UserError(f"{source} is of another architecture: it has no {name}")
        if name not in own:
            raise UserError(f"{source} is of another architecture: its {name} has no place in this agent")
        if own[name].shape != weights[name].shape:
            raise UserError(
                f"{source} is of another architecture: its {name} has shape {list(weights[name].shape)}, "
                f"this agent needs {list(own[name].shape)}"
            )
    model.load_state_dict(weights)
