"""The fused memory, backward: walk the tape from its end with ONE live W and ONE live G = dL/dW per layer.

Legend: T time, B batch, n controller size, H heads, d key and value size. Rows of the memory's passes: Q and
A are inputs and outputs (before the activation) of layer l for [read keys ; write keys] under W_t, Z and a
those of the write keys under W_{t-1}; da means dL/da.

One step back, for the layers l = 3, 2, 1 of the memory:

    dQ = dA W_t ,    G += [dA(t) ; da(t + 1)]^T [Q(t) ; Z(t + 1)]       one product: both belong to W_t
    dU = -Z G^T ,    dZ = -U G
    W_{t-1} = W_t + U^T Z                                              the write undone; no weights were kept
    through the write rule: dU -> da, target values, beta, and for MNM-g the second-order terms
    dZ += da W_{t-1}                                                   da^T Z waits for the next product

A reset at t cannot be undone: its rows of W were saved, and their G belongs to phi_0.

Weight gradients of the linear maps leave the loop (`memory.mnm.tape.WeightGradients`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from memory.mnm.tape import (
    STRETCH,
    InputGradients,
    Layered,
    Lease,
    OutputGradients,
    SlowWeights,
    Spec,
    Tape,
    WeightGradients,
    add_outer,
)
from memory.mnm.torch_backend.forward import Resets, tanh_backward

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


def layer_norm_backward(dy: Tensor, x: Tensor) -> Tensor:
    """Of y = (x - mean) r with r = 1 / sqrt(variance + 1e-5): dx = r (dy - mean(dy) - y mean(y dy))."""
    y, _, r = torch.native_layer_norm(x, x.shape[-1:], None, None, 1e-5)
    along_y = (y * dy).mean(-1, keepdim=True)
    return dy.sub(dy.mean(-1, keepdim=True)).addcmul_(y, along_y, value=-1.0).mul_(r)


class BackwardPass:
    """Live buffers of one walk; nothing of the tape is changed, so that it can be walked again."""

    def __init__(
        self, spec: Spec, slow: SlowWeights, tape: Tape, xs: Tensor, is_first: Tensor, above: OutputGradients
    ) -> None:
        self.spec, self.slow, self.tape, self.xs, self.is_first = spec, slow, tape, xs, is_first
        self.resets = Resets(is_first, tape.overwritten)
        self.steps, self.batch = xs.shape[:2]
        self._prepare_scratch()
        self._prepare_views()
        self._enter(above)

    def _prepare_scratch(self) -> None:
        spec, heads, batch = self.spec, self.spec.heads, self.batch
        self.lease = lease = Lease(self.xs)
        shapes = [(batch, o, i) for o, i in zip(spec.widths_out, spec.widths_in, strict=True)]
        self.weights = Layered.empty(lease, (), shapes)
        self.gradient = Layered.empty(lease, (), shapes)
        for weight, initial, change in zip(self.weights.layers, self.slow.phi0, self.tape.delta, strict=True):
            torch.add(initial, change, out=weight)
        # dA of [read ; post-write] rows of this step, da of the write rows of the step after.
        self.da = Layered.empty(lease, (), [(batch, 3 * heads, w) for w in spec.widths_out])
        for block in self.da.blocks:
            block.zero_()
        self.write_steps = Layered.empty(lease, (), [(batch, heads, w) for w in spec.widths_out])
        self.du = Layered.empty(lease, (), [(batch, heads, w) for w in spec.widths_out])
        """-dU, then the gradient of the errors E."""
        self.product = Layered.empty(lease, (), [(batch, heads, w) for w in spec.widths_out])
        self.dz = Layered.empty(lease, (), [(batch, heads, w) for w in spec.widths_in])
        self.second = [lease.empty(batch, heads, spec.hidden) for _ in range(2)]
        self.dq_hidden = lease.empty(batch, 2 * heads, spec.hidden)
        self.dq_keys = lease.empty(batch, 2 * heads, spec.size)
        self.dv_target = lease.empty(batch, heads, spec.size)
        self.dcell_part = lease.empty(*self.tape.cells.shape[1:])
        self.weight_gradients = deltas = WeightGradients(
            self.spec, self.slow, self.tape, self.xs, self.is_first, lease
        )
        self.sums, self.dgates, self.drate = deltas.sums, deltas.dgates, deltas.drate
        self.dtargets_t = deltas.dtargets.permute(0, 3, 1, 2, 4).unbind(0)
        self.dtarget_rows_t = deltas.dtargets.flatten(1, 2).flatten(2, 3).unbind(0)
        self.cell_r, self.interaction_w = self.slow.cell_r.t(), self.slow.interaction_w.t()
        self.target_w = self.slow.target_w.t()

    def _prepare_views(self) -> None:
        spec, tape, heads, n = self.spec, self.tape, self.spec.heads, self.spec.controller_size
        inputs, errors = Layered(tape.inputs), Layered(tape.errors)
        self.joint_t = [flat.unbind(0) for flat in inputs.flat]
        self.q_t = [layer.unbind(0) for layer in inputs.rows(0, 2 * heads).layers]
        written = inputs.rows(2 * heads, 3 * heads)
        self.z_t = [layer.unbind(0) for layer in written.layers]
        self.z_flat_t = [flat.unbind(0) for flat in written.flat]
        self.e_t = [layer.unbind(0) for layer in errors.layers]
        self.e_block_t = [block.unbind(0) for block in errors.blocks]
        spans = [block.shape[-4] for block in errors.blocks]
        rates = tape.beta.mT[..., None, None].expand(-1, 3, -1, -1, -1)
        self.rate_t = [r.unbind(0) for r in rates.split(spans, dim=1)]
        # MNM-p: the errors are s (z - z'), and -s beta dU is what reaches z'; MNM-g: dE = -beta (-dU).
        self.factor_t = [
            r.unbind(0) for r in (rates * (spec.scale if spec.is_local else -1.0)).split(spans, dim=1)
        ]
        self.miss_t, self.target_t = tape.miss.unbind(0), tape.target_value.unbind(0)
        self.rate_in_t, self.beta_t = tape.rate_in.unbind(0), tape.beta.unbind(0)
        self.hidden_t = tape.hv[..., :n].unbind(0)
        if spec.is_recurrent:
            self.gate_t = [x.unbind(0) for x in tape.gates.chunk(4, dim=-1)]
            self.sigmoids_t = tape.gates[..., : spec.sigmoids * n].unbind(0)
            self.c_t, self.tanh_c_t = tape.cells.unbind(0), tape.tanh_c.unbind(0)
        self.da_read, self.da_post, self.da_write = zip(
            *(layer.split(heads, dim=1) for layer in self.da.layers), strict=True
        )
        self.da_after = [layer[:, : 2 * heads] for layer in self.da.layers]
        self.gradient_t = [flat.mT for flat in self.gradient.flat]

    def _enter(self, above: OutputGradients) -> None:
        """Gradients of the outputs: the starting values of everything live."""
        spec, batch = self.spec, self.batch
        width = spec.controller_size + spec.size
        zeros = self.xs.new_zeros(batch, width)
        self.dhv_t = (zeros,) * self.steps if above.hv is None else above.hv.unbind(0)
        self.zeros = zeros
        self.dhv = self.dhv_t[-1] + (0.0 if above.last is None else above.last)
        self.dh, self.dv = self.dhv[:, : spec.controller_size], self.dhv[:, spec.controller_size :]
        self.dv_heads = self.dv[:, None].expand(-1, spec.heads, -1)
        self.dc = torch.zeros_like(self.dcell_part) if above.cell is None else above.cell.clone()
        meta = self.xs.new_zeros(self.steps, batch) if above.meta_loss is None else above.meta_loss
        self.dmiss_t = (spec.scale * meta)[..., None, None].unbind(0)
        for gradient, total, given in zip(self.gradient.layers, self.sums.phi0, above.delta, strict=True):
            if given is None:
                gradient.zero_()
            else:  # D = W - phi_0
                gradient.copy_(given)
                total.sub_(given.sum(0))

    def run(self) -> InputGradients:
        for t in range(self.steps - 1, -1, -1):
            at = t % STRETCH
            self._read(t)
            self._undo_write(t)
            if self.spec.is_local:
                self._local_rule(t, at)
            else:
                self._gradient_rule(t)
            if self.resets.at(t):
                self._undo_reset(t)
            self._interact(t, at)
            self._control(t, at)
            if at == 0:
                stop = min(t + STRETCH, self.steps)
                if self.spec.is_open:
                    self._rates(t, stop)
                self.weight_gradients.add_stretch(t, stop)
        for g, da, z in zip(self.gradient.layers, self.da_write, self.z_t, strict=True):
            add_outer(g, da, z[0])
        for total, g in zip(self.sums.phi0, self.gradient.layers, strict=True):
            total.add_(g.sum(0))
        deltas = self.weight_gradients
        inputs = deltas.xs_gradient, deltas.offset_gradient
        return InputGradients(*inputs, self.dhv, self.dc, tuple(self.gradient.layers), self.sums)

    def _read(self, t: int) -> None:
        """From dv_t and the meta loss through the passes of read and write keys under W_t."""
        w1, w2, w3 = self.weights.layers
        torch.mul(self.dv_heads, 1.0 / self.spec.heads, out=self.da_read[2])
        torch.mul(self.miss_t[t], self.dmiss_t[t], out=self.da_post[2])
        torch.bmm(self.da_after[2], w3, out=self.dq_hidden)
        tanh_backward(self.dq_hidden, self.q_t[2][t + 1], grad_input=self.da_after[1])
        torch.bmm(self.da_after[1], w2, out=self.dq_hidden)
        tanh_backward(self.dq_hidden, self.q_t[1][t + 1], grad_input=self.da_after[0])
        torch.bmm(self.da_after[0], w1, out=self.dq_keys)
        for g, da, joint in zip(self.gradient.flat, self.da.flat, self.joint_t, strict=True):
            g.baddbmm_(da.mT, joint[t + 1])

    def _undo_write(self, t: int) -> None:
        """Gradients of both factors of the write, of its rate, and W_{t-1} = W_t + U^T Z."""
        for u, e, rate in zip(self.write_steps.blocks, self.e_block_t, self.rate_t, strict=True):
            torch.mul(e[t], rate[t], out=u)
        for layer, g in enumerate(self.gradient.flat):
            u, z, dz = self.write_steps.flat[layer], self.z_flat_t[layer][t], self.dz.flat[layer]
            torch.bmm(z, self.gradient_t[layer], out=self.du.flat[layer])
            torch.baddbmm(dz, u, g, beta=0.0, alpha=-1.0, out=dz)
            add_outer(self.weights.flat[layer], u, z)
        sums = []
        for product, du, e in zip(self.product.blocks, self.du.blocks, self.e_block_t, strict=True):
            sums.append(torch.mul(du, e[t], out=product).sum((-1, -2)))
        dbeta = (sums[0] if len(sums) == 1 else torch.cat(sums)).neg_()
        self.dbeta = dbeta.sum(0, keepdim=True).t() if len(self.slow.rate_b) == 1 else dbeta.t()

    def _local_rule(self, t: int, at: int) -> None:
        """E = s (z - z'): back into the activations, and through the BFPF into the target value."""
        dtargets = torch.mul(self.du.blocks[0], self.factor_t[0][t], out=self.dtargets_t[at])
        self.dz.blocks[0][1:].sub_(dtargets[:2])
        torch.neg(dtargets[2], out=self.da_write[2])
        self._write_pass(t)
        through = linear(self.dtarget_rows_t[at], self.target_w).view_as(self.dv_target)
        torch.sub(through, self.da_post[2], out=self.dv_target)

    def _gradient_rule(self, t: int) -> None:
        """Back through the delta recursion e_l = (e_{l+1} W_{l+1}) (1 - z_l^2) of the write itself."""
        _, w2, w3 = self.weights.layers
        _, g2, g3 = self.gradient.layers
        (_, z2, z3), (e1, e2, e3) = (z[t] for z in self.z_t), (e[t] for e in self.e_t)
        for de, factor in zip(self.du.blocks, self.factor_t, strict=True):
            de.mul_(factor[t])
        (de1, de2, de3), (dp1, dp2) = self.du.layers, self.second
        tanh_backward(de1, z2, grad_input=dp1)
        de2.baddbmm_(dp1, w2.mT)
        tanh_backward(de2, z3, grad_input=dp2)
        de3.baddbmm_(dp2, w3.mT)
        add_outer(g2, e2, dp1)
        add_outer(g3, e3, dp2)
        torch.mul(de3, self.spec.scale, out=self.da_write[2])
        torch.add(self.da_write[2], self.da_post[2], out=self.dv_target).neg_()
        # The slope 1 - z^2 in e_l depends on z_l too; through the tanh this is -2 z e de, without a division.
        curvature = [torch.mul(e, de, out=dp) for e, de, dp in ((e1, de1, dp1), (e2, de2, dp2))]
        self._write_pass(t, curvature)

    def _write_pass(self, t: int, curvature: list[Tensor] | None = None) -> None:
        """da_3 is set: down through the pass of the write keys under W_{t-1}; `dz` gains da W."""
        w1, w2, w3 = self.weights.layers
        (_, z2, z3), (dz1, dz2, dz3), da = (z[t] for z in self.z_t), self.dz.layers, self.da_write
        tanh_backward(dz3.baddbmm_(da[2], w3), z3, grad_input=da[1])
        if curvature is not None:
            da[1].addcmul_(z3, curvature[1], value=-2.0)
        tanh_backward(dz2.baddbmm_(da[1], w2), z2, grad_input=da[0])
        if curvature is not None:
            da[0].addcmul_(z2, curvature[0], value=-2.0)
        dz1.baddbmm_(da[0], w1)

    def _undo_reset(self, t: int) -> None:
        """G of the rows that started here belongs to phi_0; below the reset they had other weights."""
        for layer, total in enumerate(self.sums.phi0):
            self.resets.take(t, total, self.gradient.layers[layer], self.da_write[layer], self.z_t[layer][t])
        self.resets.leave(t, self.weights.layers)

    def _interact(self, t: int, at: int) -> None:
        """Keys, target value and rate -> dh; in an open loop the rate waits for the end of the stretch."""
        heads, size = self.spec.heads, self.spec.size
        wide = heads * size
        out = self.weight_gradients.interaction_from(t - at)[at]
        self.dq_keys[:, heads:].add_(self.dz.layers[0])
        keys = out[:, : 2 * wide].unflatten(1, (2 * heads, size))
        tanh_backward(self.dq_keys, self.q_t[0][t + 1], grad_input=keys)
        targets = out[:, 2 * wide : 3 * wide].unflatten(1, (heads, size))
        tanh_backward(self.dv_target, self.target_t[t], grad_input=targets)
        if self.spec.is_open:
            self.drate[at] = self.dbeta
            return
        drate = sigmoid_backward(self.dbeta, self.beta_t[t], grad_input=self.drate[at])
        tanh_backward(drate @ self.slow.rate_w, self.rate_in_t[t], grad_input=out[:, 3 * wide :])
        dseen = linear(out, self.interaction_w)
        self.dh.add_(layer_norm_backward(dseen, self.hidden_t[t]) if self.spec.normalizes else dseen)

    def _rates(self, start: int, stop: int) -> None:
        """The part of `_interact` that an open loop leaves out, for steps start..stop-1."""
        tape, drate = self.tape, self.drate[: stop - start]
        sigmoid_backward(drate, tape.beta[start:stop], grad_input=drate)
        out = self.weight_gradients.interaction_from(start)[: stop - start, :, -self.spec.size :]
        tanh_backward(drate @ self.slow.rate_w, tape.rate_in[start:stop], grad_input=out)

    def _control(self, t: int, at: int) -> None:
        """dh, dc -> the gates, and from them [h ; v] of the step before."""
        if self.spec.is_open:
            self.dhv.copy_(self.dhv_t[t - 1] if t > 0 else self.zeros)
            return
        dgates, first = self.dgates[at], self.is_first[t][:, None]
        reset = self.resets.at(t)
        if self.spec.is_recurrent:
            before = self.c_t[t].masked_fill(first, 0.0) if reset else self.c_t[t]
            through_gates = self._lstm if self.spec.controller == "lstm" else self._gru
            through_gates(t, dgates, before)
            sigmoids = dgates[:, : self.sigmoids_t[t].shape[1]]
            sigmoid_backward(sigmoids, self.sigmoids_t[t], grad_input=sigmoids)
            if reset:
                self.dc.masked_fill_(first, 0.0)
        else:
            tanh_backward(self.dh, self.hidden_t[t], grad_input=dgates)
        self.dhv.copy_(self.dhv_t[t - 1] if t > 0 else self.zeros)
        passed = dgates.masked_fill(first, 0.0) if reset else dgates
        self.dhv[:, self.spec.kept :].add_(linear(passed, self.cell_r))

    def _lstm(self, t: int, dgates: Tensor, c_tm1: Tensor) -> None:
        """Of c_t = f c_{t-1} + i g and h_t = o tanh(c_t); the sigmoids' slopes are left to the caller."""
        (i, f, o, g), tanh_c = (gate[t] for gate in self.gate_t), self.tanh_c_t[t]
        di, df, do, dg = dgates.chunk(4, dim=1)
        through = torch.mul(self.dh, o, out=self.dcell_part)
        self.dc.add_(tanh_backward(through, tanh_c, grad_input=through))
        torch.mul(self.dc, g, out=di)
        torch.mul(self.dc, c_tm1, out=df)
        torch.mul(self.dh, tanh_c, out=do)
        torch.mul(self.dc, i, out=dg)
        tanh_backward(dg, g, grad_input=dg)
        self.dc.mul_(f)

    def _gru(self, t: int, dgates: Tensor, h_tm1: Tensor) -> None:
        """Of h_t = e + z (h_{t-1} - e), e = tanh(p + r a); dc is what h_t gets straight from h_{t+1}."""
        r, z, a, e = (gate[t] for gate in self.gate_t)
        dr, dz, da, dp = dgates.chunk(4, dim=1)
        self.dc.add_(self.dh)
        torch.mul(self.dc, torch.sub(h_tm1, e, out=self.dcell_part), out=dz)
        self.dcell_part.copy_(self.dc)
        self.dc.mul_(z)
        tanh_backward(self.dcell_part.sub_(self.dc), e, grad_input=dp)
        torch.mul(dp, a, out=dr)
        torch.mul(dp, r, out=da)

    def recovered_weights(self) -> list[Tensor]:
        """W before the segment [B, out, in] as the walk found it, for the test of its drift."""
        return self.weights.layers
