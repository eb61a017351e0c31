"""Recording: an observer of `agents.play` that turns the steps of an episode into its `Tape`.

The recorder is passive: actions and parameters are the same with and without it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from agents.model import AgentState
from agents.play import Actor, Moment, Observer
from memory import AddressRecord, PackedRecord
from recall.record.tape import ROW_FIELDS, AddressTape, Array, MemoryTape, Tape, WriteRule

STRETCH = 256
"""Steps whose records are unpacked together."""
HALF_PRECISION = "a tape in half precision cannot rebuild the memory; record in float32"


class MemoryRecordLike(Protocol):
    """One step of a batch as `memory.MemoryRecord` gives it: torch tensors, batch first."""

    @property
    def write_inputs(self) -> Any: ...
    @property
    def write_steps(self) -> Any: ...
    @property
    def target_value(self) -> Any: ...
    @property
    def beta(self) -> Any: ...
    @property
    def read_key(self) -> Any: ...
    @property
    def read_hidden(self) -> Any: ...
    @property
    def value_read(self) -> Any: ...


def write_rule_of(core: Any) -> WriteRule | None:
    """The write rule of a memory core (`core.memory.rule`); None for a core that has none."""
    rule = getattr(getattr(core, "memory", None), "rule", None)
    if rule is None:
        return None
    feedback = getattr(rule, "predict_targets", None)
    if feedback is None:
        return WriteRule("gradient")
    weight, bias = (np.array(part.detach().cpu().numpy()) for part in (feedback.weight, feedback.bias))
    return WriteRule("local", weight, bias)


class TapeRecorder:
    """Collects the rows of one episode and builds its `Tape`. What it is fed is left as it was.

    Give `initial_weights` (as `core.weights(state)` returns them, batch first) for a core with write memory
    and leave them out for any other core. `rule` is that of `write_rule_of(core)`; without it the tape cannot
    redo a write, and everything else is the same. `addresses` says that the core reads slots by address,
    `counts` are those of the agent's `Actions`.

    It stands in the acting loop, so it keeps a record as it is: no core writes to a record that it has given
    out (tested). The numbers are copied once, when the tape is built.
    """

    def __init__(
        self,
        core: str,
        seed: int,
        initial_weights: Any = None,
        batch_row: int = 0,
        start_step: int = 0,
        rule: WriteRule | None = None,
        addresses: bool = False,
        counts: tuple[int, ...] | None = None,
    ) -> None:
        self.core, self.counts = core, counts
        self.seed = seed
        self.batch_row = batch_row
        self.start_step = start_step
        self.rule = rule
        self.addresses = addresses
        self._start = None
        if initial_weights is not None:
            self._start = tuple(_row(w, batch_row).copy() for w in initial_weights)
        self._rows: list[tuple[Any, ...]] = []
        self._observations: list[dict[str, Array]] = []
        self._records: list[tuple[MemoryRecordLike | AddressRecord, int]] = []
        self._noise: list[Array] = []

    def add(
        self,
        record: MemoryRecordLike | AddressRecord | None,
        *,
        observation: Mapping[str, Any],
        is_first: bool,
        previous_action: Any,
        previous_reward: float,
        action: Any,
        reward: float,
        logits: Any,
        value: float,
        agent_cell: tuple[int, int] | None = None,
        goal_cell: tuple[int, int] | None = None,
        row: int | None = None,
        noise: Any = None,
    ) -> None:
        """Append one row. `record`, `logits` and `noise` are batches, of which `row` is kept (None: `batch_row`);
        the rest is one row's."""
        row = self.batch_row if row is None else row
        if is_first and self._rows:
            raise ValueError("a reset closes the tape: start a new recorder for the next episode")
        if isinstance(record, AddressRecord) != self.addresses:
            raise ValueError("an address record is needed for a core that reads slots, and only for it")
        if (record is None) != (self._start is None and not self.addresses):
            raise ValueError("a memory record is needed with initial weights, and only with them")
        if record is not None:
            self._records.append((record, row))
            if len(self._records) == 1:
                self._columns()  # a record that makes no tape is refused at once
        self._observations.append({name: np.array(part) for name, part in observation.items()})
        unknown = (-1, -1)
        # In the order of ROW_FIELDS.
        self._rows.append(
            (
                is_first, self._action(previous_action), previous_reward, self._action(action), reward,
                _row(logits, row).copy(), value,
                unknown if agent_cell is None else agent_cell, unknown if goal_cell is None else goal_cell,
            )
        )  # fmt: skip
        if noise is not None and not self.addresses:
            self._noise.append(_row(noise, row).copy())

    def _action(self, action: Any) -> Any:
        return int(action) if self.counts is None else _array_of(action)

    def __len__(self) -> int:
        return len(self._rows)

    def tape(self) -> Tape:
        """The rows so far as a tape."""
        if not self._rows:
            raise ValueError("an episode without steps makes no tape")
        names = self._observations[0]
        columns = zip(*self._rows, strict=True)
        vectors = () if self.counts is None else ("previous_action", "action")
        return Tape(
            memory=None if self._start is None else self._memory_tape(self._start),
            observation={name: np.stack([row[name] for row in self._observations]) for name in names},
            **{
                name: np.array(column, np.float32 if name in vectors else dtype)
                for (name, dtype), column in zip(ROW_FIELDS.items(), columns, strict=True)
            },
            seed=self.seed,
            core=self.core,
            start_step=self.start_step,
            counts=self.counts,
            addresses=AddressTape.of_rows(*self._columns()) if self.addresses else None,
            noise=np.stack(self._noise) if self._noise else None,
        )

    def _columns(self) -> list[Array]:
        """The parts of the records, each [T, ...]."""
        packed = [(record, row) for record, row in self._records if isinstance(record, PackedRecord)]
        if len(packed) == len(self._records):
            return _unpacked(packed)
        rows = [[_row(part, row) for part in _parts_of(record)] for record, row in self._records]
        return [np.stack(column) for column in zip(*rows, strict=True)]

    def _memory_tape(self, start: tuple[Array, ...]) -> MemoryTape:
        parts = self._columns()
        return MemoryTape(
            initial_weights=start,
            write_inputs=tuple(parts[:3]),
            write_steps=tuple(parts[3:6]),
            target_value=parts[6],
            beta=parts[7],
            read_key=parts[8],
            read_hidden=tuple(parts[9:11]),
            value_read=parts[11],
            rule=self.rule,
        )


