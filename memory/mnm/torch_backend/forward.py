"""The fused memory, forward: a whole segment in place, with one live W and a tape of low-rank factors.

Legend: T time, B batch, n controller size, H heads, d key and value size, u hidden width of the memory.

The maths is that of `memory/mnm/reference.py`, step by step; only the work is arranged differently. The input's part
of the gates and of the interaction layer is one product each for the whole segment, W is updated in place, every
activation is written to where the backward walk will read it, and the losses are taken after the loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from memory.mnm.tape import (
    MINUS_ONE,
    Layered,
    Lease,
    SlowWeights,
    Spec,
    Tape,
    add_outer,
    empty_tape,
    tanh_of_half,
)

tanh_backward = torch.ops.aten.tanh_backward.grad_input
"""tanh_backward(dy, y, grad_input=dx): dx = dy (1 - y^2)."""


class ForwardPass:
    """Buffers of one segment, and the step that fills them."""

    def __init__(
        self,
        spec: Spec,
        slow: SlowWeights,
        xs: Tensor,
        offset: Tensor | None,
        start: Tensor,
        cell: Tensor,
        is_first: Tensor,
    ) -> None:
        steps, batch = xs.shape[:2]
        self.spec, self.slow, self.is_first, self.offset, self.xs = spec, slow, is_first, offset, xs
        self.resets = Resets(is_first)
        self.lease, self.scratch = Lease(xs), Lease(xs)
        if spec.is_open:
            self.gates = xs.new_empty(steps, batch, 0)
        else:
            self._prepare_controller(xs)
        self._prepare_weights()
        self.tape = empty_tape(spec, self.lease, start, cell, self.gates, len(slow.rate_w))
        self.inputs, self.errors = Layered(self.tape.inputs), Layered(self.tape.errors)
        self.value_before = self.scratch.empty(steps if spec.is_local else 1, batch, spec.heads, spec.size)
        self._prepare_scratch(xs, batch)
        self._prepare_views()

    def _prepare_controller(self, xs: Tensor) -> None:
        """Weights up to the interaction layer, doubled where a tanh follows, and the input's part of the gates."""
        spec, slow = self.spec, self.slow
        n, (x, r, b) = spec.controller_size, (slow.cell_x, slow.cell_r, slow.cell_b)
        double = x.new_ones(len(b))
        if spec.controller != "gru":  # Its tanh follows a sum that the step forms.
            double[3 * n if spec.is_recurrent else 0 :] = 2.0
        gates = linear(xs.flatten(0, 1), double[:, None] * x, double * b)
        self.gates = gates.view(*xs.shape[:2], -1)
        self.cell_r = double[:, None] * r
        self.interaction_w = 2.0 * slow.interaction_w
        self.interaction_b = 2.0 * slow.interaction_b

    def _prepare_weights(self) -> None:
        """The memory's slow weights as the step wants them."""
        spec, slow = self.spec, self.slow
        self.rate_w = slow.rate_w.t()
        if spec.is_local:
            self.target_w = -spec.scale * slow.target_w
            self.target_b = -spec.scale * slow.target_b

    def _prepare_scratch(self, xs: Tensor, batch: int) -> None:
        """The live weights, and buffers that every step overwrites; products want contiguous results."""
        spec, heads = self.spec, self.spec.heads
        shapes = [(batch, o, i) for o, i in zip(spec.widths_out, spec.widths_in, strict=True)]
        self.weights = Layered.empty(self.scratch, (), shapes)
        self.weights_t = [weight.mT for weight in self.weights.layers]
        self.write_steps = Layered.empty(self.scratch, (), [(batch, heads, w) for w in spec.widths_out])
        self.hidden_w = self.scratch.empty(batch, heads, spec.hidden)
        self.hidden_r = self.scratch.empty(batch, 2 * heads, spec.hidden)
        self.value_r = self.scratch.empty(batch, 2 * heads, spec.size)

    def _prepare_views(self) -> None:
        """Everything a step touches, cut out once: making a view costs as much as a small kernel."""
        n, heads, tape = self.spec.controller_size, self.spec.heads, self.tape
        self.h_t = tape.hv[..., :n].unbind(0)
        self.v_t = tape.hv[..., n:].unbind(0)
        self.previous = (tape.start, *tape.hv.unbind(0))
        self.gates_t = self.gates.unbind(0)
        if self.spec.is_recurrent:
            self.gate_t = [g.unbind(0) for g in self.gates.chunk(4, dim=-1)]
            self.sigmoids_t = self.gates[..., : self.spec.sigmoids * n].unbind(0)
        self.c_t, self.tanh_c_t = tape.cells.unbind(0), tape.tanh_c.unbind(0)
        self.target_t, self.rate_in_t = tape.target_value.unbind(0), tape.rate_in.unbind(0)
        self.beta_t, self.miss_t = tape.beta.unbind(0), tape.miss.unbind(0)
        rates = tape.beta.mT[..., None, None].expand(-1, 3, -1, -1, -1)
        self.rate_t = [r.unbind(0) for r in rates.split([b.shape[-4] for b in self.errors.blocks], dim=1)]
        written = self.inputs.rows(2 * heads, 3 * heads)
        read = self.inputs.rows(0, 2 * heads)
        self.z_t = [layer.unbind(0) for layer in written.layers]
        self.z_flat_t = [flat.unbind(0) for flat in written.flat]
        self.q_t = [layer.unbind(0) for layer in read.layers]
        self.e_t = [layer.unbind(0) for layer in self.errors.layers]
        self.e_block_t = [block.unbind(0) for block in self.errors.blocks]
        if self.spec.is_local:
            self.e_lower_t, self.e_last_t = (e.unbind(0) for e in self.errors.blocks[0].split([2, 1], dim=1))
            self.z_lower_t = written.blocks[0][:, 1:].unbind(0)
            self.target_rows_t = tape.target_value.flatten(1, 2).unbind(0)
        self.before_t = self.value_before.expand(len(tape.hv), -1, -1, -1).unbind(0)
        self.read_value, self.rewritten = self.value_r.split(heads, dim=1)

    def run(self, delta: tuple[Tensor, ...], keep: bool) -> tuple[Tensor, Tensor, Tape]:
        """Meta loss and write error [T, B], and the tape; `keep` what a reset overwrites for a backward."""
        phi0 = self.slow.phi0
        for weight, initial, change in zip(self.weights.layers, phi0, delta, strict=True):
            torch.add(initial, change, out=weight)
        if self.spec.is_open:
            self._interact_everywhere()
        for t in range(len(self.is_first)):
            if self.resets.at(t):
                self.resets.enter(t, self.weights.layers, phi0, keep)
            if not self.spec.is_open:
                self._control(t)
                self._interact(t)
            self._write(t)
            self._read(t)
        final = tuple(weight - initial for weight, initial in zip(self.weights.layers, phi0, strict=True))
        tape = self.tape._replace(delta=final, overwritten=tuple(self.resets.kept))
        return tape.miss.square().mean(dim=(2, 3)), self._write_error(), tape

    def _control(self, t: int) -> None:
        """[h ; v]_{t-1} and the input's part of the gates -> h_t."""
        previous, gates = self.previous[t], self.gates_t[t]
        reset = self.resets.at(t)
        if reset:
            previous = previous.masked_fill(self.is_first[t][:, None], 0.0)
        gates.add_(linear(previous[:, self.spec.kept :], self.cell_r))
        if not self.spec.is_recurrent:
            return tanh_of_half(gates, out=self.h_t[t])
        before = self.c_t[t].masked_fill(self.is_first[t][:, None], 0.0) if reset else self.c_t[t]
        if self.spec.controller == "lstm":
            return self._lstm(t, before)
        self._gru(t, before)

    def _lstm(self, t: int, c_tm1: Tensor) -> None:
        """c_t = f c_{t-1} + i g and h_t = o tanh(c_t)."""
        i, f, o, g = (gate[t] for gate in self.gate_t)
        c, tanh_c = self.c_t[t + 1], self.tanh_c_t[t]
        self.gates_t[t].sigmoid_()
        g.mul_(2.0).sub_(1.0)
        torch.mul(f, c_tm1, out=c).addcmul_(i, g)
        tanh_of_half(torch.mul(c, 2.0, out=tanh_c), out=tanh_c)
        torch.mul(o, tanh_c, out=self.h_t[t])

    def _gru(self, t: int, h_tm1: Tensor) -> None:
        """h_t = e + z (h_{t-1} - e) with the candidate e = tanh(p + r a)."""
        r, z, a, e = (gate[t] for gate in self.gate_t)
        self.sigmoids_t[t].sigmoid_()
        tanh_of_half(e.addcmul_(r, a).mul_(2.0), out=e)
        torch.lerp(e, h_tm1, z, out=self.c_t[t + 1])
        self.h_t[t].copy_(self.c_t[t + 1])

    def _interact(self, t: int) -> None:
        """h_t -> keys, target value and rate."""
        h_t = self.h_t[t] if self.offset is None else layer_norm(self.h_t[t], (self.spec.controller_size,))
        vector = linear(h_t, self.interaction_w, self.interaction_b)
        if self.offset is not None:
            vector.add_(self.offset[t], alpha=2.0)
        self._place(
            vector, self.q_t[0][t + 1], self.z_t[0][t], self.target_t[t], self.rate_in_t[t], self.beta_t[t]
        )

    def _interact_everywhere(self) -> None:
        """Keys, target values, rates and the predictions of MNM-p of all steps, in an open loop."""
        heads, tape = self.spec.heads, self.tape
        keys, written = self.inputs.layers[0][1:, :, : 2 * heads], self.inputs.layers[0][:-1, :, 2 * heads :]
        self._place(2.0 * self.xs, keys, written, tape.target_value, tape.rate_in, tape.beta)
        if self.spec.is_local:
            predicted = linear(tape.target_value.flatten(1, 2), self.target_w, self.target_b)
            self.predicted_t = predicted.unbind(0)

    def _place(
        self, doubled: Tensor, keys: Tensor, written: Tensor, target: Tensor, rate_in: Tensor, beta: Tensor
    ) -> None:
        """tanh of half of [.., B, K], each part written to where it is used; destroys `doubled`."""
        heads = self.spec.heads
        rows = doubled.sigmoid_().unflatten(-1, (3 * heads + 1, self.spec.size))
        torch.add(MINUS_ONE, rows[..., : 2 * heads, :], alpha=2.0, out=keys)
        torch.add(MINUS_ONE, rows[..., heads : 2 * heads, :], alpha=2.0, out=written)
        torch.add(MINUS_ONE, rows[..., 2 * heads : 3 * heads, :], alpha=2.0, out=target)
        torch.add(MINUS_ONE, rows[..., 3 * heads, :], alpha=2.0, out=rate_in)
        logits, rates = rate_in.flatten(0, -2), beta.flatten(0, -2)
        torch.addmm(self.slow.rate_b, logits, self.rate_w, out=rates).sigmoid_()

    def _write(self, t: int) -> None:
        """W <- W - U^T Z with U = beta E, the errors E by the write rule."""
        (z1, z2, z3), (w1, w2, w3), pre = (z[t] for z in self.z_t), self.weights_t, self.hidden_w
        tanh_of_half(torch.baddbmm(pre, z1, w1, beta=0.0, alpha=2.0, out=pre), out=z2)
        tanh_of_half(torch.baddbmm(pre, z2, w2, beta=0.0, alpha=2.0, out=pre), out=z3)
        torch.bmm(z3, w3, out=self.before_t[t])
        if self.spec.is_local:
            self._local_errors(t)
        else:
            self._gradient_errors(t)
        for u, e, rate in zip(self.write_steps.blocks, self.e_block_t, self.rate_t, strict=True):
            torch.mul(e[t], rate[t], out=u)
        for w, u, z in zip(self.weights.flat, self.write_steps.flat, self.z_flat_t, strict=True):
            add_outer(w, u, z[t], alpha=-1.0)

    def _local_errors(self, t: int) -> None:
        """E_l = s (z^l - B_l v^w - c_l)."""
        scale, heads, size = self.spec.scale, self.spec.heads, self.spec.size
        if self.spec.is_open:
            predicted = self.predicted_t[t]
        else:
            predicted = linear(self.target_rows_t[t], self.target_w, self.target_b)
        predicted = predicted.view(-1, heads, 3, size).permute(2, 0, 1, 3)
        torch.add(predicted[:2], self.z_lower_t[t], alpha=scale, out=self.e_lower_t[t])
        torch.add(predicted[2:], self.before_t[t], alpha=scale, out=self.e_last_t[t])

    def _gradient_errors(self, t: int) -> None:
        """E_3 = s (z^3 - v^w), E_l = (E_{l+1} W_{l+1}) (1 - (z^l)^2)."""
        (_, w2, w3), back = self.weights.layers, self.hidden_w
        e1, e2, e3 = (e[t] for e in self.e_t)
        torch.sub(self.before_t[t], self.target_t[t], out=e3).mul_(self.spec.scale)
        tanh_backward(torch.bmm(e3, w3, out=back), self.z_t[2][t], grad_input=e2)
        tanh_backward(torch.bmm(e2, w2, out=back), self.z_t[1][t], grad_input=e1)

    def _read(self, t: int) -> None:
        """Read keys and write keys together through the new weights: v_t, and what the write missed."""
        (q1, q2, q3), (w1, w2, w3), pre = (q[t + 1] for q in self.q_t), self.weights_t, self.hidden_r
        tanh_of_half(torch.baddbmm(pre, q1, w1, beta=0.0, alpha=2.0, out=pre), out=q2)
        tanh_of_half(torch.baddbmm(pre, q2, w2, beta=0.0, alpha=2.0, out=pre), out=q3)
        torch.bmm(q3, w3, out=self.value_r)
        torch.mean(self.read_value, dim=1, out=self.v_t[t])
        torch.sub(self.rewritten, self.target_t[t], out=self.miss_t[t])

    def _write_error(self) -> Tensor:
        """The error before the write, [T, B]; logged only."""
        if self.spec.is_local:
            return self.value_before.sub_(self.tape.target_value).square_().mean(dim=(2, 3))
        return self.errors.layers[2].square().mean(dim=(2, 3)).div_(self.spec.scale**2)


