"""One acting step on the compiled kernel: a segment of one step, on buffers that every step uses again.

What depends on the parameters alone is prepared once and serves until a parameter changes. Most writes show in the
version of a tensor, but those of a fused optimizer do not: after a pass for a backward nothing is kept until the
versions show a step of the optimizer, or `parameters_changed` tells of one, as the learner does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from memory.core import CoreOutput, MemoryRecord
from memory.mnm.cpp_backend.bindings import CompiledForward, ForwardWeights, Kernel
from memory.mnm.reference import MNMState
from memory.mnm.tape import Layered, SlowWeights, Spec
from memory.options import Controller


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
        self._prepare_record()

    def _prepare_record(self) -> None:
        """Where a step leaves what a record holds, cut out once: making a view costs as much as a copy."""
        tape, heads = self.segment.tape, self.spec.heads
        rows = Layered(tape.inputs).layers
        left = [x[0, :, 2 * heads :] for x in rows] + [x[1, :, :heads] for x in rows] + [tape.target_value[0]]
        widths = [x.shape[-1] for x in left]
        groups = [[n for n, w in enumerate(widths) if w == width] for width in dict.fromkeys(widths)]
        self.left = [(group, [left[n] for n in group]) for group in groups]
        rates = tape.beta[0].expand(-1, 3).t()[:, :, None, None]
        layers = [block.shape[-4] for block in tape.errors]
        self.steps = [(e[0], rate) for e, rate in zip(tape.errors, rates.split(layers), strict=True)]

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
        record_of(stage, value_read) if record else None,
    )
    c = stage.leaving_cell.clone() if is_lstm else state.c
    return output, MNMState(h if recurrent else state.h, c, value_read, d1, d2, d3, recent)


def record_of(stage: Stage, value_read: Tensor) -> MemoryRecord:
    """Copies of what the step left on its tape; parts of one width are copied together."""
    found: dict[int, Tensor] = {}
    for numbers, parts in stage.left:
        found |= zip(numbers, torch.stack(parts).unbind(0), strict=True)
    u1, u2, u3 = (u for errors, rate in stage.steps for u in (errors * rate).unbind(0))
    return MemoryRecord(
        write_inputs=(found[0], found[1], found[2]),
        write_steps=(u1, u2, u3),
        target_value=found[6],
        beta=stage.segment.tape.beta[0].mean(dim=-1),
        read_key=found[3],
        read_hidden=(found[4], found[5]),
        value_read=value_read,
    )
