"""Weight gradients of the fused memory: out of the time loop, one product per linear map and stretch.

The backward walk leaves the deltas of STRETCH steps here; then one product over all their rows adds them to
the sums, so that this memory does not grow with T.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from memory.mnm.tape import Lease, SlowWeights, Spec, Tape, add_weight_gradient

STRETCH = 16


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
        self.dinteraction = lease.empty(length, self.batch, len(slow.interaction_b))
        self.drate = lease.empty(length, self.batch, len(slow.rate_b))
        # Like the BFPF's output: the three layers side by side.
        self.dtargets = lease.empty(length, self.batch, spec.heads, 3 if spec.is_local else 0, spec.size)

    def add_stretch(self, start: int, stop: int) -> None:
        """Weight and input gradients of steps start..stop-1."""
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
        drate = self.drate[:length].flatten(0, 1)
        sums.rate_w.addmm_(drate.t(), tape.rate_in[start:stop].flatten(0, 1))
        sums.rate_b.add_(drate.sum(0))
        if self.spec.is_local:
            dtargets = self.dtargets[:length].flatten(0, 2).flatten(1, 2)
            add_weight_gradient(sums.target_w, dtargets, tape.target_value[start:stop].flatten(0, 2))
            sums.target_b.add_(dtargets.sum(0))
