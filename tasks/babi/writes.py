"""What a model writes to its memory while it reads a story: two heat maps with the words as labels.

The third figure of "Metalearned Neural Memory: Teaching neural networks how to remember": a word of the
sentence read now against the words read before. Where a fact is replaced ("Daniel went to the garden", later
"Daniel moved to the hallway") the write keys agree and the target values differ.
"""

from __future__ import annotations

from typing import Any

import torch

from memory import AddressRecord
from recall.render.similarity import SimilarityMaps, similarity_maps
from tasks.babi.reader import Story, read_text
from tasks.babi.sequences import Vocabulary
from tasks.sequence_model import SequenceModel

DEMONSTRATION = (
    "1 Daniel went to the garden.\n"
    "2 Mary went to the kitchen.\n"
    "3 Daniel moved to the hallway.\n"
    "4 Where is Daniel? \thallway\t3\n"
)
"""A fact, another one, and the first one replaced."""


@torch.no_grad()
def maps_of_story(model: SequenceModel, vocabulary: Vocabulary, story: Story) -> SimilarityMaps:
    """Similarity of the write keys and of the target values between all words of a story.

    The core must have a write memory (`model.core.writes`).
    """
    device = next(model.parameters()).device
    state = model.core.initial_state(1)
    writes = []
    for word in story.tokens:
        number = torch.tensor([vocabulary.words.index(word)], device=device)
        output, state = model.core.step(model.embedding(number), state, record=True)
        record = output.record
        assert record is not None
        assert not isinstance(record, AddressRecord)
        writes.append((record.write_inputs[0], record.target_value, record.beta))
    keys, values, beta = (torch.cat(part).cpu().numpy() for part in zip(*writes, strict=True))
    # What all keys have in common would make them all alike.
    return similarity_maps(keys, values, beta, centred=True)


def pairs_of_words(maps: SimilarityMaps, story: Story) -> list[dict[str, Any]]:
    """A row per pair of an earlier and a later word: the figures that the maps show as colours."""
    return [
        {
            "earlier": then,
            "earlier_word": story.tokens[then],
            "now": now,
            "now_word": story.tokens[now],
            "keys": round(float(maps.keys[now, then]), 3),
            "values": round(float(maps.values[now, then]), 3),
        }
        for now in range(len(story.tokens))
        for then in range(now)
    ]


def story_to_show(vocabulary: Vocabulary, story: Story) -> Story:
    """The demonstration if the model knows its words, else `story` up to its first question."""
    [shown] = read_text(DEMONSTRATION)
    if set(shown.tokens) <= set(vocabulary.words):
        return shown
    end = story.questions[0].places[-1] + 1
    starts = tuple(start for start in story.sentences if start < end)
    return Story(story.task, story.tokens[:end], starts, story.questions[:1])
