"""The neural memory: a small network whose weights are the memory, read by a key, changed by a write.

Legend: B batch, H heads (a mini-batch of keys that share one memory), d key and value size, u hidden width.

    read    f(k; M) = M^3 tanh(M^2 tanh(M^1 k)),   M^1 [u, d], M^2 [u, u], M^3 [d, u], no biases
    write   M^l <- M^l - U_l^T Z_l for all layers simultaneously, Z_l the inputs of layer l for the write
            keys under the OLD weights and U_l the step chosen by the write rule (`memory/mnm/rules.py`)

Each example of the batch owns its weights M = phi_0 + D: phi_0 is shared, D is the example's own change.
Between calls only D travels, so that an optimiser step on phi_0 does not leave stale copies behind.

Source: Munkhdalai, Sordoni, Wang, Trischler, "Metalearned Neural Memory", NeurIPS 2019.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from memory.mnm.rules import Activations, Weights, WriteRule


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
            else:  # A buffer is saved and moved with the module, but no optimiser sees it.
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
