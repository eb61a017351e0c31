"""Replays of one run, each of which leaves out the write of another step: the engine of R4.

All replays advance as one batch. Row 0 is the run itself, and row 1 + i parts from it at the i-th step: until
then it IS the run, so it costs nothing. What the rows see is the same and is encoded once.

A replay owns a whole memory and every step reads and writes all of it, so the time is that of moving memories
to and fro. They are written in place, and a batch holds no more of them than the cache does (`batch_size`).

Legend: T steps, R rows, n controller size, H heads, d key and value size, u hidden width of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memory import MNMCore, MNMState, step_in_place
from recall.scores.reapplied import memories_in_cache


def batch_size(core: MNMCore) -> int:
    """How many memories a batch holds."""
    weights = core.memory.initial_weights
    return 1024 if weights[0].is_cuda else memories_in_cache(sum(weight.nbytes for weight in weights))


def opening(core: MNMCore) -> list[Tensor]:
    """Where a run stands before its first step."""
    state = core.initial_state(1)
    return [state.h, state.c, state.value_read, *core.weights(state), state.recent]


class Branches:
    """A run that stands at `start`, and up to `count` replays that part from it.

    `start` is what `opening` or `run` gives: h, c, last value read and the three memory weights, one row each.
    """

    def __init__(self, core: MNMCore, start: Sequence[Tensor], count: int) -> None:
        self.core = core
        self.rows = 1
        self.parts = [part.new_empty(count + 1, *part.shape[1:]) for part in start]
        for buffer, part in zip(self.parts, start, strict=True):
            buffer[0] = part[0]

    def step(self, x_t: Tensor, part: bool) -> Tensor:
        """One step of all rows on the encoded observation x_t [1, X]: [h ; v], [R, n + d].

        With `part` one more row parts from the run in this step: it does not write.
        """
        if part:
            for buffer in self.parts:
                buffer[self.rows] = buffer[0]
            self.rows += 1
        core = self.core
        h, c, value_read, w1, w2, w3, recent = (buffer[: self.rows] for buffer in self.parts)
        weights = w1, w2, w3
        skip = torch.zeros(self.rows, dtype=torch.bool, device=x_t.device)
        skip[-1] = part
        state = MNMState(h, c, value_read, *weights, recent)
        return step_in_place(core, x_t.expand(self.rows, -1), state, weights, skip if part else None)

    def run(self) -> list[Tensor]:
        """Where the run stands now."""
        return [buffer[:1].clone() for buffer in self.parts]
