"""Hard memory as a core: slots written along the episode, one of them read by every head at every step.

Legend: T time, B batch, n controller size, H read heads, d key and value size, N slots, W = N + T - 1.
One time step, in this order:

    h_t, c_t = controller(x_t, (h_{t-1}, c_{t-1}))
    READ    [q_i ; a_i] = W_r h_t + b_r                                for every head i; a_i has N + 1 entries
            l_ij = s <q_i, k_j> / sqrt(d) + a_i,t-j                    for the last N writes j < t
            l_i0 = a_i0                                                for the null slot
            slot of head i = argmax_j (l_ij + g_ij);   r_i = v_j of that slot, 0 for the null slot
    WRITE   k_t = W_k h_t and v_t = W_v x_t (or W_v h_t) into the next slot; the oldest of N is forgotten
    out_t = tanh(W_o [h_t ; r_1 ; .. ; r_H] + b_o)

The read precedes the write, so a slot that is read is at least one step old. What is read goes into the output
and nowhere else: it explains this step and no other, and the controller runs over a whole segment first, all
reads of the segment following at once. The gradient of an address is the straight-through one of
`memory/hard/straight_through.py`: exact for the value of the chosen slot, that of a softmax for keys and queries.

The bank is kept in the order of age, so slot i was written N - i steps ago. In a segment all keys lie in one
row of N + T; step t sees the window of N before it, and no bank is ever copied per step (`banded`).
Source: J. C. Reinhold, "Learning to read from memory with a neural network", made recurrent here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory.core import AddressRecord, CoreOutput, MemoryCore, output_without_writes
from memory.hard.straight_through import Annealing, straight_through
from memory.options import HardOptions
from memory.recurrent.cores import GRUCore, GRUState, LSTMCore, LSTMState

BLOCK = 64
"""Rows that are read together: N + 63 keys are compared with each, of which N are its window."""


class HardState(NamedTuple):
    """The controller's state, the bank in the order of age, and the number of writes."""

    h: Tensor
    """[B, n]; width 0 with the feed-forward controller, which keeps nothing."""
    c: Tensor
    """[B, n]; width 0 with any controller but the LSTM."""
    keys: Tensor
    """[B, N, d], the newest last."""
    values: Tensor
    """[B, N, d]."""
    writes: Tensor
    """[B], writes made in this episode, kept as a float (exact below 2^24); tells which slots are filled."""

    @property
    def tags(self) -> Tensor:
        """int64 [B, N], the step of the episode in which each slot was written; -1 for an empty slot."""
        ages = slot_ages(self.keys.shape[1], self.keys.device)
        return (self.writes.long()[:, None] - ages).clamp(min=-1)


def slot_ages(slots: int, device: torch.device) -> Tensor:
    """[N] how many steps ago each slot was written: N, ..., 2, 1."""
    return torch.arange(slots, 0, -1, device=device)


def banded(x: Tensor, width: int) -> Tensor:
    """The diagonal band [.., T, N] of x [.., T, W], W = N + T - 1: row t keeps columns t .. t + N - 1.

    Rows that are one longer, read as one line, shift every row by one: a change of shape moves the band.
    """
    steps, columns = x.shape[-2:]
    line = F.pad(x.flatten(-2), (0, steps))
    return line.unflatten(-1, (steps, columns + 1))[..., :width]


def unbanded(band: Tensor) -> Tensor:
    """The inverse: x [.., T, W] with the band [.., T, N] on its diagonal and 0 elsewhere."""
    steps, width = band.shape[-2:]
    columns = width + steps - 1
    line = F.pad(band, (0, steps)).flatten(-2)
    return line[..., : steps * columns].unflatten(-1, (steps, columns))


def writes_before(is_first: Tensor, writes: Tensor) -> Tensor:
    """[T + 1, B] writes made in its episode before each row of a segment, and after the last.

    is_first bool [T, B]; writes [B], made before the segment.
    """
    steps = len(is_first)
    row = torch.arange(steps + 1, device=is_first.device)[:, None]
    opened = torch.where(is_first, row[:-1], -1).cummax(dim=0).values
    opened = torch.cat([opened, opened[-1:]])
    return torch.where(opened < 0, writes + row, (row - opened).to(writes.dtype))


class Reading(NamedTuple):
    """What T steps read; [T, B, H, ...]."""

    logits: Tensor
    """[T, B, H, N + 1], without noise; -inf for an empty slot."""
    noise: Tensor
    """[T, B, H, N + 1]."""
    choice: Tensor
    """[T, B, H, N + 1], one-hot, with the straight-through gradient."""
    read: Tensor
    """[T, B, H, d], the values of the chosen slots; 0 for the null slot."""

    def record(self, tags: Tensor) -> AddressRecord:
        """What a tape keeps of one step, cut off from the graph; `tags` [B, N] as they were before its write."""
        return AddressRecord(self.choice[0].argmax(dim=-1), tags, self.logits[0].detach(), self.noise[0])


def read_slots(logits: Tensor, noise: Tensor, temperature: float, values: Tensor) -> Reading:
    """One slot per head and step: logits and noise [T, B, H, N + 1], the null slot last; values [B, W, d].

    Row t chooses among values t .. t + N - 1. The sum over slots is exact: one weight is 1, all others 0.
    """
    choice = straight_through(logits, noise, temperature)
    weights = unbanded(choice[..., :-1].permute(1, 2, 0, 3))
    return Reading(logits, noise, choice, (weights @ values[:, None]).permute(2, 0, 1, 3))


