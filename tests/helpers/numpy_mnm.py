"""Metalearned Neural Memory in plain NumPy, one example and one head at a time: an independent reference.

Written from the equations alone, with loops and scalars where they make the equation plain, and sharing
nothing with `memory/`. The tests hold the real code against it in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def normalized(x: Array) -> Array:
    return (x - np.mean(x)) / np.sqrt(np.mean((x - np.mean(x)) ** 2) + 1e-5)


def memory_pass(weights: list[Array], key: Array) -> list[Array]:
    """[z^0, z^1, z^2, z^3] for one key."""
    z1 = np.tanh(weights[0] @ key)
    z2 = np.tanh(weights[1] @ z1)
    return [key, z1, z2, weights[2] @ z2]


def read(weights: list[Array], keys: Array) -> Array:
    """Mean over heads of f(k)."""
    return np.mean([memory_pass(weights, key)[3] for key in keys], axis=0)


def local_errors(weights: list[Array], key: Array, value: Array, bfpf: tuple[Array, Array]) -> list[Array]:
    """MNM-p, without the mean over heads: E^l = 2/dim(z^l) * (z^l - z'^l) for l = 1..3."""
    outputs = memory_pass(weights, key)[1:]
    targets = np.split(bfpf[0] @ value + bfpf[1], np.cumsum([len(z) for z in outputs])[:-1])
    return [2.0 / len(z) * (z - target) for z, target in zip(outputs, targets, strict=True)]


def gradient_errors(weights: list[Array], key: Array, value: Array) -> list[Array]:
    """MNM-g, without the mean over heads: E^l, with E^l (z^{l-1})^T = d/dM^l of mean over units of (f(k) - v)^2."""
    z = memory_pass(weights, key)
    error3 = 2.0 / len(value) * (z[3] - value)
    error2 = (weights[2].T @ error3) * (1.0 - z[2] ** 2)
    return [(weights[1].T @ error2) * (1.0 - z[1] ** 2), error2, error3]


def write(
    weights: list[Array], keys: Array, values: Array, beta: Array, bfpf: tuple[Array, Array] | None
) -> tuple[list[Array], list[list[Array]]]:
    """M^l - sum over heads i of U^l_i (z^{l-1}_i)^T with U^l_i = beta_l E^l_i / H, and U; without a BFPF MNM-g."""
    new, steps = [w.copy() for w in weights], []
    for key, value in zip(keys, values, strict=True):
        z = memory_pass(weights, key)
        errors = local_errors(weights, key, value, bfpf) if bfpf else gradient_errors(weights, key, value)
        steps.append([beta[layer] * errors[layer] / len(keys) for layer in range(3)])
        for layer in range(3):
            new[layer] -= np.outer(steps[-1][layer], z[layer])
    return new, steps


@dataclass
class Reference:
    """One example's MNM core, its parameters copied from a state_dict as float64 arrays."""

    parameters: dict[str, Array]
    hidden_size: int
    memory_size: int
    heads: int
    rule: str

    def linear(self, name: str, x: Array) -> Array:
        return self.parameters[f"{name}.weight"] @ x + self.parameters[f"{name}.bias"]

    def lstm(self, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        p = self.parameters
        gates = p["cell.weight_ih"] @ x + p["cell.bias_ih"] + p["cell.weight_hh"] @ h + p["cell.bias_hh"]
        enter, forget, new, out = np.split(gates, 4)
        c = sigmoid(forget) * c + sigmoid(enter) * np.tanh(new)
        return sigmoid(out) * np.tanh(c), c

    def from_inputs(self, xs: Array) -> Array:
        """sum over k of a_k * W_x LN(x_{t-k}), as far as the episode goes back."""
        total = np.zeros_like(self.parameters["interaction.bias"])
        for tap, x in zip(self.parameters["window.taps"], xs[::-1], strict=False):
            total += tap * (self.parameters["window.project.weight"] @ normalized(x))
        return total

    def step(
        self, xs: Array, h: Array, c: Array, value_read: Array, weights: list[Array]
    ) -> tuple[Array, float, Array, Array, Array, list[Array]]:
        """out_t, m_t, h_t, c_t, v_t and phi_t; xs are all inputs of the episode so far, the present one last."""
        d, heads = self.memory_size, self.heads
        h, c = self.lstm(np.concatenate([xs[-1], value_read]), h, c)
        if "window.taps" in self.parameters:
            vector = np.tanh(self.linear("interaction", normalized(h)) + self.from_inputs(xs))
        else:
            vector = np.tanh(self.linear("interaction", h))
        beta = np.broadcast_to(sigmoid(self.linear("rate", vector[:d])), (3,))
        per_head = vector[d:].reshape(heads, 3, d)
        write_keys, values, read_keys = per_head[:, 0], per_head[:, 1], per_head[:, 2]
        bfpf = None
        if self.rule == "local":
            name = "memory.rule.predict_targets"
            bfpf = (self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"])
        weights, _ = write(weights, write_keys, values, beta, bfpf)
        value_read = read(weights, read_keys)
        after = np.array([memory_pass(weights, key)[3] for key in write_keys])
        meta_loss = float(np.mean((after - values) ** 2))
        return self.linear("output", np.concatenate([h, value_read])), meta_loss, h, c, value_read, weights
