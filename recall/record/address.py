"""The reads of a hard memory on a tape: which earlier step every head read, and what it might have read.

A hard memory reads whole slots, so there is nothing to attribute: the slot that a head chose is known, and with
it the step that wrote it. That is exact. Every other slot had no effect on the value read at this step.

Letters: T steps, H read heads, N slots. Slot i of N is the one written N - i steps ago, slot N the null slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
PREFIX = "address/"
"""In front of the names of these arrays in a tape's file."""


@dataclass(frozen=True)
class AddressTape:
    """What the read heads did in one episode."""

    slot: Array
    """[T, H] int64, the slot that each head chose."""
    tags: Array
    """[T, N] int64, the step of the episode in which each slot was written; -1 for an empty slot."""
    logits: Array
    """[T, H, N + 1] float32, the address logits without noise; -inf for an empty slot."""
    noise: Array
    """[T, H, N + 1] float32, what was added to them: slot = argmax(logits + noise); 0 under the greedy policy."""

    @staticmethod
    def of_rows(slot: Array, tags: Array, logits: Array, noise: Array) -> AddressTape:
        """From the stacked parts of `memory.AddressRecord`."""
        return AddressTape(
            slot.astype(np.int64), tags.astype(np.int64), logits.astype(np.float32), noise.astype(np.float32)
        )

    @property
    def read_step(self) -> Array:
        """[T, H] int64, the step of the episode that wrote what each head read; -1 for nothing (null slot)."""
        empty = np.full((len(self.tags), 1), -1)
        found: Array = np.take_along_axis(np.concatenate([self.tags, empty], axis=1), self.slot, axis=1)
        return found

    @property
    def probability(self) -> Array:
        """[T, H, N + 1], softmax of the logits: how likely each address is when it is drawn."""
        wide = self.logits.astype(np.float64)
        odds = np.exp(wide - wide.max(axis=-1, keepdims=True))
        found: Array = odds / odds.sum(axis=-1, keepdims=True)
        return found

    def arrays(self) -> dict[str, Array]:
        """The arrays under the names that they have in a tape's file."""
        return {PREFIX + field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def from_arrays(arrays: Mapping[str, Array]) -> AddressTape:
        """What `arrays` gave."""
        return AddressTape(**{field.name: arrays[PREFIX + field.name] for field in fields(AddressTape)})
