"""The fused memory on its compiled kernel: the same tape, but one call walks all steps (kernel/).

Legend: as in tape.py. `CompiledForward` and `CompiledBackward` stand for `ForwardPass` and
`BackwardPass`; what they share, the tape and the weight gradients, is the very same code. The structures below
mirror those of kernel/segment.h, forward.h and backward.h field by field; addresses are passed as integers.

Memory weights and D lie transposed here, [in, out], because the forward multiplies by W^T: a state that comes
out of the kernel has D as a transposed view, and goes back in without a copy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from memory.mnm.cpp_backend.build import KernelUnavailable, find_kernel
from memory.mnm.tape import (
    STRETCH,
    InputGradients,
    Lease,
    OutputGradients,
    SlowWeights,
    Spec,
    Tape,
    WeightGradients,
    empty_tape,
)

TYPES = {torch.float32: "float", torch.float64: "double"}
CONTROLLERS = ("feedforward", "lstm", "gru", "outside")
"""Numbered as in kernel/segment.h."""
BLOCK_BYTES = 2**19
"""What W and G of the examples that a thread walks together may take of its cache."""
SMALLEST_BLOCK = 4
"""Fewer examples would spend more on fetching the weights that they share than a full cache costs them."""


class Sizes(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *("steps", "batch", "heads", "size", "hidden", "controller", "gates", "rates"),
            *("kind", "is_local", "normalizes", "threads", "block"),
        )
    ]


ADDRESS, ADDRESSES = ctypes.c_void_p, ctypes.c_void_p * 3


class TapeAddresses(ctypes.Structure):
    _fields_ = [
        *((name, ADDRESS) for name in ("start", "hv", "gates", "cells", "tanh_c", "target_value")),
        *((name, ADDRESS) for name in ("rate_in", "beta", "miss")),
        ("inputs", ADDRESSES),
        ("errors", ADDRESSES),
        ("inputs_t", ctypes.c_int64 * 3),
        ("errors_t", ctypes.c_int64 * 3),
        ("delta", ADDRESSES),
        *((name, ADDRESS) for name in ("overwritten", "is_first", "slot")),
    ]


class ForwardArgs(ctypes.Structure):
    _fields_ = [
        ("sizes", Sizes),
        ("tape", TapeAddresses),
        *((name, ADDRESS) for name in ("cell_r", "interaction_w", "target_w", "interaction_b")),
        *((name, ADDRESS) for name in ("rate_w", "rate_b", "target_b", "offset")),
        ("phi0", ADDRESSES),
        ("delta", ADDRESSES),
        ("meta_loss", ADDRESS),
        ("write_error", ADDRESS),
    ]


class BackwardArgs(ctypes.Structure):
    _fields_ = [
        ("sizes", Sizes),
        ("tape", TapeAddresses),
        ("t0", ctypes.c_int64),
        ("t1", ctypes.c_int64),
        *((name, ADDRESS) for name in ("cell_r", "interaction_w", "target_w", "rate_w")),
        ("phi0", ADDRESSES),
        ("meta_above", ADDRESS),
        ("hv_above", ADDRESS),
        ("delta_above", ADDRESSES),
        *((name, ADDRESS) for name in ("weights", "gradient", "da_write", "dhv", "dc")),
        *((name, ADDRESS) for name in ("dgates", "dinteraction", "drate", "dtargets")),
        ("dphi0", ADDRESSES),
        ("ddelta", ADDRESSES),
    ]


class Kernel(NamedTuple):
    """The library, for one precision."""

    library: ctypes.CDLL
    type_name: str
    lanes: int
    """Elements of a vector."""

    def call(self, name: str, arguments: ctypes.Structure) -> None:
        getattr(self.library, f"mnm_{name}_{self.type_name}")(ctypes.byref(arguments))

    def padded(self, n: int) -> int:
        """Columns with their padding."""
        return -(-n // self.lanes) * self.lanes

    def panels(self, matrix: Tensor) -> Tensor:
        """[K, N] in the layout of kernel/matrix.h: panels of four vectors of columns, zeros at the end."""
        columns = matrix.shape[1]
        width = self.padded(columns)
        if width > columns:
            matrix = pad(matrix, (0, width - columns))
        panel = 4 * self.lanes
        whole = width // panel * panel
        if width <= panel:
            return matrix.contiguous()
        parts = [matrix[:, :whole].unflatten(1, (-1, panel)).transpose(0, 1).flatten()]
        if width > whole:
            parts.append(matrix[:, whole:].flatten())
        return torch.cat(parts)


def kernel_for(like: Tensor) -> Kernel | None:
    """The kernel for tensors like this one, or None: no compiler, not on the CPU, half precision."""
    if like.is_cuda or like.device.type != "cpu" or like.dtype not in TYPES:
        return None
    library = find_kernel()
    if isinstance(library, KernelUnavailable):
        return None
    return Kernel(library, TYPES[like.dtype], library.mnm_vector_bytes() // like.element_size())


class ForwardWeights(NamedTuple):
    """Slow weights as the forward wants them, for as long as the parameters do not change."""

    slow: SlowWeights
    panels: tuple[Tensor, ...]
    """Of cell_r, interaction_w, target_w and phi_0, all transposed."""

    @staticmethod
    def pack(kernel: Kernel, slow: SlowWeights) -> ForwardWeights:
        matrices = (slow.cell_r, slow.interaction_w, slow.target_w, *slow.phi0)
        plain = SlowWeights(*(w.detach().contiguous() for w in slow))
        return ForwardWeights(plain, tuple(kernel.panels(w.detach().t()) for w in matrices))


def address(tensor: Tensor | None) -> int:
    """Of a contiguous tensor; the caller keeps it alive."""
    if tensor is None:
        return 0
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """Of one tensor per layer; none at all where they are set later."""
    return ADDRESSES(*map(address, tensors))


def sizes_of(spec: Spec, batch: int, steps: int, gates: int, rates: int, element: int) -> Sizes:
    """`block`: the examples whose W and G stay in the cache, fewer if threads would be left without work.

    In a single step only one W is there at a time, and products that the examples share run over all of them.
    """
    threads = torch.get_num_threads()
    live = 2 * element * sum(o * i for o, i in zip(spec.widths_out, spec.widths_in, strict=True))
    share = -(-batch // threads)
    block = share if steps == 1 else min(max(BLOCK_BYTES // live, SMALLEST_BLOCK), share, 12)
    flags = CONTROLLERS.index(spec.controller), int(spec.is_local), int(spec.normalizes)
    return Sizes(
        steps,
        batch,
        spec.heads,
        spec.size,
        spec.hidden,
        spec.controller_size,
        gates,
        rates,
        *flags,
        threads,
        block,
    )


def layers_of(blocks: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """Addresses of the three layers of a layered tensor [T, L, B, ..], and their strides of time."""
    found = [(layer, block.stride(0)) for block in blocks for layer in block.unbind(1)]
    return [layer.data_ptr() for layer, _ in found], [stride for _, stride in found]


def tape_addresses(tape: Tape, gates: Tensor | None, is_first: Tensor, slot: Tensor) -> TapeAddresses:
    (inputs, inputs_t), (errors, errors_t) = layers_of(tape.inputs), layers_of(tape.errors)
    overwritten = tape.overwritten[0] if tape.overwritten else None
    small = (tape.cells, tape.tanh_c, tape.target_value, tape.rate_in, tape.beta, tape.miss)
    return TapeAddresses(
        *map(address, (tape.start, tape.hv, gates, *small)),
        ADDRESSES(*inputs),
        ADDRESSES(*errors),
        (ctypes.c_int64 * 3)(*inputs_t),
        (ctypes.c_int64 * 3)(*errors_t),
        addresses([d.mT for d in tape.delta]),
        *map(address, (overwritten, is_first, slot)),
    )


def slots(is_first: Tensor) -> Tensor:
    """Row of the kept weights for every reset that has a step before it, [T, B]; elsewhere meaningless."""
    counted = is_first.clone()
    counted[0] = False
    return counted.flatten().cumsum(0).sub_(1).view(is_first.shape)


class CompiledForward:
    """Stands for `ForwardPass`; takes the input's part of the gates, [T, B, G], where that takes the input.

    `gates` and `offset` are read when it runs. In an open loop `offset` holds the sums of the interaction layer.
    """

    def __init__(
        self,
        kernel: Kernel,
        spec: Spec,
        weights: ForwardWeights,
        gates: Tensor,
        offset: Tensor | None,
        start: Tensor,
        cell: Tensor,
        is_first: Tensor,
    ) -> None:
        self.kernel, self.spec, self.weights, self.gates = kernel, spec, weights, gates
        self.is_first = is_first.contiguous()
        self.offset = None if offset is None else offset.contiguous()
        self.slot = slots(self.is_first)
        self.lease = Lease(gates)
        (steps, batch, width), slow = gates.shape, weights.slow
        self.tape = empty_tape(spec, self.lease, start.contiguous(), cell, gates, len(slow.rate_w))
        self.losses = gates.new_empty(2, steps, batch)
        cell_r, interaction, target, *phi0 = weights.panels
        self.arguments = ForwardArgs(
            sizes_of(spec, batch, steps, width, len(slow.rate_w), gates.element_size()),
            tape_addresses(self.tape, gates, self.is_first, self.slot),
            *map(address, (cell_r, interaction, target, slow.interaction_b)),
            *map(address, (slow.rate_w, slow.rate_b, slow.target_b, self.offset)),
            addresses(phi0),
            ADDRESSES(),
            *map(address, self.losses),
        )

    def run(self, delta: tuple[Tensor, ...], keep: bool) -> tuple[Tensor, Tensor, Tape]:
        """Meta loss and write error [T, B], and the tape; `keep` what a reset overwrites for a backward."""
        overwritten: tuple[Tensor, ...] = ()
        if keep:
            widths = zip(self.spec.widths_in, self.spec.widths_out, strict=True)
            size = sum(i * self.kernel.padded(o) for i, o in widths)
            overwritten = (self.gates.new_empty(int(self.is_first[1:].sum()), size),)
            self.arguments.tape.overwritten = address(overwritten[0])
        tape = self.tape._replace(delta=self.step(delta), overwritten=overwritten)
        return self.losses[0], self.losses[1], tape

    def step(self, delta: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """All steps of the segment; D after the last."""
        before = [d.mT.contiguous() for d in delta]
        after = [torch.empty_like(d) for d in before]
        self.arguments.delta, self.arguments.tape.delta = addresses(before), addresses(after)
        self.kernel.call("forward", self.arguments)
        return tuple(d.mT for d in after)


class CompiledBackward:
    """Stands for `BackwardPass`."""

    def __init__(
        self,
        kernel: Kernel,
        spec: Spec,
        slow: SlowWeights,
        tape: Tape,
        xs: Tensor,
        is_first: Tensor,
        above: OutputGradients,
    ) -> None:
        self.kernel, self.spec, self.tape, self.above = kernel, spec, tape, above
        self.slow = SlowWeights(*(w.contiguous() for w in slow))
        self.is_first, self.slot = is_first.contiguous(), slots(is_first)
        self.steps, self.batch = xs.shape[:2]
        self.lease = Lease(xs)
        self.weight_gradients = WeightGradients(spec, self.slow, tape, xs, is_first, self.lease)
        self.sizes = sizes_of(
            spec, self.batch, self.steps, len(slow.cell_b), len(slow.rate_w), xs.element_size()
        )
        self._prepare()

    def _prepare(self) -> None:
        """What lives between the calls, and the gradients that enter it from above."""
        spec, above, empty = self.spec, self.above, self.lease.empty
        shapes = list(zip(spec.widths_out, spec.widths_in, strict=True))
        live = self.batch, sum(o * self.kernel.padded(i) for o, i in shapes)
        self.weights, self.gradient = empty(*live), empty(*live)
        widest = self.kernel.padded(max(spec.size, spec.hidden))
        self.da_write = empty(self.batch, 3 * spec.heads * widest)
        width = spec.controller_size + spec.size
        zeros = self.slow.cell_b.new_zeros(self.batch, width)
        self.hv_above = None if above.hv is None else above.hv.contiguous()
        self.dhv = zeros if self.hv_above is None else self.hv_above[-1].clone()
        if above.last is not None:
            self.dhv.add_(above.last)
        self.dc = (
            torch.zeros_like(self.tape.cells[0]) if above.cell is None else above.cell.clone().contiguous()
        )
        self.meta_above = None if above.meta_loss is None else above.meta_loss.contiguous()
        self.delta_above = [None if d is None else d.contiguous() for d in above.delta]
        blocks = -(-self.batch // self.sizes.block)
        self.dphi0 = [zeros.new_zeros(blocks, *shape) for shape in shapes]
        self.ddelta = [empty(self.batch, *shape) for shape in shapes]

    def run(self) -> InputGradients:
        deltas = self.weight_gradients
        panels = [
            self.kernel.panels(w) for w in (self.slow.cell_r, self.slow.interaction_w, self.slow.target_w)
        ]
        gates = self.tape.gates if self.spec.is_recurrent else None
        arguments = BackwardArgs(
            self.sizes,
            tape_addresses(self.tape, gates, self.is_first, self.slot),
            0,
            self.steps,
            *map(address, (*panels, self.slow.rate_w)),
            addresses(self.slow.phi0),
            address(self.meta_above),
            address(self.hv_above),
            addresses(self.delta_above),
            *map(address, (self.weights, self.gradient, self.da_write, self.dhv, self.dc)),
            *map(address, (deltas.dgates, None, deltas.drate, deltas.dtargets)),
            addresses(self.dphi0),
            addresses(self.ddelta),
        )
        for start in range((self.steps - 1) // STRETCH * STRETCH, -1, -STRETCH):
            arguments.t0, arguments.t1 = start, min(start + STRETCH, self.steps)
            arguments.dinteraction = address(deltas.interaction_from(start))
            self.kernel.call("backward", arguments)
            deltas.add_stretch(arguments.t0, arguments.t1)
        for total, kept, left, above in zip(
            deltas.sums.phi0, self.dphi0, self.ddelta, self.delta_above, strict=True
        ):
            total.add_(left.sum(0)).add_(kept.sum(0))
            if above is not None:  # D = W - phi_0
                total.sub_(above.sum(0))
        inputs = deltas.xs_gradient, deltas.offset_gradient
        return InputGradients(*inputs, self.dhv, self.dc, tuple(self.ddelta), deltas.sums)

    def recovered_weights(self) -> list[Tensor]:
        """W before the segment [B, out, in] as the walk found it, for the test of its drift."""
        shapes = list(zip(self.spec.widths_out, self.spec.widths_in, strict=True))
        flat = self.weights.split([o * self.kernel.padded(i) for o, i in shapes], dim=1)
        found = []
        for matrices, (o, i) in zip(flat, shapes, strict=True):
            places = self.kernel.panels(torch.arange(o * i).view(o, i) + 1).flatten()  # 0 is padding
            found.append(matrices[:, places > 0].new_empty(self.batch, o * i))
            found[-1][:, places[places > 0] - 1] = matrices[:, places > 0]
            found[-1] = found[-1].view(self.batch, o, i)
        return found