class Resets:
    """Resets inside a segment, by the indices of those who reset; `kept` is what an earlier pass has kept.

    The write of a step cannot be undone across a reset, so what a reset overwrites is kept, except at step 0, before
    which nothing is undone.
    """

    def __init__(self, is_first: Tensor, kept: Sequence[Tensor] = ()) -> None:
        self.rows = rows_of_resets(is_first)
        self.kept = list(kept)

    def at(self, t: int) -> bool:
        """Whether anybody resets at step t."""
        return self.rows[t] is not None

    def enter(self, t: int, weights: Sequence[Tensor], phi0: Sequence[Tensor], keep: bool) -> None:
        """Put phi_0 in place of the weights of those who reset; keep what was there for `leave`."""
        rows = self._rows(t)
        if keep and t > 0:
            self.kept += [weight[rows] for weight in weights]
        for weight, initial in zip(weights, phi0, strict=True):
            weight.index_copy_(0, rows, initial.expand(len(rows), -1, -1))

    def leave(self, t: int, weights: Sequence[Tensor]) -> None:
        """Undo `enter`, step by step from the last; at step 0 there is nothing to go back to."""
        if t > 0:
            before = self.kept[-3:]
            del self.kept[-3:]
            for weight, kept in zip(weights, before, strict=True):
                weight.index_copy_(0, self._rows(t), kept)

    def take(self, t: int, total: Tensor, g: Tensor, da: Tensor, z: Tensor) -> None:
        """Move the gradient G + da^T Z of those who start here to `total`, that of phi_0; g and da become 0."""
        rows = self._rows(t)
        total.add_(torch.baddbmm(g[rows], da[rows].mT, z[rows]).sum(0))
        g.index_fill_(0, rows, 0.0)
        da.index_fill_(0, rows, 0.0)

    def _rows(self, t: int) -> Tensor:
        rows = self.rows[t]
        assert rows is not None
        return rows


def rows_of_resets(is_first: Tensor) -> list[Tensor | None]:
    """Per step the examples that reset, or None; asks the device once."""
    counts = is_first.sum(dim=1).tolist()
    rows = is_first.nonzero()[:, 1].split(counts)
    return [index if count else None for index, count in zip(rows, counts, strict=True)]
