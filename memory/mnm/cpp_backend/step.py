"""One acting step on the compiled kernel: a segment of one step, on buffers that every step uses again.

What depends on the parameters alone is prepared once and serves until a parameter changes. Most writes show in the
version of a tensor, but those of a fused optimizer do not: after a pass for a backward nothing is kept until the
versions show a step of the optimizer, or `parameters_changed` tells of one, as the learner does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from memory.core import CoreOutput, MemoryRecord
from memory.mnm.cpp_backend.bindings import CompiledForward, ForwardWeights, Kernel, tape_addresses
from memory.mnm.reference import MNMState
from memory.mnm.tape import SlowWeights, Spec
from memory.options import Controller

ALIGNMENT = 16
"""Elements: where a part of the packed tape may begin, so that the kernel finds it aligned to its vectors."""


class SteppedCore(Protocol):
    """What an acting step needs of its core (`memory.mnm.fast.FusedMNMCore`)."""

    controller: Controller
    memory_size: int
    output: nn.Linear
    stage: Stage | None

    @property
    def spec(self) -> Spec: ...
    @property
    def order(self) -> Tensor: ...
    def is_settled(self) -> bool: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def slow_weights(self) -> SlowWeights: ...
    def from_input(self, x_t: Tensor, recent: Tensor) -> tuple[Tensor | None, Tensor]: ...
    def seen(self, hv: Tensor) -> Tensor: ...


class Stage:
    """A segment of one step for one batch size, and what tells whether its weights are still the core's."""

    def __init__(self, core: SteppedCore, kernel: Kernel, batch: int) -> None:
        self.batch, self.spec = batch, core.spec
        modules = list(core.modules())
        self.modules = [(m._modules, name, child) for m in modules for name, child in m._modules.items()]
        held = [(d, name, x) for m in modules for d in (m._parameters, m._buffers) for name, x in d.items()]
        self.tensors = [(d, name, x, x.data_ptr(), x._version) for d, name, x in held if x is not None]
        # Aliases, not copies: while they live, no other tensor can come to lie at these addresses.
        self.sources = tuple(x.detach() for _, _, x, _, _ in self.tensors)
        weights = ForwardWeights.pack(kernel, core.slow_weights())
        self.input_w, self.input_b = weights.slow.cell_x.t(), weights.slow.cell_b
        like = self.input_b
        self.gates = like.new_empty(1, batch, len(like))
        self.start = like.new_zeros(batch, self.spec.controller_size + self.spec.size)
        self.order, width = core.order, len(weights.slow.interaction_b)
        self.offset = like.new_empty(1, batch, width) if self.spec.normalizes else None
        cell = like.new_zeros(batch, self.spec.controller_size if self.spec.is_recurrent else 0)
        nobody = torch.zeros(1, batch, dtype=torch.bool)
        self.segment = CompiledForward(
            kernel, self.spec, weights, self.gates, self.offset, self.start, cell, nobody
        )
        tape = self.segment.tape
        self.gate_row, self.losses = self.gates[0], self.segment.losses[:, 0]
        self.entering_cell, self.hv, self.leaving_cell = tape.cells[0], tape.hv[0], tape.cells[1]
        self._pack()

    def _pack(self) -> None:
        """Lay what a record is made of side by side, so that one copy keeps it all."""
        segment, tape = self.segment, self.segment.tape
        parts = [*tape.inputs, *tape.errors, tape.target_value, tape.beta]
        self.layout = Layout(self.spec.heads, tuple(tuple(part.shape) for part in parts))
        self.packed = parts[0].new_zeros(self.layout.size)
        places = self.layout.cut(self.packed)
        for place, part in zip(places, parts, strict=True):
            place.copy_(part)
        blocks = len(tape.inputs)
        segment.tape = tape._replace(
            inputs=tuple(places[:blocks]),
            errors=tuple(places[blocks:-2]),
            target_value=places[-2],
            beta=places[-1],
        )
        gates = segment.gates
        segment.arguments.tape = tape_addresses(segment.tape, gates, segment.is_first, segment.slot)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """A copied or pickled core makes its own."""
        return type(None), ()

    def serves(self, batch: int) -> bool:
        """True for the same batch size and the very same tensors, if nothing was written to them."""
        return (
            batch == self.batch
            and all(d.get(name) is module for d, name, module in self.modules)
            and all(
                d.get(name) is x and x.data_ptr() == place and x._version == version
                for d, name, x, place, version in self.tensors
            )
        )


