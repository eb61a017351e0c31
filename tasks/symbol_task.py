"""A symbol task under the supervised loop: accuracy over the number of items and their length.

Every batch has one size, drawn evenly from the trained range. At the end the best weights are tested over
a larger range, up to twice the trained sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.distributed import make_generator
from agents.files import write_csv
from tasks.accuracy_figure import plot_accuracy
from tasks.config import SymbolConfig
from tasks.sequence_model import SequenceBatch, SequenceModel, sequence_loss
from tasks.symbols import SYMBOL_TASKS, Alphabet, Sizes

VALID_STREAM, TEST_STREAM = 2, 3
"""Random streams of the sequences for choosing and for testing; both are apart from the training's."""
EMBEDDING_STD = 3.0
"""Keys are tanh of what the controller makes of a symbol. Small symbols would give keys near 0, which bind
almost nothing, and learning would begin late."""
CHUNK = 256
"""Most sequences that are evaluated at once."""


def trained_sizes(config: SymbolConfig) -> list[Sizes]:
    """Every size of the training."""
    return [
        Sizes(items, length)
        for items in range(config.min_items, config.max_items + 1)
        for length in range(config.min_item_length, config.max_item_length + 1)
    ]


def tested_sizes(config: SymbolConfig) -> list[Sizes]:
    """Every size of the test: from the smallest trained to twice the largest trained."""
    return [
        Sizes(items, length)
        for items in range(config.min_items, 2 * config.max_items + 1)
        for length in range(config.min_item_length, 2 * config.max_item_length + 1)
    ]


class SymbolSequences:
    """The one of the three tasks that the configuration names."""

    def __init__(self, config: SymbolConfig, device: torch.device) -> None:
        self.config, self.device, self.generate = config, device, SYMBOL_TASKS[config.task]
        self.alphabet = Alphabet(config.symbols)
        codes = self.alphabet.codes
        self.model = SequenceModel(
            codes, codes, config.embedding_size, config.core_config(), EMBEDDING_STD
        ).to(device)
        self.sizes = trained_sizes(config)
        stream = make_generator(config.seed, VALID_STREAM, torch.device("cpu"))
        self.valid = [
            batch for sizes in self.sizes for batch in self._batches(sizes, config.valid_examples, stream)
        ]

    def draw(self, generator: torch.Generator) -> SequenceBatch:
        """A batch of one trained size."""
        choice = int(torch.randint(len(self.sizes), (1,), generator=generator))
        batch = self.generate(self.alphabet, self.sizes[choice], self.config.batch_size, generator)
        return self.model.with_noise(batch, generator).to(self.device)

    def loss(self, batch: SequenceBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy of the answers and the memory's own loss."""
        self.model.core.set_progress(progress)
        return sequence_loss(self.model(batch), batch, self.config.meta_coef)

    def evaluate(self) -> dict[str, float]:
        """Mean over the trained sizes on fixed sequences."""
        figures = [self.loss(batch, 1.0)[1] for batch in self.valid]
        mean = {name: float(sum(f[name] for f in figures)) / len(figures) for name in figures[0]}
        return {"score": mean["accuracy"], "cross_entropy": mean["cross_entropy"]}

    def finish(self, directory: Path) -> dict[str, Any]:
        """Accuracy over the tested sizes: accuracy.csv, accuracy.png and the figures in brief."""
        stream = make_generator(self.config.seed, TEST_STREAM, torch.device("cpu"))
        rows = [self._accuracy(sizes, stream) for sizes in tested_sizes(self.config)]
        write_csv(directory / "accuracy.csv", rows)
        plot_accuracy(rows, directory / "accuracy.png", f"{self.config.task}, {self.config.core}")
        inside = [row["symbol_accuracy"] for row in rows if row["trained"]]
        outside = [row["symbol_accuracy"] for row in rows if not row["trained"]]
        return {
            "test_accuracy": sum(inside) / len(inside),
            "test_accuracy_beyond": sum(outside) / len(outside) if outside else None,
            "accuracy": rows,
        }

    def _accuracy(self, sizes: Sizes, stream: torch.Generator) -> dict[str, Any]:
        """One row of the test: right symbols, and sequences in which all symbols are right."""
        right = []
        for batch in self._batches(sizes, self.config.test_examples, stream):
            is_right = self.model(batch).logits.argmax(-1) == batch.targets[batch.answer]
            right.append(is_right.view(-1, batch.answer.shape[1]).cpu())
        answers = torch.cat(right, dim=1)
        return {
            "items": sizes.items,
            "item_length": sizes.length,
            "trained": int(sizes in self.sizes),
            "symbol_accuracy": round(float(answers.double().mean()), 5),
            "sequence_accuracy": round(float(answers.all(0).double().mean()), 5),
            "sequences": answers.shape[1],
        }

    def _batches(self, sizes: Sizes, count: int, stream: torch.Generator) -> Iterator[SequenceBatch]:
        for start in range(0, count, CHUNK):
            batch = self.generate(self.alphabet, sizes, min(CHUNK, count - start), stream)
            yield batch.to(self.device)
