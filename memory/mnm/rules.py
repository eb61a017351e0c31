"""The two write rules of Metalearned Neural Memory, each a map from an error to one step per layer.

Legend: B batch, H heads, d key and value size, u hidden width; z^l activations of layer l for the write
keys under the OLD weights M; v^w target values; beta update rate.

A rule returns U_l [B, H, d_l]; the write is M^l <- M^l - sum over heads of U_l (z^{l-1})^T. The scale
s_l = 2 / (H * dim(z^l)) is that of a squared error averaged over the heads and units of ONE example: the
batch is never averaged in a write.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

Weights = tuple[Tensor, Tensor, Tensor]
"""M^l [B, d_l, d_{l-1}] for l = 1..3."""


class Activations(NamedTuple):
    """All activations of one pass through the memory, [B, H, width of the layer]."""

    key: Tensor
    hidden1: Tensor
    hidden2: Tensor
    value: Tensor


class WriteRule(nn.Module):
    """Interface: `rule(weights, before, target_value, beta [B, 3]) -> (U_1, U_2, U_3)`."""

    def forward(self, weights: Weights, before: Activations, target_value: Tensor, beta: Tensor) -> Weights:
        raise NotImplementedError


class GradientRule(WriteRule):
    """MNM-g: one explicit gradient step on the mean squared error of the memory at its write keys.

        L_up = mean over heads and units of (f(k^w; M) - v^w)^2 ,   U_l = beta_l * e^l
        e^3 = s_3 (z^3 - v^w) ,   e^l = ((M^{l+1})^T e^{l+1}) * (1 - (z^l)^2)   for l = 2, 1

    Written by hand, so that ordinary autograd through these lines yields the second-order terms of the
    outer gradient, and the write also works with gradients disabled.
    """

    def forward(self, weights: Weights, before: Activations, target_value: Tensor, beta: Tensor) -> Weights:
        heads, size = target_value.shape[1:]
        error3 = (2.0 / (heads * size)) * (before.value - target_value)
        error2 = (error3 @ weights[2]) * (1.0 - before.hidden2.square())
        error1 = (error2 @ weights[1]) * (1.0 - before.hidden1.square())
        rate1, rate2, rate3 = beta[:, :, None, None].unbind(1)
        return rate1 * error1, rate2 * error2, rate3 * error3


class LocalRule(WriteRule):
    """MNM-p: a learned local perceptron-like rule, gradient-free inside the step.

        z'^l = B_l v^w + c_l                 predicted activations, the backward feedback prediction (BFPF)
        U_l  = beta_l * s_l * (z^l - z'^l)   for l = 1..3

    The BFPF is one linear layer with bias, shared by the heads, from the target value to the targets of
    all three layers, the last one included. There is no derivative of the activation anywhere.
    """

    def __init__(self, size: int) -> None:
        """`size` d of keys and values, which is also the hidden width of the memory."""
        super().__init__()
        self.predict_targets = nn.Linear(size, 3 * size)

    def forward(self, weights: Weights, before: Activations, target_value: Tensor, beta: Tensor) -> Weights:
        heads, size = target_value.shape[1:]
        target1, target2, target3 = self.predict_targets(target_value).chunk(3, dim=-1)
        rate1, rate2, rate3 = ((2.0 / (heads * size)) * beta[:, :, None, None]).unbind(1)
        return (
            rate1 * (before.hidden1 - target1),
            rate2 * (before.hidden2 - target2),
            rate3 * (before.value - target3),
        )
