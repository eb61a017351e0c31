"""Distributions over actions: golden numbers, identities, and agreement with torch.distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.distributions import Vector, VectorActions, actions_for, gumbel_
from envs.errors import UserError

ACTIONS = actions_for(spaces.Discrete(3))


def drawn(seed: int = 0) -> torch.Tensor:
    return torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_uniform_policy_has_golden_figures() -> None:
    policy = ACTIONS.distribution(torch.zeros(2, 3))
    torch.testing.assert_close(policy.entropy(), torch.full((2,), math.log(3.0)))
    torch.testing.assert_close(policy.log_prob(torch.tensor([0, 2])), torch.full((2,), -math.log(3.0)))
    torch.testing.assert_close(policy.probability(torch.tensor([1, 2])), torch.full((2,), 1 / 3))


def test_it_agrees_with_torch_distributions() -> None:
    mine, other = ACTIONS.distribution(drawn(0)), ACTIONS.distribution(drawn(1))
    theirs = torch.distributions.Categorical(logits=drawn(0))
    action = torch.randint(0, 3, (5, 4))
    torch.testing.assert_close(mine.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(mine.entropy(), theirs.entropy())
    kl = torch.distributions.kl_divergence(theirs, torch.distributions.Categorical(logits=drawn(1)))
    torch.testing.assert_close(mine.kl(other), kl)
    assert torch.equal(mine.mode(), theirs.probs.argmax(-1))
    torch.testing.assert_close(mine.kl(mine), torch.zeros(5, 4, dtype=torch.float64))


@pytest.mark.slow
def test_draws_have_the_probabilities_of_the_policy() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0]]).expand(40_000, 3)
    policy = ACTIONS.distribution(logits)
    action = policy.sample(ACTIONS.noise(40_000, logits, torch.Generator().manual_seed(0)))
    frequency = torch.bincount(action, minlength=3) / len(action)
    torch.testing.assert_close(frequency, logits[0].softmax(0), atol=0.01, rtol=0)
    from_numpy = policy.draw([np.random.default_rng(i) for i in range(40_000)])
    frequency = torch.bincount(from_numpy, minlength=3) / len(from_numpy)
    torch.testing.assert_close(frequency, logits[0].softmax(0), atol=0.01, rtol=0)


def test_parameters_alone_make_the_distribution_again() -> None:
    policy = ACTIONS.distribution(drawn())
    again = ACTIONS.distribution(policy.parameters.clone())
    assert torch.equal(again.log_prob(again.mode()), policy.log_prob(policy.mode()))
    assert policy.double().parameters.dtype == torch.float64


def test_a_shifted_discrete_space_reaches_the_environment_with_its_own_numbers() -> None:
    actions = actions_for(spaces.Discrete(3, start=5))
    assert actions.to_env(torch.tensor([0, 2])).tolist() == [5, 7]


def test_the_previous_action_of_a_first_step_does_not_count() -> None:
    encoder = ACTIONS.encoder(8)
    none = ACTIONS.none(1, torch.device("cpu"))
    first, later = torch.tensor([True]), torch.tensor([False])
    assert torch.equal(encoder(torch.tensor([2]), first), encoder(none, later))
    assert not torch.equal(encoder(torch.tensor([2]), later), encoder(none, later))


def test_an_unsupported_space_is_named() -> None:
    with pytest.raises(UserError, match="Text"):
        actions_for(spaces.Text(4))


SPACES = {
    "MultiDiscrete": spaces.MultiDiscrete([3, 2, 5]),
    "MultiBinary": spaces.MultiBinary(3),
    "Box": spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32)),
    "unbounded Box": spaces.Box(-np.inf, np.inf, (2, 1)),
    "Tuple": spaces.Tuple(
        [spaces.Box(-1, 1, (2,)), spaces.Discrete(4), spaces.MultiBinary(1), spaces.Box(0, 9)]
    ),
}


def vector(name: str, seed: int = 0) -> tuple[VectorActions, Vector, list[torch.distributions.Distribution]]:
    """The actions of a space, a distribution of ours [5], and those of torch for each component in its place."""
    actions = actions_for(SPACES[name])
    assert isinstance(actions, VectorActions)
    generator = torch.Generator().manual_seed(seed)
    parameters = torch.randn(5, actions.parameters, generator=generator, dtype=torch.float64)
    logits = parameters[:, : actions.logits].split([n for n in actions.counts if n], dim=1)
    mean, log_std = parameters[:, actions.logits :].chunk(2, dim=1)
    theirs: list[torch.distributions.Distribution] = []
    for place, count in enumerate(actions.counts):
        k = len([n for n in actions.counts[:place] if bool(n) == bool(count)])
        if count:
            theirs.append(torch.distributions.Categorical(logits=logits[k]))
        else:
            theirs.append(torch.distributions.Normal(mean[:, k], log_std[:, k].exp()))
    return actions, actions.distribution(parameters), theirs


@pytest.mark.parametrize("name", SPACES)
def test_vectors_agree_with_torch_distributions(name: str) -> None:
    actions, mine, theirs = vector(name)
    _, other, their_others = vector(name, seed=1)
    torch.manual_seed(0)
    action = torch.stack([d.sample() for d in theirs], dim=1)
    assert actions.shape == action.shape[1:]
    log_prob = sum(d.log_prob(x) for d, x in zip(theirs, action.unbind(1), strict=True))
    torch.testing.assert_close(mine.log_prob(action), log_prob)
    torch.testing.assert_close(mine.entropy(), sum(d.entropy() for d in theirs))
    pairs = zip(theirs, their_others, strict=True)
    kl = sum(torch.distributions.kl_divergence(p, q) for p, q in pairs)
    torch.testing.assert_close(mine.kl(other), kl)
    torch.testing.assert_close(mine.kl(mine), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(mine.mode(), torch.stack([d.mode for d in theirs], dim=1).float())
    assert torch.all(mine.probability(mine.mode()) >= mine.probability(action))


@pytest.mark.parametrize("name", SPACES)
def test_draws_of_vectors_have_the_moments_of_the_policy(name: str) -> None:
    actions, mine, theirs = vector(name)
    mine = actions.distribution(mine.parameters[:1].expand(4_000, -1))
    action = mine.sample(actions.noise(4_000, mine.parameters, torch.Generator().manual_seed(0)))
    from_streams = mine.draw([np.random.default_rng(i) for i in range(4_000)])
    for place, d in enumerate(theirs):
        if isinstance(d, torch.distributions.Normal):
            mean, std = d.mean[0], d.stddev[0]
        else:
            values = torch.arange(float(actions.counts[place]))
            mean = (d.probs[0] * values).sum()
            std = ((d.probs[0] * values.square()).sum() - mean.square()).sqrt()
        for drawn_here in (action[:, place], from_streams[:, place]):
            assert abs(drawn_here.mean() - mean) < 5 * std / math.sqrt(4_000)
            assert abs(drawn_here.std() / std - 1.0) < 0.05


def test_the_change_of_gaussians_is_their_total_variation() -> None:
    actions = actions_for(spaces.Box(-9, 9, (1,)))
    one, two = (actions.distribution(torch.tensor([mean, math.log(0.5)])) for mean in (0.2, 0.9))
    x = torch.linspace(-6, 6, 100_001)[:, None]
    densities = [d.log_prob(x).exp() for d in (one, two)]
    numerically = 0.5 * torch.trapezoid((densities[0] - densities[1]).abs(), x[:, 0])
    torch.testing.assert_close(one.change(two), numerically, atol=1e-4, rtol=0)
    assert float(one.change(one)) == 0.0


def test_a_head_works_in_units_of_the_bounds() -> None:
    actions = actions_for(SPACES["Box"])
    head = actions.head(4)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    policy = actions.distribution(head(torch.zeros(3, 4)))
    assert isinstance(policy, Vector)
    assert policy.mean[0].tolist() == [0.0, 0.5]
    torch.testing.assert_close(policy.log_std.exp()[0], torch.tensor([2.0, 0.5]))


@pytest.mark.parametrize("name", SPACES)
def test_the_previous_vector_counts_but_not_in_a_first_step(name: str) -> None:
    actions, mine, _ = vector(name)
    encoder = actions.encoder(8)
    with torch.no_grad():
        encoder.none.normal_()
    here, there = mine.mode()[:1], mine.mode()[:1] + torch.eye(actions.shape[0])[0]
    there[:, [n > 0 for n in actions.counts]] %= 2
    first, later = torch.tensor([True]), torch.tensor([False])
    assert torch.equal(encoder(here, first), encoder(there, first))
    assert not torch.equal(encoder(here, later), encoder(there, later))
    assert not torch.equal(encoder(here, later), encoder(here, first))


def test_the_previous_vector_is_what_the_environment_took() -> None:
    """Beyond its bounds an action counts as the bound, so that no policy can answer it with a larger one for ever."""
    later = torch.tensor([False])
    encoder = actions_for(spaces.Box(-2.0, 4.0, (1,))).encoder(3)
    at_bound = encoder(torch.tensor([[4.0]]), later)
    assert torch.equal(encoder(torch.tensor([[1e16]]), later), at_bound)
    assert not torch.equal(encoder(torch.tensor([[3.0]]), later), at_bound)
    torch.testing.assert_close(at_bound[0], encoder.weight[:, 0] + encoder.bias)
    unbounded = actions_for(spaces.Box(-np.inf, np.inf, (1,))).encoder(3)
    far = unbounded(torch.tensor([[-1e16]]), later)
    torch.testing.assert_close(far[0], -math.log(1e16) * unbounded.weight[:, 0] + unbounded.bias)


MASKED = {"Discrete": spaces.Discrete(4), "MultiDiscrete": spaces.MultiDiscrete([3, 4, 2])}


@pytest.mark.parametrize("name", MASKED)
def test_illegal_actions_have_probability_0_and_everything_else_is_finite(name: str) -> None:
    actions = actions_for(MASKED[name])
    choices = actions.parameters
    legal = {4: [1, 0, 1, 0], 9: [0, 1, 1, 0, 0, 1, 0, 1, 1]}[choices]
    mask = torch.tensor(legal, dtype=torch.int8)
    parameters = torch.randn(6, choices, generator=torch.Generator().manual_seed(0)).requires_grad_()
    policy = actions.distribution(parameters, mask.expand(6, -1))
    other = actions.distribution(torch.randn(6, choices), mask.expand(6, -1))
    noise = torch.full((6, *actions.noise_shape), 100.0) * (1 - mask)  # luck would have an illegal one
    for action in (policy.mode(), policy.sample(noise)):
        one_hot = torch.nn.functional.one_hot(action.long(), 4 if name == "MultiDiscrete" else choices)
        chosen = one_hot[:, :choices] if name == "Discrete" else one_hot
        for row in chosen:
            taken = row.flatten() if name == "Discrete" else torch.cat([row[0, :3], row[1], row[2, :2]])
            assert int((taken * (1 - mask)).sum()) == 0
    illegal = torch.tensor(1) if name == "Discrete" else torch.tensor([0.0, 2.0, 0.0])
    assert torch.equal(policy.probability(illegal.expand(6, *actions.shape)), torch.zeros(6))
    loss = policy.entropy().sum() + policy.kl(other).sum() + policy.log_prob(policy.mode()).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.equal(parameters.grad[:, mask == 0], torch.zeros(6, int((1 - mask).sum())))
    assert torch.all(policy.kl(other) >= 0)


def test_a_mask_leaves_the_distribution_over_legal_actions() -> None:
    logits, mask = torch.randn(3, 4), torch.tensor([1, 1, 0, 1])
    masked = actions_for(spaces.Discrete(4)).distribution(logits, mask)
    small = actions_for(spaces.Discrete(3)).distribution(logits[:, [0, 1, 3]])
    torch.testing.assert_close(masked.entropy(), small.entropy())
    torch.testing.assert_close(
        masked.log_prob(torch.tensor([3, 3, 1])), small.log_prob(torch.tensor([2, 2, 1]))
    )


def test_no_noise_is_infinite() -> None:
    x = torch.zeros(3)
    x.exponential_ = lambda generator: x  # type: ignore[method-assign]
    assert gumbel_(x, torch.Generator()).tolist() == [128.0] * 3
