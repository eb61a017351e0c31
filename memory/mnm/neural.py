"""The neural memory: a small network whose weights are the memory, read by a key, changed by a write rule.

Legend: B batch, H heads (a mini-batch of keys that share one memory), d key and value size, u hidden width.

    read    f(k; M) = M^3 tanh(M^2 tanh(M^1 k)),   M^1 [u, d], M^2 [u, u], M^3 [d, u], no biases
    write   M^l <- M^l - U_l^T Z_l for all layers simultaneously, Z_l the inputs of layer l for the write
            keys under the OLD weights and U_l [B, H, d_l] the step chosen by the write rule

A write rule maps an error to one step per layer, from z^l, the activations of layer l for the write keys under the
OLD weights, the target values v^w and the update rate beta. Its scale s_l = 2 / (H * dim(z^l)) is that of a squared
error averaged over the heads and units of ONE example: the batch is never averaged in a write.

Each example of the batch owns its weights M = phi_0 + D: phi_0 is shared, D is the example's own change.
Between calls only D travels, so that an optimizer step on phi_0 does not leave stale copies behind.

Source: Munkhdalai, Sordoni, Wang, Trischler, "Metalearned Neural Memory", NeurIPS 2019.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
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


class WriteFactors(NamedTuple):
    """One write in its low-rank form: the change of layer l is -steps[l]^T inputs[l]."""

    inputs: Weights
    steps: Weights


def forward(weights: Weights, keys: Tensor) -> Activations:
    """Pass keys [B, H, d] through the memory: hidden tanh, output identity, no biases."""
    hidden1 = torch.tanh(keys @ weights[0].mT)
    hidden2 = torch.tanh(hidden1 @ weights[1].mT)
    return Activations(keys, hidden1, hidden2, hidden2 @ weights[2].mT)


def apply_write(weights: Weights, factors: WriteFactors) -> Weights:
    """M^l - U_l^T Z_l for every layer, out of place."""
    w1, w2, w3 = (
        torch.baddbmm(weight, step.mT, layer_input, alpha=-1.0)
        for weight, step, layer_input in zip(weights, factors.steps, factors.inputs, strict=True)
    )
    return w1, w2, w3


class NeuralMemory(nn.Module):
    """phi_0 and a write rule: everything of the memory that is shared by the batch."""

    def __init__(self, size: int, hidden: int, rule: WriteRule, learn_initial_weights: bool = True) -> None:
        """`size` d of keys and values, `hidden` width u; phi_0 is drawn like a linear layer of torch."""
        super().__init__()
        self.rule = rule
        self.shapes = ((hidden, size), (hidden, hidden), (size, hidden))
        for layer, (fan_out, fan_in) in enumerate(self.shapes, start=1):
            bound = 1.0 / math.sqrt(fan_in)
            draw = torch.empty(fan_out, fan_in).uniform_(-bound, bound)
            if learn_initial_weights:
                self.register_parameter(f"phi0_{layer}", nn.Parameter(draw))
            else:  # A buffer is saved and moved with the module, but no optimizer sees it.
                self.register_buffer(f"phi0_{layer}", draw)

    @property
    def initial_weights(self) -> Weights:
        """phi_0, one matrix [d_l, d_{l-1}] per layer."""
        return self.phi0_1, self.phi0_2, self.phi0_3  # type: ignore[return-value]

    def weights(self, delta: Weights) -> Weights:
        """M = phi_0 + D."""
        w1, w2, w3 = (phi0 + d for phi0, d in zip(self.initial_weights, delta, strict=True))
        return w1, w2, w3

    def read(self, weights: Weights, keys: Tensor) -> Activations:
        """What the memory `weights` answers to keys [B, H, d]."""
        return forward(weights, keys)

    def write(
        self, weights: Weights, write_key: Tensor, target_value: Tensor, beta: Tensor
    ) -> tuple[Weights, WriteFactors, Activations]:
        """One write of all heads: keys and target values [B, H, d], rates beta [B, 3] per layer.

        Returns the new weights, the write in factors, and the pass of the write keys through the OLD
        weights, from which the rule chose its step.
        """
        before = forward(weights, write_key)
        steps = self.rule(weights, before, target_value, beta)
        factors = WriteFactors((before.key, before.hidden1, before.hidden2), steps)
        return apply_write(weights, factors), factors, before