class TapeObserver(Observer):
    """Records every episode of one call of `play`, whose `record` must be `records(model)`."""

    def __init__(self, model: Actor, core: str, seeds: Sequence[int]) -> None:
        self.recorders = [recorder_for(model, core, seed) for seed in seeds]

    def after(self, moment: Moment) -> None:
        self.add(moment)

    def add(self, moment: Moment, **cells: Any) -> None:
        """The step as a row of its episode's tape."""
        self.recorders[moment.episode].add(
            moment.out.record,
            observation=moment.observation,
            is_first=moment.t == 0,
            previous_action=moment.previous_action,
            previous_reward=moment.previous_reward,
            action=moment.action,
            reward=moment.reward,
            logits=moment.out.policy.parameters,
            value=moment.out.value.tolist()[moment.row],  # many times faster than an index into the tensor
            row=moment.row,
            noise=moment.noise,
            **cells,
        )


def records(model: Actor) -> bool:
    """Whether the memory of an agent has something to say beside its features."""
    return bool(model.core.writes or model.core.addresses)


def recorder_for(model: Actor, core: str, seed: int) -> TapeRecorder:
    """A recorder of one episode of an agent; `core` is the name that goes on the tape."""
    start = model.core.weights(model.initial_state(1).core) if model.core.writes else None
    rule, addresses = write_rule_of(model.core), bool(model.core.addresses)
    return TapeRecorder(core, seed, start, rule=rule, addresses=addresses, counts=model.actions.counts)


@torch.no_grad()
def retape(model: Actor, tape: Tape) -> Tape:
    """What `model` writes and reads when it sees a recorded episode: observations and actions as recorded."""
    state = model.initial_state(1)
    recorder = recorder_for(model, tape.core, tape.seed)
    for t in range(tape.steps):
        row = recorded_row(model, tape, t, 1)
        entering = AgentState(state.core, row.action, row.reward)
        out = model.act(row.obs, row.is_first, entering, record=records(model))
        state = out.state
        recorder.add(
            out.record,
            observation={name: part[t] for name, part in tape.observation.items()},
            is_first=bool(tape.is_first[t]),
            previous_action=tape.previous_action[t],
            previous_reward=float(tape.previous_reward[t]),
            action=tape.action[t],
            reward=float(tape.reward[t]),
            logits=out.policy.parameters,
            value=float(out.value[0]),
        )
    return recorder.tape()


class Row(NamedTuple):
    """A recorded row as the agent's input, for a batch of copies."""

    obs: dict[str, Tensor]
    is_first: Tensor
    action: Tensor
    """Previous action [B, *shape]."""
    reward: Tensor
    """Previous reward [B]."""


def recorded_row(model: Actor, tape: Tape, t: int, count: int) -> Row:
    """Row t of the tape, `count` times."""
    device = model.device

    def many(array: object) -> Tensor:
        tensor = torch.as_tensor(np.asarray(array), device=device)
        return tensor.expand(count, *tensor.shape)

    return Row(
        {name: many(part[t]) for name, part in tape.observation.items()},
        many(tape.is_first[t]),
        many(tape.previous_action[t]),
        many(tape.previous_reward[t]),
    )


def _unpacked(records: list[tuple[PackedRecord, int]]) -> list[Array]:
    """The parts of packed records, each [T, ...], a stretch of steps of one batch size at a time."""
    found: list[list[Array]] = []
    for _, steps in itertools.groupby(enumerate(records), lambda n: (n[0] // STRETCH, n[1][0].layout.shapes)):
        stretch = [pair for _, pair in steps]
        whole = PackedRecord.stacked([record for record, _ in stretch])
        times, rows = np.arange(len(stretch)), np.array([row for _, row in stretch])
        found.append([_array_of(part)[times, rows] for part in _parts_of(whole)])
    return [np.concatenate(column) for column in zip(*found, strict=True)]


def _row(tensor: Any, row: int) -> Array:
    """One row of a batched torch tensor (or array), as a view where that is possible."""
    try:
        array = tensor.numpy()  # fails unless it is on the CPU, outside a graph and of a type of NumPy's
    except (AttributeError, TypeError, RuntimeError):
        array = _array_of(tensor)
    if array.itemsize < 4:
        raise ValueError(HALF_PRECISION)
    found: Array = array[row]
    return found


def _array_of(tensor: Any) -> Array:
    """A tensor of a graph or of another device, or anything else that NumPy takes, as an array."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    if tensor.dtype.itemsize < 4:
        raise ValueError(HALF_PRECISION)
    array: Array = tensor.detach().cpu().numpy()
    return array


def _parts_of(record: MemoryRecordLike | AddressRecord) -> tuple[Any, ...]:
    """The arrays of a record in one fixed order."""
    if isinstance(record, AddressRecord):
        return tuple(record)
    return (
        *record.write_inputs, *record.write_steps, record.target_value, record.beta, record.read_key,
        *record.read_hidden, record.value_read,
    )  # fmt: skip