def compiled_step(
    core: SteppedCore, kernel: Kernel, x_t: Tensor, state: MNMState, record: bool
) -> tuple[CoreOutput, MNMState]:
    """Equals `MNMCore.step` up to rounding, under no_grad; a record changes nothing else."""
    stage, is_lstm = core.stage, core.controller == "lstm"
    if stage is None or not stage.serves(len(x_t)):
        stage = Stage(core, kernel, len(x_t))
        core.stage = stage if core.is_settled() else None
    size, recurrent = core.memory_size, stage.spec.is_recurrent
    torch.addmm(stage.input_b, x_t, stage.input_w, out=stage.gate_row)
    from_input, recent = core.from_input(x_t, state.recent)
    if from_input is not None and stage.offset is not None:
        stage.offset[0] = from_input[:, stage.order]
    if recurrent:
        torch.cat([state.h, state.value_read], dim=1, out=stage.start)
        stage.entering_cell.copy_(state.c if is_lstm else state.h)
    else:
        stage.start[:, -size:] = state.value_read
    d1, d2, d3 = stage.segment.step(state.delta)
    hv = stage.hv.clone()
    h, value_read = hv.split([stage.spec.controller_size, size], dim=1)
    meta_loss, write_error = stage.losses.clone().unbind()
    output = CoreOutput(
        linear(core.seen(hv), core.output.weight, core.output.bias),
        meta_loss,
        write_error,
        # Its parts are cut out when they are looked at.
        cast(MemoryRecord, PackedRecord(stage.layout, stage.packed.clone(), value_read)) if record else None,
    )
    c = stage.leaving_cell.clone() if is_lstm else state.c
    return output, MNMState(h if recurrent else state.h, c, value_read, d1, d2, d3, recent)


class Layout(NamedTuple):
    """Where the parts of a step's tape lie in one flat tensor, and how they make a record."""

    heads: int
    shapes: tuple[tuple[int, ...], ...]
    """Of the blocks of inputs, as many of errors, the target value and the rates."""

    @property
    def size(self) -> int:
        """Elements of the flat tensor."""
        return sum(map(self._room, self.shapes))

    def cut(self, packed: Tensor) -> list[Tensor]:
        """The parts of flat tensors [..., size], each [..., *shape]."""
        pieces = packed.split([self._room(shape) for shape in self.shapes], dim=-1)
        return [
            piece[..., : math.prod(shape)].unflatten(-1, shape)
            for piece, shape in zip(pieces, self.shapes, strict=True)
        ]

    def record(self, packed: Tensor, value_read: Tensor) -> MemoryRecord:
        """The record of flat tensors [..., size] and value_read [..., B, d], every part [..., B, ...]."""
        *blocks, target_value, beta = self.cut(packed)
        inputs, errors = blocks[: len(blocks) // 2], blocks[len(blocks) // 2 :]
        # [..., time, layer, B, row, width]
        rows = [layer for block in inputs for layer in block.unbind(-4)]
        written = [x.select(-4, 0)[..., 2 * self.heads :, :] for x in rows]
        read = [x.select(-4, 1)[..., : self.heads, :] for x in rows]
        rates = beta.select(-3, 0)
        layers = [layer for block in errors for layer in block.select(-5, 0).unbind(-4)]
        by_layer = rates.expand(*rates.shape[:-1], 3).unbind(-1)
        u1, u2, u3 = (e * rate[..., None, None] for e, rate in zip(layers, by_layer, strict=True))
        return MemoryRecord(
            write_inputs=(written[0], written[1], written[2]),
            write_steps=(u1, u2, u3),
            target_value=target_value.select(-4, 0),
            beta=rates.mean(dim=-1),
            read_key=read[0],
            read_hidden=(read[1], read[2]),
            value_read=value_read,
        )

    @staticmethod
    def _room(shape: Sequence[int]) -> int:
        return -(-math.prod(shape) // ALIGNMENT) * ALIGNMENT


class PackedRecord:
    """Stands for the `MemoryRecord` of a step: one copy when it is made, and cut into its parts when these are read."""

    def __init__(self, layout: Layout, packed: Tensor, value_read: Tensor) -> None:
        self.layout, self.packed, self.value_read = layout, packed, value_read
        self._record: MemoryRecord | None = None

    def unpacked(self) -> MemoryRecord:
        """The record itself."""
        if self._record is None:
            self._record = self.layout.record(self.packed, self.value_read)
        return self._record

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_record":
            raise AttributeError(name)
        return getattr(self.unpacked(), name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.unpacked())

    @staticmethod
    def stacked(records: Sequence[PackedRecord]) -> MemoryRecord:
        """The records of T steps of one batch as one, every part [T, B, ...]."""
        return records[0].layout.record(
            torch.stack([record.packed for record in records]),
            torch.stack([record.value_read for record in records]),
        )
