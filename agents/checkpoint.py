"""Checkpoints: one file each, whole or absent, of plain tensors, numbers, lists and text, under a checksum.

`torch.load(weights_only=True)` reads them without unpickling arbitrary objects. The checksum is over the content,
not the file, so it finds every flipped bit that would change a number. `latest` holds everything that an exact
continuation needs and has predecessors, `previous-1`, `previous-2`, ...; `best` holds the agent alone.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agents.files import atomic_file, predecessors
from envs.errors import Diverged, UserError

FORMAT = 2
"""Of checkpoints; the first format had no checksum."""
READABLE = (1, FORMAT)


def content_digest(content: Any) -> str:
    """A hash of nested dicts, lists, tensors, numbers and text: types, order, shapes and every bit."""
    digest = hashlib.blake2b(digest_size=16)

    def feed(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"tensor {value.dtype} {list(value.shape)} ".encode())
            # A copy: the strides of a single number can be anything, and bytes need them to be 1.
            flat = torch.empty(value.numel(), dtype=value.dtype).copy_(value.detach().reshape(-1))
            digest.update(flat.view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            digest.update(f"dict {len(value)} ".encode())
            for key, entry in value.items():
                feed(key)
                feed(entry)
        elif isinstance(value, list | tuple):
            digest.update(f"list {len(value)} ".encode())
            for entry in value:
                feed(entry)
        else:
            digest.update(f"{type(value).__name__} {value!r} ".encode())

    feed(content)
    return digest.hexdigest()


def save_checkpoint(path: Path, content: dict[str, Any], keep: int | None = None) -> None:
    """Write a checkpoint atomically; one whose weights are not finite is never written.

    `keep`: how many checkpoints there shall be, this one and its predecessors; None leaves those as they are.
    """
    check_finite_weights(content["model"], str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, **content}
    buffer = io.BytesIO()
    torch.save({**content, "checksum": content_digest(content)}, buffer)
    with atomic_file(path) as file:
        file.write(buffer.getbuffer())
        if keep is not None:
            file.flush()
            os.fsync(file.fileno())
            _keep_predecessors(path, keep)


def _keep_predecessors(path: Path, keep: int) -> None:
    """Make room for a new `path`: what stands there becomes previous-1. At every instant all files are whole."""
    numbered = [path.with_name(f"previous-{number}.pt") for number in range(1, keep)]
    for older, newer in zip(reversed(numbered[1:]), reversed(numbered[:-1]), strict=True):
        if newer.exists():
            os.replace(newer, older)
    if numbered and path.exists():
        beside = path.with_name(f".{numbered[0].name}.part")
        beside.unlink(missing_ok=True)
        try:
            os.link(path, beside)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, beside)
        os.replace(beside, numbered[0])
    for extra in predecessors(path)[len(numbered) :]:
        extra.unlink()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; raises UserError if it is missing, damaged or not one of ours."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        return _read_whole(path)
    except UserError as error:
        older = predecessors(path) if path.stem == "latest" else []
        offer = f"; the checkpoint before it: {older[0]}" if older else ""
        raise UserError(f"{error}{offer}") from None


def _read_whole(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the user
        raise UserError(f"{path} is truncated or not a checkpoint ({type(error).__name__})") from None
    if not isinstance(content, dict) or "model" not in content:
        raise UserError(f"{path} is not a checkpoint of mnm-rl: it holds no model")
    found = content.get("format")
    if type(found) is not int or found not in READABLE:
        raise UserError(f"{path} has checkpoint format {found!r:.40}, expected {FORMAT}")
    if content["format"] != 1:
        told = content.pop("checksum", None)
        if told != content_digest(content):
            raise UserError(f"{path} is damaged: its content does not match its checksum")
    kinds: dict[str, type | tuple[type, ...]] = {
        "model": dict, "config": dict, "frames": int, "updates": int, "wall_s": (int, float),
        "best_return": (int, float), "best_score": (int, float),
    }  # fmt: skip
    for name, kind in kinds.items():
        if name in content and (not isinstance(content[name], kind) or isinstance(content[name], bool)):
            raise UserError(f"{path} is damaged: its {name} is {type(content[name]).__name__}")
    if not all(isinstance(name, str) and isinstance(x, torch.Tensor) for name, x in content["model"].items()):
        raise UserError(f"{path} is damaged: its model does not consist of named tensors")
    return content


def newest_whole(path: Path) -> tuple[dict[str, Any], str | None]:
    """`latest`, or its newest predecessor that is whole where it is missing, damaged or not finite; and what to say.

    A `latest` that cannot be used is put aside as latest.damaged.pt. Raises UserError if nothing can be used.
    """
    first: UserError | None = None
    for candidate in (path, *predecessors(path)):
        if not candidate.exists():
            continue
        try:
            content = _read_whole(candidate)
            check_finite_weights(content["model"], str(candidate))
        except UserError as error:
            first = first or error
            continue
        if first is not None and path.exists():
            os.replace(path, path.with_name("latest.damaged.pt"))
        if candidate == path:
            return content, None
        why = str(first) if first is not None else f"there is no {path.name}"
        return content, f"{why}; continuing from {candidate.name}, update {content.get('updates', '?')}."
    if first is None:
        raise UserError(f"no checkpoint at {path}")
    raise first


def check_finite_weights(weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuse weights that are not finite: whatever is computed with them would look like a result."""
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise Diverged(f"{source}: the weights are not finite ({name}); the training has diverged")


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
    check_finite_weights(weights, str(source))
    model.load_state_dict(weights)
