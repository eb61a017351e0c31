"""The neural memory as ONE autograd function per segment: the fast formulation of `memory/mnm/reference.py`.

    forward     in place, under no_grad, one live W per example; a tape of low-rank factors   (torch_backend/forward.py)
    backward    written by hand, walks the tape back, undoing the writes one by one          (torch_backend/backward.py)

`FusedMNMCore` has the parameters, the checkpoints and, up to rounding, the numbers of `MNMCore`, which stays
the oracle. What does not depend on the recurrence is outside: re-ordering the slow weights and the output
layer are ordinary autograd. Without read feedback so are the controller, one kernel call for the segment, and the
interaction layer, one product: the function is then the scan of the memory alone. There is no second derivative; use
`implementation="plain"` for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from memory.core import CoreOutput, Intervention, MemoryCore
from memory.mnm.cpp_backend.bindings import CompiledBackward, CompiledForward, ForwardWeights, kernel_for
from memory.mnm.cpp_backend.build import KernelUnavailable, find_kernel, require_kernel
from memory.mnm.cpp_backend.step import Stage, compiled_step
from memory.mnm.input_window import normalized
from memory.mnm.neural import LocalRule
from memory.mnm.reference import MNMCore, MNMState
from memory.mnm.tape import OutputGradients, SlowWeights, Spec, Tape
from memory.mnm.torch_backend.backward import BackwardPass
from memory.mnm.torch_backend.forward import ForwardPass
from memory.mnm.torch_backend.step import acting_step
from memory.options import MNMOptions
from memory.recurrent.segments import KernelWeights, gru_segment, lstm_segment

CACHE_BYTES = 12 * 2**20
"""What W and G of a batch may take together on a CPU; larger batches are split."""

Gradients = tuple[Tensor | None, ...]


def forward_pass(
    spec: Spec,
    slow: SlowWeights,
    xs: Tensor,
    offset: Tensor | None,
    start: Tensor,
    cell: Tensor,
    is_first: Tensor,
) -> ForwardPass | CompiledForward:
    """The forward of a segment, compiled where that was chosen and is possible."""
    kernel = kernel_for(xs) if spec.compiled else None
    if kernel is None:
        return ForwardPass(spec, slow, xs, offset, start, cell, is_first)
    weights = ForwardWeights.pack(kernel, slow)
    if spec.is_open:
        gates, offset = xs.new_empty(*xs.shape[:2], 0), xs
    else:
        gates = linear(xs, slow.cell_x, slow.cell_b)
    return CompiledForward(kernel, spec, weights, gates, offset, start, cell, is_first)


def backward_pass(
    spec: Spec, slow: SlowWeights, tape: Tape, xs: Tensor, is_first: Tensor, above: OutputGradients
) -> BackwardPass | CompiledBackward:
    """The walk back over the tape of `forward_pass`, of the same kind."""
    kernel = kernel_for(xs) if spec.compiled else None
    if kernel is None:
        return BackwardPass(spec, slow, tape, xs, is_first, above)
    return CompiledBackward(kernel, spec, slow, tape, xs, is_first, above)


class Segment(torch.autograd.Function):
    """T steps of controller and memory, or in an open loop of the memory alone.

    (spec, is_first, keep, xs, p or None, start, cell, D^1..D^3, slow weights) ->
    (meta loss, write error, [h ; v] of all steps, [h ; v] and c after the last, D^1..D^3 after the last)
    """

    @staticmethod
    def forward(
        ctx: Any,
        spec: Spec,
        is_first: Tensor,
        keep: bool,
        xs: Tensor,
        offset: Tensor | None,
        start: Tensor,
        cell: Tensor,
        *rest: Tensor,
    ) -> tuple[Tensor, ...]:
        delta, slow = rest[:3], SlowWeights(*rest[3:])
        segment = forward_pass(spec, slow, xs, offset, start, cell, is_first)
        meta_loss, write_error, tape = segment.run(delta, keep)
        ctx.spec, ctx.blocks = spec, len(tape.inputs)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(write_error)
        if keep:
            ctx.lease = segment.lease
            # Of the sums of an open loop the walk back only asks the shape.
            seen = xs.new_zeros(()).expand(xs.shape) if spec.is_open else xs
            ctx.save_for_backward(is_first, seen, *slow, *tape.pack())
        return meta_loss, write_error, tape.hv, tape.hv[-1].clone(), tape.cells[-1].clone(), *tape.delta

    @staticmethod
    def backward(ctx: Any, *above: Tensor | None) -> Gradients:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the fused memory has no second derivative, but its gradient was asked for with "
                'create_graph=True; build the core with CoreConfig(implementation="plain")'
            )
        is_first, xs, *rest = ctx.saved_tensors
        count = len(SlowWeights._fields)
        slow, tape = SlowWeights(*rest[:count]), Tape.unpack(rest[count:], ctx.blocks)
        meta_loss, _, hv, last, cell, *delta_above = above
        gradients = OutputGradients(meta_loss, hv, last, cell, tuple(delta_above))
        found = backward_pass(ctx.spec, slow, tape, xs, is_first, gradients).run()
        wanted = ctx.needs_input_grad[7:10]
        delta = [g.clone() if want else None for g, want in zip(found.delta, wanted, strict=True)]
        return None, None, None, found.xs, found.offset, found.start, found.cell, *delta, *found.slow


class FusedMNMCore(MNMCore):
    """MNM-g and MNM-p with the fused unroll, and an acting step that keeps nothing for a backward."""

    compiled: bool = True
    """Whether the compiled kernel is used where it can be."""
    closed: bool = False
    """Whether the controller runs in the time loop even without read feedback: the slower form, to compare with."""
    stage: Stage | None = None
    """What the compiled acting step prepared."""
    passed: tuple[int, ...] | None = None
    """Versions of the parameters at the last pass for a backward; None once a step of the optimizer was noticed."""

    def unroll(
        self, xs: Tensor, state: MNMState, is_first: Tensor, noise: Tensor | None = None
    ) -> tuple[CoreOutput, MNMState]:
        """T steps in one autograd function; equals `MNMCore.unroll` up to rounding."""
        if torch.is_grad_enabled():
            self._note_pass()
        offset, recent = None, state.recent
        if self.window is not None:
            offset, recent = self.window.segment(xs, recent, is_first, self.order)
        form = self._closed_loop if self.read_feedback or self.closed else self._open_loop
        hv, meta_loss, write_error, final = form(xs, offset, state._replace(recent=recent), is_first)
        return CoreOutput(self.output(self.seen(hv)), meta_loss, write_error), final

    def _closed_loop(
        self, xs: Tensor, offset: Tensor | None, state: MNMState, is_first: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, MNMState]:
        """[h ; v] [T, B, n + d], the losses, and the state after the last step."""
        h = state.h if self.spec.is_recurrent else xs.new_zeros(xs.shape[1], self.output_size)
        start = torch.cat([h, state.value_read], dim=-1)
        # The GRU mixes its own h into the next one, as the LSTM does with c.
        carried = state.h if self.controller == "gru" else state.c
        inputs = xs, offset, start, carried
        meta_loss, write_error, hv, last, c, d1, d2, d3 = self._segment(
            self.spec, self.slow_weights(), is_first, *inputs, state
        )
        h, value_read = last.split([self.output_size, self.memory_size], dim=-1)
        h, c = (h if self.spec.is_recurrent else state.h), (c if self.controller == "lstm" else state.c)
        return hv, meta_loss, write_error, MNMState(h, c, value_read, d1, d2, d3, state.recent)

    def _open_loop(
        self, xs: Tensor, offset: Tensor | None, state: MNMState, is_first: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, MNMState]:
        """The same without read feedback: controller and interaction layer at once, then the scan of the memory."""
        hidden, h, c = self._control_segment(xs, state, is_first)
        seen = hidden if self.window is None else normalized(hidden)
        sums = linear(seen, *self._interaction_weights())
        if offset is not None:
            sums.add_(offset)
        inputs = sums, None, state.value_read, state.c[:, :0]
        meta_loss, write_error, values, value_read, _, d1, d2, d3 = self._segment(
            self.spec.memory_alone, self.slow_weights(memory_alone=True), is_first, *inputs, state
        )
        hv = torch.cat([hidden, values], dim=-1)
        return hv, meta_loss, write_error, MNMState(h, c, value_read, d1, d2, d3, state.recent)

    def _control_segment(
        self, xs: Tensor, state: MNMState, is_first: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """h_t of all steps [T, B, n] in one call, and the controller's state after the last."""
        cell, train = self.cell, torch.is_grad_enabled()
        if isinstance(cell, nn.Linear):
            return torch.tanh(cell(xs)), state.h, state.c
        assert isinstance(cell, nn.LSTMCell | nn.GRUCell)
        weights = KernelWeights(cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
        if isinstance(cell, nn.LSTMCell):
            return lstm_segment(xs, state.h, state.c, is_first, weights, train)
        hidden = gru_segment(xs, state.h, is_first, weights, train)
        return hidden, hidden[-1], state.c

    def _segment(
        self,
        spec: Spec,
        slow: SlowWeights,
        is_first: Tensor,
        xs: Tensor,
        offset: Tensor | None,
        start: Tensor,
        cell: Tensor,
        state: MNMState,
    ) -> tuple[Tensor, ...]:
        """`Segment`, in as many pieces as the cache asks for."""
        parts, keep = self._parts(xs), torch.is_grad_enabled()
        pieces = zip(
            *(x.chunk(parts, dim=1) for x in (is_first, xs)),
            offset.chunk(parts, dim=1) if offset is not None else (None,) * parts,
            *(x.chunk(parts) for x in (start, cell, *state.delta)),
            strict=True,
        )
        results = [Segment.apply(spec, first, keep, *piece, *slow) for first, *piece in pieces]
        axes = (1, 1, 1, 0, 0, 0, 0, 0)
        return tuple(
            x[0] if parts == 1 else torch.cat(x, dim=axis)
            for x, axis in zip(zip(*results, strict=True), axes, strict=True)
        )

    def _parts(self, xs: Tensor) -> int:
        """Pieces of the batch that are walked one after the other, so that W and G stay in the cache."""
        if xs.is_cuda or (self.compiled and kernel_for(xs)):
            return 1
        live = 2 * xs.element_size() * sum(w.numel() for w in self.memory.initial_weights)
        columns = max(1, CACHE_BYTES // live)
        wanted = -(-xs.shape[1] // columns)
        return len(xs[0].chunk(wanted))

    def step(
        self,
        x_t: Tensor,
        state: MNMState,
        record: bool = False,
        noise: Tensor | None = None,
        intervention: Intervention | None = None,
    ) -> tuple[CoreOutput, MNMState]:
        """The acting step; with gradients or an intervention the plain one, for a step has no tape."""
        if torch.is_grad_enabled():
            self._note_pass()
        if torch.is_grad_enabled() or intervention is not None:
            return super().step(x_t, state, record, intervention=intervention)
        kernel = kernel_for(x_t) if self.compiled else None
        if kernel is not None:
            return compiled_step(self, kernel, x_t, state, record)
        return acting_step(self, x_t, state, record)

    def parameters_changed(self) -> None:
        """Needed after a step of a fused optimizer, which no version shows, to act at full speed again."""
        self.stage = self.passed = None

    def _note_pass(self) -> None:
        self.stage, self.passed = None, self._versions()

    def is_settled(self) -> bool:
        """Whether no step of an optimizer is to be expected that would not show."""
        if self.passed is not None and self.passed != self._versions():
            self.passed = None
        return self.passed is None

    def _versions(self) -> tuple[int, ...]:
        return tuple(x._version for x in self.own_tensors())

    @property
    def spec(self) -> Spec:
        """Sizes and choices, for the passes."""
        return Spec(
            self.heads,
            self.memory_size,
            self.memory.shapes[0][0],
            self.output_size,
            self.controller,
            isinstance(self.memory.rule, LocalRule),
            self.compiled,
            self.window is not None,
        )

    def own_tensors(self) -> tuple[Tensor, ...]:
        """What `slow_weights` is made of, found faster than by `parameters()`."""
        cell, interaction, rate, rule = self.cell, self.interaction, self.rate, self.memory.rule
        layers = (
            (interaction, rate, rule.predict_targets) if isinstance(rule, LocalRule) else (interaction, rate)
        )
        if isinstance(cell, nn.LSTMCell | nn.GRUCell):
            controller = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
        else:
            assert isinstance(cell, nn.Linear)
            controller = [cell.weight, cell.bias]
        linear_maps = [x for layer in layers for x in (layer.weight, layer.bias)]
        return (*self.memory.initial_weights, *controller, *linear_maps)

    def slow_weights(self, memory_alone: bool = False) -> SlowWeights:
        """The parameters in the order of `SlowWeights`, by operations that autograd undoes."""
        rule, nothing = self.memory.rule, self.rate.bias.new_empty(0)
        empty = nothing[:, None]
        targets = (empty, nothing)
        if isinstance(rule, LocalRule):
            targets = (rule.predict_targets.weight, rule.predict_targets.bias)
        return SlowWeights._make(
            (
                *self.memory.initial_weights,
                *((empty, empty, nothing) if memory_alone else self._controller_weights()),
                *((empty, nothing) if memory_alone else self._interaction_weights()),
                self.rate.weight,
                self.rate.bias,
                *targets,
            )
        )

    def _controller_weights(self) -> Sequence[Tensor]:
        """From the input and from [h ; v], and the bias, rows in the order of `SlowWeights`."""
        controller = self.cell
        if isinstance(controller, nn.LSTMCell):
            w_x, w_v = self._by_origin(controller.weight_ih)
            whole = (
                w_x,
                torch.cat([controller.weight_hh, w_v], dim=1),
                controller.bias_ih + controller.bias_hh,
            )
            return [torch.cat([i, f, o, g]) for i, f, g, o in (part.chunk(4) for part in whole)]
        if isinstance(controller, nn.GRUCell):
            return self._gru_rows(controller)
        assert isinstance(controller, nn.Linear)
        return [*self._by_origin(controller.weight), controller.bias]

    def _interaction_weights(self) -> tuple[Tensor, Tensor]:
        """Weights [K, n] and bias [K] of the interaction layer, rows in the order of `SlowWeights`."""
        weight, bias = self.interaction.weight, self.interaction.bias[:, None]
        return self._interaction_rows(weight), self._interaction_rows(bias).squeeze(1)

    @property
    def order(self) -> Tensor:
        """Rows of the interaction layer in the order of `SlowWeights`, [K]."""
        rows = torch.arange(self.rows, device=self.interaction.bias.device)
        return self._interaction_rows(rows[:, None]).flatten()

    def _interaction_rows(self, part: Tensor) -> Tensor:
        """Rows of the interaction layer, re-ordered to [k^r, k^w, v^w, beta']."""
        size, heads = self.memory_size, self.heads
        rate, per_head = part.split([size, 3 * heads * size])
        write_key, target_value, read_key = per_head.view(heads, 3, size, -1).unbind(1)
        return torch.cat([*(x.flatten(0, 1) for x in (read_key, write_key, target_value)), rate])

    def _gru_rows(self, cell: nn.GRUCell) -> list[Tensor]:
        """Rows [r, z, a, p]: a sees h alone, p everything but h, so that each has a block of zeros."""
        r, z, p = (self._by_origin(w) for w in cell.weight_ih.chunk(3))
        h_r, h_z, h_a = cell.weight_hh.chunk(3)
        (b_r, b_z, b_p), (c_r, c_z, b_a) = cell.bias_ih.chunk(3), cell.bias_hh.chunk(3)
        from_input = torch.cat([r[0], z[0], torch.zeros_like(p[0]), p[0]])
        from_h = torch.cat([h_r, h_z, h_a, torch.zeros_like(h_a)])
        from_value = torch.cat([r[1], z[1], torch.zeros_like(p[1]), p[1]])
        bias = torch.cat([b_r + c_r, b_z + c_z, b_a, b_p])
        return [from_input, torch.cat([from_h, from_value], dim=1), bias]

    def _by_origin(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The controller's columns from the input and from the value read; zeros without read feedback."""
        if not self.read_feedback:
            return weight, weight.new_zeros(len(weight), self.memory_size)
        from_input, from_value = weight.split([self.input_size, self.memory_size], dim=1)
        return from_input, from_value


def build_mnm(rule: Literal["gradient", "local"], input_size: int, options: MNMOptions) -> MNMCore:
    """The core of a write rule, in the implementation that the options ask for."""
    if options.implementation == "plain":
        return MNMCore(input_size, options, rule)
    if options.implementation == "compiled":
        require_kernel()
    core = FusedMNMCore(input_size, options, rule)
    core.compiled = options.implementation != "fused"
    return core


build_mnm_g, build_mnm_p = partial(build_mnm, "gradient"), partial(build_mnm, "local")


def implementation_in_use(core: MemoryCore) -> str | None:
    """compiled, fused or plain, and why nothing faster; None for a core with one implementation."""
    if not isinstance(core, MNMCore):
        return None
    if not isinstance(core, FusedMNMCore):
        return "plain, as asked for"
    if not core.compiled:
        return "fused, as asked for"
    if kernel_for(next(core.parameters())) is not None:
        return "compiled"
    found = find_kernel()
    return f"fused, because {found if isinstance(found, KernelUnavailable) else 'the kernel is for the CPU'}"
