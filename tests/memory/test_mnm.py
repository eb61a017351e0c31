"""The neural memory against the equations: write rules, order of operations, second order, reset, phi_0."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy_mnm import Reference
from torch import Tensor
from torch.func import grad, vmap

from memory import (
    CoreConfig,
    Intervention,
    MNMCore,
    WriteFactors,
    make_core,
    map_state,
    reset_state,
    step_in_place,
)
from memory.mnm.neural import GradientRule, LocalRule, NeuralMemory, Weights, apply_write, forward

D, U, H, B, X, N = 5, 7, 3, 4, 6, 8


def random_case(
    rule: str, heads: int = H, seed: int = 0
) -> tuple[NeuralMemory, Weights, Tensor, Tensor, Tensor]:
    """A memory, weights that already hold something, keys, values in (-1, 1) and rates, in float64."""
    torch.manual_seed(seed)
    width = D if rule == "local" else U
    memory = NeuralMemory(D, width, LocalRule(D) if rule == "local" else GradientRule()).double()
    w1, w2, w3 = (
        phi0.detach() + 0.1 * torch.randn(B, *phi0.shape).double() for phi0 in memory.initial_weights
    )
    keys, values = torch.randn(2, B, heads, D, dtype=torch.float64).tanh()
    return memory, (w1, w2, w3), keys, values, torch.rand(B, 3, dtype=torch.float64)


def mean_squared_error(weights: Weights, keys: Tensor, values: Tensor) -> Tensor:
    """L_up of ONE example: keys and values [H, D], weights without batch axis."""
    hidden = torch.tanh(torch.tanh(keys @ weights[0].T) @ weights[1].T)
    return (hidden @ weights[2].T - values).square().mean()


@pytest.mark.parametrize("rule", ["local", "gradient"])
@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("window", [0, 1, 3])
def test_a_step_equals_the_numpy_reference(rule: str, per_layer: bool, window: int) -> None:
    torch.manual_seed(1)
    config = CoreConfig(
        name="mnm-p" if rule == "local" else "mnm-g",
        hidden_size=N,
        memory_size=D,
        memory_hidden=None if rule == "local" else U,
        heads=H,
        update_rate="per-layer" if per_layer else "scalar",
        interaction_window=window,
    )
    core = make_core(config, X).double()
    assert isinstance(core, MNMCore)
    parameters = {name: p.detach().numpy() for name, p in core.state_dict().items()}
    state = core.initial_state(B)
    xs = torch.randn(5, B, X, dtype=torch.float64)
    reference = Reference(parameters, N, D, H, rule)
    phi0 = [w.detach().numpy() for w in core.memory.initial_weights]
    own = [(np.zeros(N), np.zeros(N), np.zeros(D), phi0) for _ in range(B)]
    for t, x_t in enumerate(xs):
        output, state = core.step(x_t, state)
        full = core.weights(state)
        for b in range(B):
            out, meta, *own_b = reference.step(xs[: t + 1, b].numpy(), *own[b])
            own[b] = tuple(own_b)
            np.testing.assert_allclose(output.features[b].detach(), out, rtol=0, atol=1e-12)
            np.testing.assert_allclose(output.meta_loss[b].item(), meta, rtol=0, atol=1e-12)
            np.testing.assert_allclose(state.value_read[b].detach(), own_b[2], rtol=0, atol=1e-12)
            for weight, expected in zip(full, own_b[3], strict=True):
                np.testing.assert_allclose(weight[b].detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 4])
def test_the_gradient_write_is_a_gradient_step(heads: int) -> None:
    """Against torch.func.grad of the per-example loss under vmap, with d != u."""
    memory, weights, keys, values, beta = random_case("gradient", heads)
    new, _, _ = memory.write(weights, keys, values, beta)
    gradients = vmap(grad(mean_squared_error))(weights, keys, values)
    for layer in range(3):
        expected = weights[layer] - beta[:, layer, None, None] * gradients[layer]
        torch.testing.assert_close(new[layer], expected, rtol=0, atol=1e-14)


def test_the_outer_gradient_through_a_gradient_write_holds_the_second_order_terms() -> None:
    """Gradient of the post-write error w.r.t. everything equals the one through nested torch.func.grad."""
    memory, weights, keys, values, beta = random_case("gradient")
    leaves = [x.clone().requires_grad_() for x in (*weights, keys, values, beta)]
    w, (k, v, rate) = (leaves[0], leaves[1], leaves[2]), leaves[3:]
    new, _, _ = memory.write(w, k, v, rate)
    by_hand = torch.autograd.grad((forward(new, k).value - v).square().mean(), leaves)

    nested_steps = vmap(grad(mean_squared_error))(w, k, v)
    nested = tuple(w[i] - rate[:, i, None, None] * nested_steps[i] for i in range(3))
    by_torch = torch.autograd.grad((forward(nested, k).value - v).square().mean(), leaves)
    for mine, theirs in zip(by_hand, by_torch, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-15)


@pytest.mark.parametrize("heads", [1, 4])
def test_the_local_write_with_ideal_targets_is_a_last_layer_gradient_step(heads: int) -> None:
    """If z'^3 = v^w and z'^l = z^l below, lower layers stay and layer 3 takes exactly the gradient step."""
    memory, weights, keys, values, beta = random_case("local", heads)
    before = forward(weights, keys)

    class IdealTargets(torch.nn.Module):
        def forward(self, target_value: Tensor) -> Tensor:
            return torch.cat([before.hidden1, before.hidden2, target_value], dim=-1)

    memory.rule.predict_targets = IdealTargets()  # type: ignore[assignment]
    new, _, _ = memory.write(weights, keys, values, beta)
    gradients = vmap(grad(mean_squared_error))(weights, keys, values)
    assert torch.equal(new[0], weights[0])
    assert torch.equal(new[1], weights[1])
    torch.testing.assert_close(new[2], weights[2] - beta[:, 2, None, None] * gradients[2], rtol=0, atol=1e-15)


def test_a_last_layer_write_contracts_its_error_by_a_known_factor() -> None:
    """H = 1: post-write error / pre-write error = 1 - 2 beta ms(z^2) for every unit, ms the mean square."""
    _, weights, keys, values, beta = random_case("local", heads=1)
    before = forward(weights, keys)
    step = 2.0 / D * beta[:, 2, None, None] * (before.value - values)
    w3 = torch.baddbmm(weights[2], step.mT, before.hidden2, alpha=-1.0)
    after = forward((weights[0], weights[1], w3), keys)
    factor = 1.0 - 2.0 * beta[:, 2, None, None] * before.hidden2.square().mean(-1, keepdim=True)
    torch.testing.assert_close(after.value - values, factor * (before.value - values), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("heads", "ideal_last_layer", "gradient_step"), [(1, 0.87, 0.69), (4, 0.97, 0.90), (16, 0.99, 0.975)]
)
def test_how_much_one_write_binds_at_initialisation(
    heads: int, ideal_last_layer: float, gradient_step: float
) -> None:
    """Ratio of post-write to pre-write error with phi_0 random, keys and values tanh(gauss), beta = 1."""
    torch.manual_seed(0)
    size, draws = 50, 200
    memory = NeuralMemory(size, size, GradientRule())
    w1, w2, w3 = (phi0.detach().expand(draws, -1, -1) for phi0 in memory.initial_weights)
    keys, values = torch.randn(2, draws, heads, size).tanh()
    before = forward((w1, w2, w3), keys)
    error = (before.value - values).square().mean()
    step = 2.0 / (heads * size) * (before.value - values)
    last = (w1, w2, torch.baddbmm(w3, step.mT, before.hidden2, alpha=-1.0))
    every, _, _ = memory.write((w1, w2, w3), keys, values, torch.ones(draws, 3))
    ratios = [(forward(new, keys).value - values).square().mean() / error for new in (last, every)]
    assert ratios[0].item() == pytest.approx(ideal_last_layer, abs=0.015)
    assert ratios[1].item() == pytest.approx(gradient_step, abs=0.025)


@pytest.mark.parametrize("rule", ["local", "gradient"])
def test_writing_a_batch_equals_writing_each_example_alone(rule: str) -> None:
    memory, weights, keys, values, beta = random_case(rule)
    together, _, _ = memory.write(weights, keys, values, beta)
    for b in range(B):
        one = slice(b, b + 1)
        alone, _, _ = memory.write(
            (weights[0][one], weights[1][one], weights[2][one]), keys[one], values[one], beta[one]
        )
        for mine, whole in zip(alone, together, strict=True):
            torch.testing.assert_close(mine[0], whole[b], rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["mnm-p", "mnm-g"])
def test_a_write_with_rate_zero_leaves_the_memory_bit_identical(name: str) -> None:
    torch.manual_seed(0)
    core = make_core(CoreConfig(name=name, hidden_size=N, memory_size=D, heads=H), X)
    state = core.initial_state(B)
    _, state = core.step(torch.randn(B, X), state)
    with torch.no_grad():
        core.rate.weight.zero_()
        core.rate.bias.fill_(-torch.inf)
    _, after = core.step(torch.randn(B, X), state)
    assert all(torch.equal(x, y) for x, y in zip(after.delta, state.delta, strict=True))
    assert not torch.equal(after.h, state.h)


@pytest.mark.parametrize("name", ["mnm-p", "mnm-g"])
def test_the_read_uses_the_memory_of_the_same_step_after_its_write(name: str) -> None:
    torch.manual_seed(0)
    core = make_core(CoreConfig(name=name, hidden_size=N, memory_size=D, heads=H), X).double()
    state = core.initial_state(B)
    output, after = core.step(torch.randn(B, X, dtype=torch.float64), state, record=True)
    assert output.record is not None
    key = output.record.read_key
    read_after = forward(core.weights(after), key).value.mean(1)
    read_before = forward(core.weights(state), key).value.mean(1)
    torch.testing.assert_close(after.value_read, read_after, rtol=0, atol=1e-15)
    assert (read_before - after.value_read).abs().max() > 1e-6
    rebuilt = apply_write(
        core.weights(state), WriteFactors(output.record.write_inputs, output.record.write_steps)
    )
    for mine, theirs in zip(rebuilt, core.weights(after), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-15)


@pytest.mark.parametrize("mode", ["learned", "fixed"])
def test_initial_weights_are_saved_and_trained_only_if_learned(mode: str) -> None:
    torch.manual_seed(0)
    core = make_core(CoreConfig(name="mnm-p", hidden_size=N, memory_size=D, initial_weights=mode), X)
    assert {f"memory.phi0_{layer}" for layer in (1, 2, 3)} <= set(core.state_dict())
    trained = {name for name, _ in core.named_parameters()}
    assert ("memory.phi0_1" in trained) == (mode == "learned")
    output, _ = core.unroll(torch.randn(2, B, X), core.initial_state(B), torch.zeros(2, B, dtype=torch.bool))
    output.features.sum().backward()
    if mode == "learned":
        assert core.memory.phi0_1.grad.abs().sum() > 0


@pytest.mark.parametrize("implementation", ["auto", "plain"])
@pytest.mark.parametrize("name", ["mnm-p", "mnm-g"])
@torch.no_grad()
def test_an_intervention_changes_its_examples_and_nobody_else(name: str, implementation: Any) -> None:
    """Examples: untouched, without its write, answered by phi_0; then all of them told what they read."""
    config = CoreConfig(name=name, hidden_size=N, memory_size=D, heads=H, implementation=implementation)  # type: ignore[arg-type]
    core = make_core(config, X).double()
    assert isinstance(core, MNMCore)
    state = map_state(lambda s: 0.3 * torch.randn_like(s), core.initial_state(3))
    x = torch.randn(3, X).double()
    _, plain = core.step(x, state)
    skip, initial = torch.tensor([False, True, False]), torch.tensor([False, False, True])
    output, new = core.step(x, state, record=True, intervention=Intervention(skip, initial))
    for was, now in zip(plain, new, strict=True):
        torch.testing.assert_close(now[0], was[0])
    assert output.record is not None
    for was, now, written in zip(state.delta, new.delta, plain.delta, strict=True):
        assert torch.equal(now[1], was[1])
        assert not torch.equal(written[1], was[1])
        torch.testing.assert_close(now[2], written[2])
    unwritten = core.memory.read(core.weights(core.initial_state(3)), output.record.read_key).value.mean(
        dim=1
    )
    torch.testing.assert_close(new.value_read[2], unwritten[2])
    assert not torch.allclose(new.value_read[2], plain.value_read[2])
    told = torch.randn_like(unwritten)
    output, new = core.step(x, state, intervention=Intervention(value_read=told))
    assert torch.equal(new.value_read, told)
    torch.testing.assert_close(output.features, core.output(torch.cat([new.h, told], dim=-1)))


@pytest.mark.parametrize("controller", ["lstm", "gru", "feedforward"])
@pytest.mark.parametrize("name", ["mnm-p", "mnm-g"])
@torch.no_grad()
def test_a_step_in_place_equals_a_step(name: str, controller: Any) -> None:
    config = CoreConfig(name=name, hidden_size=N, memory_size=D, heads=H, controller=controller)  # type: ignore[arg-type]
    core = make_core(config, X).double()
    assert isinstance(core, MNMCore)
    state = map_state(lambda s: 0.3 * torch.randn_like(s), core.initial_state(3))
    x, skip = torch.randn(3, X).double(), torch.tensor([False, True, False])
    output, expected = core.step(x, state, intervention=Intervention(skip_write=skip))
    inside, weights = map_state(torch.clone, state), core.weights(state)
    hv = step_in_place(core, x, inside, weights, skip)
    torch.testing.assert_close(core.output(hv), output.features)
    torch.testing.assert_close(inside[:3], expected[:3])
    torch.testing.assert_close(weights, core.weights(expected))


@pytest.mark.parametrize("name", ["mnm-p", "mnm-g"])
def test_an_empty_delta_reads_from_the_current_initial_weights(name: str) -> None:
    """States carry D = M - phi_0, so an optimiser step on phi_0 leaves no stale copy behind."""
    torch.manual_seed(0)
    core = make_core(CoreConfig(name=name, hidden_size=N, memory_size=D, heads=H), X).double()
    state = core.initial_state(B)
    with torch.no_grad():
        core.memory.phi0_1.add_(1.0)
    for full, phi0 in zip(core.weights(state), core.memory.initial_weights, strict=True):
        assert torch.equal(full, phi0.expand(B, -1, -1))


def test_parameter_count() -> None:
    """d_x = n = 128, d = u = 64, H = 4 gives 321,729 for MNM-p; MNM-g has no BFPF, 3u(d+1) fewer."""

    def count(name: str) -> int:
        core = make_core(CoreConfig(name=name, hidden_size=128, memory_size=64, heads=4), 128)
        return sum(p.numel() for p in core.parameters())

    assert count("mnm-p") == 321_729
    assert count("mnm-g") == 321_729 - 3 * 64 * 65


def test_mnm_p_refuses_a_hidden_width_other_than_the_value_size() -> None:
    with pytest.raises(ValueError, match="got 7 and 5; use 5 for both, or mnm-g"):
        make_core(CoreConfig(name="mnm-p", memory_size=5, memory_hidden=7), X)


def test_the_interaction_gain_enlarges_the_first_keys_and_nothing_else() -> None:
    config = CoreConfig(name="mnm-p", hidden_size=N, memory_size=D)
    cores = []
    for gain in (1.0, 3.0):
        torch.manual_seed(0)
        cores.append(make_core(replace(config, interaction_gain=gain), X))
    plain, enlarged = (core.state_dict() for core in cores)
    for name, weight in plain.items():
        factor = 3.0 if name == "interaction.weight" else 1.0
        assert torch.equal(enlarged[name], factor * weight)


def test_a_reset_selects_and_does_not_multiply() -> None:
    core = make_core(CoreConfig(name="mnm-p", hidden_size=N, memory_size=D), X)
    broken = core.initial_state(B)._replace(h=torch.full((B, N), torch.nan))
    first = torch.tensor([True, False, True, False])
    assert torch.isfinite(reset_state(broken, first).h[first]).all()
    assert torch.isnan(reset_state(broken, first).h[~first]).all()
