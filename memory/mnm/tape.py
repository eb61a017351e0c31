"""What the fused memory keeps in which order: slow weights, layered buffers, the tape, gradients of slow weights.

Legend: T time, B batch, X input size, n controller size, H heads, d key and value size, u hidden width of
the memory, G rows of the controller's gates (4n for LSTM and GRU, n for the feed-forward controller).

The order of rows is chosen so that no step of the recurrence has to copy: the LSTM's gates as [i, f, o, g] (three
sigmoids in one stretch) and the interaction vector as [k^r, k^w, v^w, beta'] (read keys and write keys adjoin,
because the read and the meta loss pass through the memory together). The GRU's candidate tanh(p + r a) has two
rows, a from h alone and p from all else: its gates are [r, z, a, p].

In an open loop the controller does not see what is read. It and the interaction layer then run before the time loop,
and what comes in, as xs, is the sum of the interaction layer before its tanh, [T, B, K]: n = 0, [h ; v] is v, and the
loop is the memory's alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from memory.options import Controller


class Spec(NamedTuple):
    """The sizes and choices of a core that no tensor shape tells."""

    heads: int
    size: int
    hidden: int
    controller_size: int
    controller: Controller | Literal["outside"]
    """`outside` in an open loop, where it has run before."""
    is_local: bool
    """The write rule: local (MNM-p) or gradient (MNM-g)."""
    compiled: bool = False
    """Whether the compiled kernel is used where it can be."""
    normalizes: bool = False
    """Whether the interaction layer sees LN(h_t) and an offset from the input, in place of h_t alone."""

    @property
    def kept(self) -> int:
        """First column of [h ; v] that the controller sees again: the feed-forward one only sees v."""
        return 0 if self.is_recurrent else self.controller_size

    @property
    def is_open(self) -> bool:
        """Whether xs are the sums of the interaction layer, and the loop is the memory's alone."""
        return self.controller == "outside"

    @property
    def is_recurrent(self) -> bool:
        """Whether the controller has a state: the LSTM's h and c, the GRU's h, which takes the place of c."""
        return self.controller in ("lstm", "gru")

    @property
    def memory_alone(self) -> Spec:
        """The same memory in an open loop."""
        return self._replace(controller="outside", controller_size=0, normalizes=False)

    @property
    def sigmoids(self) -> int:
        """How many of a recurrent controller's gates are sigmoids; they come first."""
        return 3 if self.controller == "lstm" else 2

    @property
    def scale(self) -> float:
        """2 / (H d): of a squared error averaged over the heads and units of one example."""
        return 2.0 / (self.heads * self.size)

    @property
    def widths_in(self) -> tuple[int, int, int]:
        """Width of what enters the layers of the memory."""
        return self.size, self.hidden, self.hidden

    @property
    def widths_out(self) -> tuple[int, int, int]:
        """Width of what leaves them."""
        return self.hidden, self.hidden, self.size


