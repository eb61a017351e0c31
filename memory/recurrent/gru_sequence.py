"""A GRU over a sequence as ONE autograd function, for the CPU, where the library has no fused kernel for it.

Legend: T time, B batch, n hidden size; gates in the library's order r, z, candidate.

    [a_r, a_z, a_n] = h_{t-1} W^T + b              with x_t the input's share of the gates, given
    r, z = sigmoid(x_r + a_r), sigmoid(x_z + a_z)
    c    = tanh(x_n + r a_n)
    h_t  = c + z (h_{t-1} - c)

Walking back, with g the gradient of h_t, every gate's gradient is g times a factor that is known beforehand:

    da_n = g (1 - z) (1 - c^2) r,   da_r = g (1 - z) (1 - c^2) a_n r (1 - r),   da_z = g (h_{t-1} - c) z (1 - z)
    gradient of h_{t-1} = g z + [da_r, da_z, da_n] W

The factors are computed for all T at once, so a step back is three operations; the gradient of W is one
product over all T * B rows. Source of the equations: Cho et al. 2014, in the form of the library.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class GRUSequence(torch.autograd.Function):
    """(x [T, B, 3n], h_0 [B, n], W [3n, n], b [3n]) -> h_1 .. h_T [T, B, n]."""

    @staticmethod
    def forward(ctx: Any, xs: Tensor, start: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        steps, batch, width = xs.shape
        size = width // 3
        h = xs.new_empty(steps + 1, batch, size)
        h[0] = start
        a = torch.empty_like(xs)
        rz, c = xs.new_empty(steps, batch, 2 * size), xs.new_empty(steps, batch, size)
        rows = zip(
            xs[..., : 2 * size], xs[..., 2 * size :], a, a[..., : 2 * size], a[..., 2 * size :],
            rz, rz[..., :size], rz[..., size:], c, h[:-1], h[1:],
            strict=True,
        )  # fmt: skip
        weight_t = weight.t()
        for x_rz, x_n, a_t, a_rz, a_n, rz_t, r, z, c_t, h_tm1, h_t in rows:
            torch.addmm(bias, h_tm1, weight_t, out=a_t)
            torch.add(a_rz, x_rz, out=rz_t).sigmoid_()
            torch.addcmul(x_n, r, a_n, out=c_t).tanh_()
            torch.lerp(c_t, h_tm1, z, out=h_t)
        ctx.save_for_backward(h, a[..., 2 * size :], rz, c, weight)
        return h[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h, a_n, rz, c, weight = ctx.saved_tensors
        steps, batch, size = c.shape
        r, z = rz.chunk(2, dim=-1)
        slope_n = (1.0 - z) * (1.0 - c * c)
        factors = torch.stack(
            [slope_n * a_n * (r * (1.0 - r)), (h[:-1] - c) * (z * (1.0 - z)), slope_n * r], dim=2
        )
        g, da = c.new_empty(steps + 1, batch, size), torch.empty_like(factors)
        g[-1] = above[-1]
        nothing_above = torch.zeros_like(h[:1])
        rows = zip(
            factors, da, da.flatten(2), z, torch.cat([nothing_above, above[:-1]]), g[1:], g[1:, :, None], g[:-1],
            strict=True,
        )  # fmt: skip
        for factor, da_t, da_flat, z_t, above_tm1, g_t, g_wide, g_tm1 in reversed(list(rows)):
            torch.mul(factor, g_wide, out=da_t)
            torch.addcmul(above_tm1, z_t, g_t, out=g_tm1).addmm_(da_flat, weight)
        gates = da.view(steps * batch, 3 * size)
        d_weight, d_bias = gates.t() @ h[:-1].flatten(0, 1), gates.sum(0)
        # The candidate's input is not behind the gate r.
        torch.mul(slope_n, g[1:], out=da[:, :, 2])
        return da.view(steps, batch, 3 * size), g[0], d_weight, d_bias
