"""Distributions over actions: golden numbers, identities, and agreement with torch.distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.distributions import actions_for
from envs.errors import UserError

ACTIONS = actions_for(spaces.Discrete(3))


def drawn(seed: int = 0) -> torch.Tensor:
    return torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_uniform_policy_has_golden_figures() -> None:
    policy = ACTIONS.distribution(torch.zeros(2, 3))
    torch.testing.assert_close(policy.entropy(), torch.full((2,), math.log(3.0)))
    torch.testing.assert_close(policy.log_prob(torch.tensor([0, 2])), torch.full((2,), -math.log(3.0)))
    torch.testing.assert_close(policy.probabilities(), torch.full((2, 3), 1 / 3))


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


def test_draws_have_the_probabilities_of_the_policy() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0]]).expand(40_000, 3)
    policy = ACTIONS.distribution(logits)
    action = policy.sample(ACTIONS.noise(40_000, logits, torch.Generator().manual_seed(0)))
    frequency = torch.bincount(action, minlength=3) / len(action)
    torch.testing.assert_close(frequency, logits[0].softmax(0), atol=0.01, rtol=0)
    from_numpy = policy.double().sample(ACTIONS.noise_from([np.random.default_rng(i) for i in range(40_000)]))
    frequency = torch.bincount(from_numpy, minlength=3) / len(from_numpy)
    torch.testing.assert_close(frequency, logits[0].softmax(0), atol=0.01, rtol=0)


def test_parameters_alone_make_the_distribution_again() -> None:
    policy = ACTIONS.distribution(drawn())
    again = ACTIONS.distribution(policy.parameters.clone())
    assert torch.equal(again.probabilities(), policy.probabilities())
    assert policy.double().parameters.dtype == torch.float64


def test_a_shifted_discrete_space_reaches_the_environment_with_its_own_numbers() -> None:
    actions = actions_for(spaces.Discrete(3, start=5))
    assert actions.to_env(torch.tensor([0, 2])).tolist() == [5, 7]
    assert actions.names == ("5", "6", "7")
    assert actions.name(2) == "7"


def test_the_previous_action_of_a_first_step_does_not_count() -> None:
    encoder = ACTIONS.encoder(8)
    none = ACTIONS.none(1, torch.device("cpu"))
    first, later = torch.tensor([True]), torch.tensor([False])
    assert torch.equal(encoder(torch.tensor([2]), first), encoder(none, later))
    assert not torch.equal(encoder(torch.tensor([2]), later), encoder(none, later))


def test_an_unsupported_space_is_named() -> None:
    with pytest.raises(UserError, match="MultiBinary"):
        actions_for(spaces.MultiBinary(4))