class SlowWeights(NamedTuple):
    """All that the outer loop trains, the output layer aside, in the order of the module's docstring.

    In an open loop the controller's and the interaction layer's are empty.
    """

    phi0_1: Tensor
    phi0_2: Tensor
    phi0_3: Tensor
    cell_x: Tensor
    """[G, X], from the input."""
    cell_r: Tensor
    """[G, n + d] from [h ; v], or [G, d] from v alone."""
    cell_b: Tensor
    interaction_w: Tensor
    """[(3H + 1) d, n]."""
    interaction_b: Tensor
    rate_w: Tensor
    """[1 or 3, d]."""
    rate_b: Tensor
    target_w: Tensor
    """The BFPF of MNM-p, [3 d, d]; empty for MNM-g."""
    target_b: Tensor
    """[3 d]."""

    @property
    def phi0(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.phi0_1, self.phi0_2, self.phi0_3


class Tape(NamedTuple):
    """What the backward walk needs: low-rank factors of every write and small activations, never weights.

    With Z_l(t) the inputs of layer l for the write keys and Q_l(t) those for [read keys ; write keys] after
    the write, `inputs` holds at index t the rows [Q(t - 1) ; Z(t)]: both enter dL/dW_{t-1} in ONE product.
    """

    start: Tensor
    """[h ; v] before the first step, [B, n + d]."""
    hv: Tensor
    """[h ; v] of every step, [T, B, n + d]."""
    gates: Tensor
    """[T, B, 4n]: the LSTM's i, f, o, g after their activations, or the GRU's r, z, a and candidate; empty for
    the feed-forward controller."""
    cells: Tensor
    """c, or h of the GRU, the initial one first, [T + 1, B, n]."""
    tanh_c: Tensor
    """[T, B, n], for the LSTM alone."""
    target_value: Tensor
    """v^w [T, B, H, d]."""
    rate_in: Tensor
    """beta' [T, B, d]."""
    beta: Tensor
    """[T, B, 1 or 3]."""
    miss: Tensor
    """f(k^w; phi_t) - v^w, [T, B, H, d]."""
    inputs: tuple[Tensor, ...]
    """Blocks [T + 1, L, B, 3H, width]."""
    errors: tuple[Tensor, ...]
    """E_l with U_l = beta_l E_l, blocks [T, L, B, H, width]."""
    delta: tuple[Tensor, ...]
    """D after the last step, from which the walk starts."""
    overwritten: tuple[Tensor, ...]
    """Weights that resets replaced, as `memory.mnm.torch_backend.forward.Resets` keeps them.

    The compiled kernel keeps one tensor instead, a row per reset in its own layout.
    """

    def pack(self) -> list[Tensor]:
        """All tensors in a row, as autograd stores them."""
        return [*self[:9], *self.inputs, *self.errors, *self.delta, *self.overwritten]

    @staticmethod
    def unpack(tensors: Sequence[Tensor], blocks: int) -> Tape:
        """Inverse of `pack`; `blocks` is 1 if all layers are of one size, else 3."""
        small, rest = tuple(tensors[:9]), tuple(tensors[9:])
        ends = (blocks, 2 * blocks, 2 * blocks + 3)
        inputs, errors, delta, overwritten = (
            rest[start:stop] for start, stop in itertools.pairwise((0, *ends, len(rest)))
        )
        return Tape._make((*small, inputs, errors, delta, overwritten))


class OutputGradients(NamedTuple):
    """What comes from above; None where nothing does."""

    meta_loss: Tensor | None
    """[T, B]."""
    hv: Tensor | None
    """[T, B, n + d]."""
    last: Tensor | None
    """[B, n + d], of [h ; v] after the last step."""
    cell: Tensor | None
    """[B, n]."""
    delta: tuple[Tensor | None, ...]


class InputGradients(NamedTuple):
    """What goes below."""

    xs: Tensor
    offset: Tensor | None
    start: Tensor
    cell: Tensor
    delta: tuple[Tensor, ...]
    """In the walk's own buffers: copy what is to last."""
    slow: SlowWeights


class Lease:
    """The large buffers of one segment, taken from a shelf and put back when the segment is forgotten.

    A fresh page costs the system more than the arithmetic that fills it, and a tape is hundreds of pages per step.
    The autograd node owns the lease, so buffers return only when nothing can walk the tape any more; what a segment
    returns to its caller is never leased. The shelf is one per process, holds LIMIT bytes at most and may be cleared
    at any time. CUDA has torch's own caching allocator.
    """

    shelf: ClassVar[dict[tuple[torch.dtype, int], list[Tensor]]] = {}
    shelf_bytes: ClassVar[int] = 0
    LIMIT: ClassVar[int] = 2**29

    def __init__(self, like: Tensor) -> None:
        self.like = like.new_empty(0)
        self.held: list[Tensor] = []

    @staticmethod
    def clear() -> None:
        """Give what lies unused back to the system."""
        Lease.shelf.clear()
        Lease.shelf_bytes = 0

    def empty(self, *shape: int) -> Tensor:
        """An uninitialised buffer."""
        if self.like.is_cuda:
            return self.like.new_empty(shape)
        key = (self.like.dtype, math.prod(shape))
        if Lease.shelf.get(key):
            flat = Lease.shelf[key].pop()
            Lease.shelf_bytes -= flat.nbytes
        else:
            flat = self.like.new_empty(key[1])
        self.held.append(flat)
        return flat.view(shape)

    def __del__(self) -> None:
        for flat in self.held:
            if Lease.shelf_bytes + flat.nbytes > Lease.LIMIT:
                Lease.clear()
            if flat.nbytes <= Lease.LIMIT:
                Lease.shelf.setdefault((flat.dtype, flat.numel()), []).append(flat)
                Lease.shelf_bytes += flat.nbytes


class Layered:
    """One tensor per layer of the memory; layers of one size share a block, so that one call serves all.

    `blocks` [.., L, B, rows, cols], `flat` [.., L * B, rows, cols], `layers` [.., B, rows, cols].
    """

    def __init__(self, blocks: Sequence[Tensor]) -> None:
        self.blocks = list(blocks)
        self.flat = [block.flatten(-4, -3) for block in blocks]
        self.layers = [layer for block in blocks for layer in block.unbind(-4)]

    @staticmethod
    def empty(lease: Lease, lead: Sequence[int], shapes: Sequence[tuple[int, int, int]]) -> Layered:
        """Uninitialised; `shapes` are the three [B, rows, cols]."""
        if len(set(shapes)) == 1:
            return Layered([lease.empty(*lead, 3, *shapes[0])])
        return Layered([lease.empty(*lead, 1, *shape) for shape in shapes])

    def rows(self, start: int, stop: int) -> Layered:
        """A stretch of rows of every layer, without copying."""
        return Layered([block[..., start:stop, :] for block in self.blocks])


def empty_tape(spec: Spec, lease: Lease, start: Tensor, cell: Tensor, gates: Tensor, rates: int) -> Tape:
    """A tape for the gates [T, B, G] to come; nothing is written yet but where it starts and ends."""
    steps, batch = gates.shape[:2]
    heads, size, empty = spec.heads, spec.size, lease.empty
    inputs = Layered.empty(lease, (steps + 1,), [(batch, 3 * heads, w) for w in spec.widths_in])
    errors = Layered.empty(lease, (steps,), [(batch, heads, w) for w in spec.widths_out])
    for block in inputs.blocks:  # Nothing is written after the last step.
        block[steps, ..., 2 * heads :, :] = 0.0
    cells = empty(steps + 1, *cell.shape)
    cells[0] = cell
    return Tape(
        start=start,
        hv=gates.new_empty(steps, batch, spec.controller_size + size),
        gates=gates if spec.is_recurrent else gates.new_empty(0),
        cells=cells,
        tanh_c=empty(steps, batch, cell.shape[1] if spec.controller == "lstm" else 0),
        target_value=empty(steps, batch, heads, size),
        rate_in=empty(steps, batch, size),
        beta=empty(steps, batch, rates),
        miss=empty(steps, batch, heads, size),
        inputs=tuple(inputs.blocks),
        errors=tuple(errors.blocks),
        delta=(),
        overwritten=(),
    )


MINUS_ONE = torch.tensor(-1.0)


def add_weight_gradient(total: Tensor, delta: Tensor, x: Tensor) -> None:
    """total [out, in] += delta^T x for rows delta [.., out], x [.., in] of a linear map."""
    total.addmm_(delta.t(), x)


def tanh_of_half(doubled: Tensor, out: Tensor) -> None:
    """out = tanh(doubled / 2) = 2 sigmoid(doubled) - 1; destroys `doubled`.

    On a CPU torch's tanh costs about ten times its sigmoid, and the factor 2 is free in the product before.
    The absolute error is that of a rounding at 1.
    """
    torch.add(MINUS_ONE, doubled.sigmoid_(), alpha=2.0, out=out)


def add_outer(weights: Tensor, rows_out: Tensor, rows_in: Tensor, alpha: float = 1.0) -> None:
    """weights [.., p, q] += alpha * sum over rows of rows_out [.., H, p] (outer) rows_in [.., H, q]."""
    if rows_out.shape[-2] == 1:  # The general product is slow for a single row.
        weights.addcmul_(rows_out.mT, rows_in, value=alpha)
    else:
        weights.baddbmm_(rows_out.mT, rows_in, alpha=alpha)


STRETCH = 16
"""Steps whose deltas the backward walk leaves before one product per linear map adds them to the sums, so that this
memory does not grow with T."""


class WeightGradients:
    """Deltas of one stretch and what was added up so far; step t writes to row t % STRETCH."""

    def __init__(
        self, spec: Spec, slow: SlowWeights, tape: Tape, xs: Tensor, is_first: Tensor, lease: Lease
    ) -> None:
        self.spec, self.slow, self.tape, self.xs, self.is_first = spec, slow, tape, xs, is_first
        steps, self.batch = xs.shape[:2]
        length = min(STRETCH, steps)
        self.sums = SlowWeights(*(torch.zeros_like(w) for w in slow))
        self.xs_gradient = torch.empty_like(xs, memory_format=torch.contiguous_format)
        self.dgates = lease.empty(length, self.batch, len(slow.cell_b))
        self.offset_gradient: Tensor | None = None
        if spec.normalizes:
            self.offset_gradient = xs.new_empty(steps, self.batch, len(slow.interaction_b))
        if not spec.is_open:
            self.dinteraction = lease.empty(length, self.batch, len(slow.interaction_b))
        self.drate = lease.empty(length, self.batch, len(slow.rate_b))
        # Like the BFPF's output: the three layers side by side.
        self.dtargets = lease.empty(length, self.batch, spec.heads, 3 if spec.is_local else 0, spec.size)

    def interaction_from(self, start: int) -> Tensor:
        """Rows [.., B, K] for what steps start, start + 1, .. of a stretch leave at the interaction layer."""
        return self.xs_gradient[start:] if self.spec.is_open else self.dinteraction

    def add_stretch(self, start: int, stop: int) -> None:
        """Weight and input gradients of steps start..stop-1."""
        if not self.spec.is_open:
            self._add_controller(start, stop)
        tape, sums, length = self.tape, self.sums, stop - start
        drate = self.drate[:length].flatten(0, 1)
        sums.rate_w.addmm_(drate.t(), tape.rate_in[start:stop].flatten(0, 1))
        sums.rate_b.add_(drate.sum(0))
        if self.spec.is_local:
            dtargets = self.dtargets[:length].flatten(0, 2).flatten(1, 2)
            add_weight_gradient(sums.target_w, dtargets, tape.target_value[start:stop].flatten(0, 2))
            sums.target_b.add_(dtargets.sum(0))

    def _add_controller(self, start: int, stop: int) -> None:
        """Those of the controller and of the interaction layer."""
        n, tape, sums, length = self.spec.controller_size, self.tape, self.sums, stop - start
        dgates = self.dgates[:length].flatten(0, 1)
        previous = tape.hv[start - 1 : stop - 1]
        if start == 0:
            previous = torch.cat([tape.start[None], tape.hv[: stop - 1]])
        previous = previous.masked_fill(self.is_first[start:stop, :, None], 0.0)
        add_weight_gradient(sums.cell_x, dgates, self.xs[start:stop].flatten(0, 1))
        add_weight_gradient(sums.cell_r, dgates, previous.flatten(0, 1)[:, self.spec.kept :])
        sums.cell_b.add_(dgates.sum(0))
        torch.mm(dgates, self.slow.cell_x, out=self.xs_gradient[start:stop].view(len(dgates), -1))
        dinteraction = self.dinteraction[:length].flatten(0, 1)
        seen = tape.hv[start:stop].flatten(0, 1)[:, :n]
        if self.offset_gradient is not None:
            seen = layer_norm(seen, (n,))
            self.offset_gradient[start:stop] = self.dinteraction[:length]
        add_weight_gradient(sums.interaction_w, dinteraction, seen)
        sums.interaction_b.add_(dinteraction.sum(0))
