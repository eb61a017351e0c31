"""A model of token sequences with answers: embedding -> memory core -> output at the answer steps.

    L = mean cross entropy over the answers of the batch + meta_coef * mean of L_meta over valid steps

Legend: T time, B batch, K answers in the batch. Sequences of different length are padded at their end; what
stands behind a sequence's end reaches neither its answers (the core is causal) nor the loss (`valid`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.losses import masked_mean
from memory import CoreConfig, make_core
from memory.hard.straight_through import gumbel_noise


class SequenceBatch(NamedTuple):
    """Token sequences and what is asked of them; all but the noise [T, B]."""

    tokens: Tensor
    """int64 codes that the model reads."""
    targets: Tensor
    """int64 class to answer where `answer` is set; 0 elsewhere."""
    answer: Tensor
    """bool: the model's output at this step is an answer."""
    valid: Tensor
    """bool: this step belongs to the sequence."""
    noise: Tensor | None = None
    """[T, B, *core.noise_shape] for a core that chooses at random while it trains; None: the best choice."""

    def to(self, device: torch.device) -> SequenceBatch:
        """The batch on another device."""
        moved = {name: x.to(device) for name, x in self._asdict().items() if x is not None}
        return self._replace(**moved)


class SequenceOutput(NamedTuple):
    """What the model says about a batch."""

    logits: Tensor
    """Preferences for every class at the answer steps, [K, classes], in the order of `batch.answer` true."""
    meta_loss: Tensor
    """Error of the memory after each write, [T, B]."""
    write_error: Tensor
    """The same before each write, [T, B], detached."""


class SequenceModel(nn.Module):
    """Embedding, interchangeable memory core, and one linear output layer."""

    def __init__(
        self, tokens: int, classes: int, embedding_size: int, core: CoreConfig, embedding_std: float = 1.0
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding_size)
        with torch.no_grad():
            self.embedding.weight.mul_(embedding_std)
        self.core = make_core(core, embedding_size)
        self.output = nn.Linear(self.core.output_size, classes)

    def forward(self, batch: SequenceBatch) -> SequenceOutput:
        """Read whole sequences, each from the initial state."""
        state = self.core.initial_state(batch.tokens.shape[1])
        is_first = torch.zeros_like(batch.answer)
        out, _ = self.core.unroll(self.embedding(batch.tokens), state, is_first, noise=batch.noise)
        return SequenceOutput(self.output(out.features[batch.answer]), out.meta_loss, out.write_error)

    def with_noise(self, batch: SequenceBatch, generator: torch.Generator) -> SequenceBatch:
        """The batch with the noise that training on it consumes; unchanged for a core without chance."""
        if self.core.noise_shape is None:
            return batch
        return batch._replace(noise=gumbel_noise((*batch.tokens.shape, *self.core.noise_shape), generator))


def sequence_loss(
    output: SequenceOutput, batch: SequenceBatch, meta_coef: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss above and what to log; a batch without answers is an error of the caller."""
    targets = batch.targets[batch.answer]
    cross_entropy = F.cross_entropy(output.logits, targets)
    meta_loss = masked_mean(output.meta_loss, batch.valid)
    write_error = masked_mean(output.write_error, batch.valid)
    figures = {
        "cross_entropy": cross_entropy,
        "accuracy": (output.logits.argmax(-1) == targets).double().mean(),
        "meta_loss": meta_loss,
        # The error removed by a write: the first sign that the memory is used.
        "write_gain": write_error - meta_loss,
    }
    return cross_entropy + meta_coef * meta_loss, figures


def pad_sequences(sequences: Sequence[SequenceBatch], padding: int) -> SequenceBatch:
    """One batch [T, B] of sequences [T_b, 1], filled behind their ends with the token `padding`."""
    longest = max(sequence.tokens.shape[0] for sequence in sequences)

    def join(columns: list[Tensor], value: int) -> Tensor:
        grown = [F.pad(x, (0, 0, 0, longest - x.shape[0]), value=value) for x in columns]
        return torch.cat(grown, dim=1)

    return SequenceBatch(
        join([s.tokens for s in sequences], padding),
        join([s.targets for s in sequences], 0),
        join([s.answer for s in sequences], False),
        join([s.valid for s in sequences], False),
    )
