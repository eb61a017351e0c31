"""A published agent: a directory that holds all that `evaluate.py` needs, as plain numbers and text.

No file in it is unpickled. The configuration may name an environment as module:Id, and that module is imported.

NAME/config.json          the configuration it was trained with, as in a run directory; the checksum of the weights
NAME/model.safetensors    its weights, and in the header the frames it was trained for
NAME/README.md            the card: how it was trained, what it reaches, what its recalls are worth
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from agents.checkpoint import load_checkpoint
from agents.files import atomic_file
from agents.hints import ROOT
from agents.options import suggestion
from agents.run_dir import RunDirectory
from envs.errors import UserError

WEIGHTS = "model.safetensors"
CHECKSUM = "weights_sha256"
"""In config.json: of the file of weights."""
MOST_BYTES = 3_000_000
"""Published weights are files of a source repository, and stay small."""


def find_agent(path: Path) -> Path:
    """The directory of an agent: the path of a run, or a published agent by NAME or pretrained/NAME."""
    try:
        there = path.exists()
    except OSError as error:  # a name that no file can have
        raise UserError(f"{str(path)[:40]}... cannot be the name of an agent: {error.strerror}") from None
    if there or path.parent not in (Path(), Path("pretrained")):
        return path
    published = ROOT / "pretrained"
    if (published / path.name / WEIGHTS).is_file():
        return published / path.name
    names = [entry.parent.name for entry in (*published.glob(f"*/{WEIGHTS}"), *Path().glob("*/config.json"))]
    raise UserError(
        f"{path} is neither a run directory nor a published agent{suggestion(path.name, sorted(names))}"
    )


def save_weights(directory: Path, weights: dict[str, torch.Tensor], frames: int) -> int:
    """Write the weights of an agent; returns the bytes. Raises UserError if they are too many."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    content = to_bytes(plain, metadata={"frames": str(frames)})
    if len(content) > MOST_BYTES:
        raise UserError(
            f"the weights take {len(content):,} bytes, more than the {MOST_BYTES:,} of a published agent"
        )
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_file(directory / WEIGHTS) as file:
        file.write(content)
    return len(content)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_published_weights(path: Path) -> tuple[dict[str, torch.Tensor], int]:
    """Weights and frames of a published agent; raises UserError if the file is damaged."""
    stored = RunDirectory(path.parent).read_stored() if (path.parent / "config.json").is_file() else {}
    told = stored.get(CHECKSUM)  # agents published before have none
    try:
        if told is not None and told != file_digest(path):
            raise UserError(f"{path} is damaged: its content does not match the checksum in config.json")
        with safe_open(str(path), framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return weights, int((file.metadata() or {})["frames"])
    except UserError:
        raise
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise UserError(f"{path} is truncated or not the weights of an agent ({error})") from None


def weights_at(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a published agent, of a run's latest checkpoint, or of a checkpoint file."""
    path = find_agent(path)
    if (path / WEIGHTS).is_file():
        return load_published_weights(path / WEIGHTS)[0]
    weights: dict[str, torch.Tensor] = load_checkpoint(
        RunDirectory(path).checkpoint("latest") if path.is_dir() else path
    )["model"]
    return weights
