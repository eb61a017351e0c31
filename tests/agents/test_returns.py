"""Advantages and returns: golden numbers, closed forms, and which ends of an episode bootstrap."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agents.returns import gae


def rows(*values: float) -> Tensor:
    """One environment's rows [T, 1] in float64."""
    return torch.tensor(values, dtype=torch.float64)[:, None]


def flags(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)[:, None]


def test_golden_numbers_over_a_termination_and_a_truncation() -> None:
    """gamma 0.5, lambda 0.5; row 1 terminates, row 3 is truncated with a final value of 8.

    delta = [1 + .5*2 - 4, 2 - 2, 0 + .5*4 - 2, 1 + .5*8 - 4] = [-2, 0, 0, 1];  A_t = delta_t + .25 A_tp1.
    """
    values, next_values = rows(4, 2, 2, 4), rows(2, 0, 4, 8)
    advantage = gae(rows(1, 2, 0, 1), values, next_values, flags(0, 1, 0, 1), 0.5, 0.5)
    torch.testing.assert_close(advantage, rows(-2, 0, 0.25, 1))


@pytest.mark.parametrize("gamma", [0.9, 0.99])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("steps", [1, 7, 30])
def test_closed_form_on_a_process_of_constant_reward_and_value(
    gamma: float, gae_lambda: float, steps: int
) -> None:
    """r = 1, v = 0, no end: A_t = (1 - (gamma lambda)^(T - t)) / (1 - gamma lambda)."""
    ones, zeros = torch.ones(steps, 2, dtype=torch.float64), torch.zeros(steps, 2, dtype=torch.float64)
    advantage = gae(ones, zeros, zeros, zeros.bool(), gamma, gae_lambda)
    decay = gamma * gae_lambda
    left = torch.arange(steps, 0, -1, dtype=torch.float64)
    expected = ((1 - decay**left) / (1 - decay))[:, None].expand(-1, 2)
    torch.testing.assert_close(advantage, expected)


def test_the_true_value_of_an_endless_task_has_no_advantage_if_truncation_bootstraps() -> None:
    """r = 1 for ever: v = 1 / (1 - gamma). A time limit changes nothing, a termination does."""
    gamma = 0.9
    value = torch.full((12, 1), 1 / (1 - gamma), dtype=torch.float64)
    done = torch.arange(12)[:, None] % 4 == 3
    truncated = gae(torch.ones_like(value), value, value, done, gamma, 0.95)
    torch.testing.assert_close(truncated, torch.zeros_like(value), atol=1e-12, rtol=0)
    terminated = gae(torch.ones_like(value), value, value.masked_fill(done, 0.0), done, gamma, 0.95)
    assert (terminated[done] < -8.9).all()


def n_step_returns(
    rewards: torch.Tensor, next_values: torch.Tensor, done: torch.Tensor, gamma: float
) -> torch.Tensor:
    """G_t = r_t + gamma * (v_tp1 where the episode or the rollout ends at t, else G_tp1)."""
    returns, following = torch.empty_like(rewards), next_values[-1]
    for t in reversed(range(len(rewards))):
        following = rewards[t] + gamma * torch.where(done[t], next_values[t], following)
        returns[t] = following
    return returns


def test_lambda_zero_is_the_one_step_error_and_lambda_one_the_n_step_return() -> None:
    torch.manual_seed(0)
    rewards, values, next_values = torch.randn(3, 20, 4, dtype=torch.float64)
    done = torch.rand(20, 4) < 0.2
    # Inside an episode the next value is the next row's; only then do the sums telescope.
    next_values[:-1] = torch.where(done[:-1], next_values[:-1], values[1:])
    one_step = gae(rewards, values, next_values, done, 0.9, 0.0)
    torch.testing.assert_close(one_step, rewards + 0.9 * next_values - values)
    full = gae(rewards, values, next_values, done, 0.9, 1.0)
    torch.testing.assert_close(full + values, n_step_returns(rewards, next_values, done, 0.9))


def test_nothing_flows_across_the_end_of_an_episode() -> None:
    torch.manual_seed(0)
    rewards, values, next_values = torch.randn(3, 10, 1, dtype=torch.float64)
    done = torch.zeros(10, 1, dtype=torch.bool)
    done[4] = True
    before = gae(rewards, values, next_values, done, 0.9, 0.9)
    rewards[5:] += 100.0
    after = gae(rewards, values, next_values, done, 0.9, 0.9)
    assert torch.equal(before[:5], after[:5])
    assert not torch.equal(before[5:], after[5:])


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(3, 1\)"):
        gae(torch.zeros(3, 2), torch.zeros(3, 1), torch.zeros(3, 2), torch.zeros(3, 2).bool(), 0.9, 0.9)