class HardCore(MemoryCore):
    """A bank of N slots read by H hard addresses, with an LSTM, GRU or feed-forward controller."""

    addresses = True

    def __init__(self, input_size: int, options: HardOptions) -> None:
        super().__init__()
        hidden_size, memory_size, heads = options.hidden_size, options.memory_size, options.heads
        if options.slots < 1:
            raise ValueError(f"a hard memory needs at least 1 slot, got {options.slots}")
        self.input_size, self.output_size = input_size, hidden_size
        self.memory_size, self.slots, self.heads = memory_size, options.slots, heads
        self.controller, self.slot_value = options.controller, options.slot_value
        self.annealing = Annealing(options.address_temperature, options.address_temperature_final)
        self.temperature = self.annealing.start
        self.noise_shape = (heads, options.slots + 1)
        self.cell: nn.Module
        if options.controller == "feedforward":
            self.cell = nn.Linear(input_size, hidden_size)
        else:
            self.cell = {"lstm": LSTMCore, "gru": GRUCore}[options.controller](input_size, options)
        self.query = nn.Linear(hidden_size, heads * memory_size)
        self.age_logits = nn.Linear(hidden_size, heads * (options.slots + 1))
        self.key = nn.Linear(hidden_size, memory_size)
        self.value = nn.Linear(input_size if options.slot_value == "input" else hidden_size, memory_size)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.output = nn.Linear(hidden_size + heads * memory_size, hidden_size)
        # At first an address depends on the keys alone.
        nn.init.zeros_(self.age_logits.weight)
        nn.init.zeros_(self.age_logits.bias)

    def initial_state(self, batch_size: int) -> HardState:
        h = self._zeros(batch_size, 0 if self.controller == "feedforward" else self.output_size)
        c = self._zeros(batch_size, self.output_size if self.controller == "lstm" else 0)
        bank = self._zeros(batch_size, self.slots, self.memory_size)
        return HardState(h, c, bank, bank, self._zeros(batch_size))

    def set_progress(self, progress: float) -> None:
        """Set the temperature of the gradients to come; what is chosen does not depend on it."""
        self.temperature = self.annealing.at(progress)

    def step(
        self, x_t: Tensor, state: HardState, record: bool = False, noise: Tensor | None = None
    ) -> tuple[CoreOutput, HardState]:
        nobody = torch.zeros(1, len(x_t), dtype=torch.bool, device=x_t.device)
        features, new, (reading,) = self._segment(
            x_t[None], state, nobody, None if noise is None else noise[None]
        )
        output = output_without_writes(features[0])
        return output._replace(record=reading.record(state.tags) if record else None), new

    def unroll(
        self, xs: Tensor, state: HardState, is_first: Tensor, noise: Tensor | None = None
    ) -> tuple[CoreOutput, HardState]:
        """The controller over the whole segment, then all its reads at once."""
        features, new, _ = self._segment(xs, state, is_first, noise)
        return output_without_writes(features), new

    def _segment(
        self, xs: Tensor, state: HardState, is_first: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, HardState, list[Reading]]:
        """Features [T, B, n], the state after the segment, and its reads in blocks of rows."""
        hidden, h, c = self._control(xs, state, is_first)
        stored = self.value(xs if self.slot_value == "input" else hidden)
        keys = torch.cat([state.keys, self.key(hidden).transpose(0, 1)], dim=1)
        values = torch.cat([state.values, stored.transpose(0, 1)], dim=1)
        writes = writes_before(is_first, state.writes)
        filled = writes[..., None] >= slot_ages(self.slots, xs.device)
        readings = []
        for start in range(0, len(xs), BLOCK):
            stop = min(start + BLOCK, len(xs))
            here, window = slice(start, stop), slice(start, stop - 1 + self.slots)
            logits = self._logits(hidden[here], keys[:, window], filled[here])
            given = torch.zeros_like(logits) if noise is None else noise[here]
            readings.append(read_slots(logits, given, self.temperature, values[:, window]))
        read = torch.cat([reading.read for reading in readings])
        features = torch.tanh(self.output(torch.cat([hidden, read.flatten(2)], dim=-1)))
        bank = keys[:, -self.slots :], values[:, -self.slots :]
        if is_first.any():
            # A reset empties the bank: what was written before it is gone.
            gone = is_first.any(dim=0)[:, None] & ~filled[-1]
            bank = bank[0].masked_fill(gone[..., None], 0.0), bank[1].masked_fill(gone[..., None], 0.0)
        return features, HardState(h, c, *bank, writes[-1]), readings

    def _control(self, xs: Tensor, state: HardState, is_first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden vectors [T, B, n] and the controller's last state."""
        if isinstance(self.cell, LSTMCore):
            output, (h, c) = self.cell.unroll(xs, LSTMState(state.h, state.c), is_first)
            return output.features, h, c
        if isinstance(self.cell, GRUCore):
            output, (h,) = self.cell.unroll(xs, GRUState(state.h), is_first)
            return output.features, h, state.c
        return torch.tanh(self.cell(xs)), state.h, state.c

    def _logits(self, hidden: Tensor, keys: Tensor, filled: Tensor) -> Tensor:
        """[T, B, H, N + 1], the null slot last; hidden [T, B, n], keys [B, W, d], filled bool [T, B, N]."""
        query = self.query(hidden).unflatten(-1, (self.heads, self.memory_size)).permute(1, 2, 0, 3)
        scale = self.log_scale.exp() / math.sqrt(self.memory_size)
        by_key = banded((scale * query) @ keys[:, None].mT, self.slots).permute(2, 0, 1, 3)
        by_age = self.age_logits(hidden).unflatten(-1, (self.heads, self.slots + 1))
        slots = (by_key + by_age[..., :-1]).masked_fill(~filled[:, :, None], -torch.inf)
        return torch.cat([slots, by_age[..., -1:]], dim=-1)
