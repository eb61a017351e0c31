"""Sequences of symbols: dictionary inference, copy and associative recall.

Legend: B batch, T time, A symbols of the alphabet, N items, l symbols per item.

Codes: symbols 1..A, then PAIR = A+2, INSTANCE = A+3, PREDICT = A+4, BLANK = A+5, as the published generator
of dictionary inference has them (which calls BLANK a padding). The model reads BLANK where it must answer,
so no answer stands in its input.

    dictionary          N x (l sources, PAIR, l images, INSTANCE), PREDICT, l sources, PAIR, l x BLANK
    copy                N x (l symbols), PREDICT, N l x BLANK
    associative-recall  N x (l symbols, INSTANCE), PREDICT, l symbols, PAIR, l x BLANK -> the item after it

Source of the first: Munkhdalai et al., "Metalearned Neural Memory", NeurIPS 2019, in the format that a public
notebook on its code shows; the two others: Graves, Wayne, Danihelka, "Neural Turing Machines", 2014.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.sequence_model import SequenceBatch


class Alphabet(NamedTuple):
    """The codes of an alphabet of `symbols` symbols."""

    symbols: int

    @property
    def pair(self) -> int:
        return self.symbols + 2

    @property
    def instance(self) -> int:
        return self.symbols + 3

    @property
    def predict(self) -> int:
        return self.symbols + 4

    @property
    def blank(self) -> int:
        return self.symbols + 5

    @property
    def codes(self) -> int:
        """How many codes there are, 0 and A+1 included, which stay unused."""
        return self.symbols + 6


class Sizes(NamedTuple):
    """The size of the sequences of one batch."""

    items: int
    """N."""
    length: int
    """l."""


SymbolTask = Callable[[Alphabet, Sizes, int, torch.Generator], SequenceBatch]
"""(alphabet, sizes, batch size, random stream) -> a batch of sequences of equal length."""


def dictionary(alphabet: Alphabet, sizes: Sizes, batch: int, generator: torch.Generator) -> SequenceBatch:
    """Infer a symbol-to-symbol mapping from N examples, and apply it to a query.

    The mapping is a random permutation of the alphabet, new in every sequence. Every symbol of the query was
    shown in some example, but the query may combine symbols of several examples.
    """
    items, length = sizes
    # Column 0 is not a symbol: codes begin at 1.
    image = torch.rand(batch, alphabet.symbols, generator=generator).argsort(1) + 1
    sources = torch.randint(1, alphabet.symbols + 1, (batch, items * length), generator=generator)
    shown = torch.randint(items * length, (batch, length), generator=generator)
    query = sources.gather(1, shown)
    support = torch.cat(
        [
            sources.view(batch, items, length),
            _constant(alphabet.pair, batch, items, 1),
            image.gather(1, sources - 1).view(batch, items, length),
            _constant(alphabet.instance, batch, items, 1),
        ],
        dim=2,
    )
    question = _question(alphabet, query)
    return _with_answers(alphabet, [support.flatten(1), question], image.gather(1, query - 1))


def copy(alphabet: Alphabet, sizes: Sizes, batch: int, generator: torch.Generator) -> SequenceBatch:
    """Repeat N l random symbols in the same order."""
    count = sizes.items * sizes.length
    shown = torch.randint(1, alphabet.symbols + 1, (batch, count), generator=generator)
    return _with_answers(alphabet, [shown, _constant(alphabet.predict, batch, 1)], shown)


def associative_recall(
    alphabet: Alphabet, sizes: Sizes, batch: int, generator: torch.Generator
) -> SequenceBatch:
    """Name the item that came after the queried one, which occurs once and not at the end; needs N >= 2."""
    items, length = sizes
    shown = torch.empty(batch, items, length, dtype=torch.int64)
    once = torch.zeros(batch, items - 1, dtype=torch.bool)
    while True:  # Sequences in which every item but the last occurs twice have no clear question.
        missing = ~once.any(1)
        if not missing.any():
            break
        count = int(missing.sum())
        drawn = torch.randint(1, alphabet.symbols + 1, (count, items, length), generator=generator)
        same = (drawn.unsqueeze(1) == drawn.unsqueeze(2)).all(3)
        shown[missing] = drawn
        once[missing] = (same.sum(2) == 1)[:, :-1]
    position = torch.multinomial(once.double(), 1, generator=generator).squeeze(1)
    row = torch.arange(batch)
    support = torch.cat([shown, _constant(alphabet.instance, batch, items, 1)], dim=2).flatten(1)
    question = _question(alphabet, shown[row, position])
    return _with_answers(alphabet, [support, question], shown[row, position + 1])


SYMBOL_TASKS: dict[str, SymbolTask] = {
    "dictionary": dictionary,
    "copy": copy,
    "associative-recall": associative_recall,
}
"""Name -> what makes the sequences of the task."""


def _question(alphabet: Alphabet, query: Tensor) -> Tensor:
    """PREDICT, the query [B, l], PAIR."""
    batch = query.shape[0]
    return torch.cat(
        [_constant(alphabet.predict, batch, 1), query, _constant(alphabet.pair, batch, 1)], dim=1
    )


def _with_answers(alphabet: Alphabet, parts: list[Tensor], answers: Tensor) -> SequenceBatch:
    """The parts [B, ...] of the input, then one BLANK per answer [B, K]; time first."""
    shown = torch.cat(parts, dim=1)
    tokens = torch.cat([shown, _constant(alphabet.blank, *answers.shape)], dim=1).T.contiguous()
    targets = torch.cat([torch.zeros_like(shown), answers], dim=1).T.contiguous()
    return SequenceBatch(tokens, targets, targets > 0, torch.ones_like(tokens, dtype=torch.bool))


def _constant(code: int, *shape: int) -> Tensor:
    return torch.full(shape, code, dtype=torch.int64)
