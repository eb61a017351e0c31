"""The two losses: masked means, golden values, and how PPO reduces to the policy gradient."""

from __future__ import annotations

import math

import pytest
import torch

from agents.losses import NewPolicy, Targets, a2c_loss, masked_mean, normalise, ppo_loss


def case(steps: int = 6, envs: int = 3, seed: int = 0) -> tuple[NewPolicy, Targets]:
    torch.manual_seed(seed)
    draw = [torch.randn(steps, envs, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    log_prob, value, advantage, returns = torch.randn(4, steps, envs, dtype=torch.float64)
    return NewPolicy(*draw), Targets(log_prob, value, advantage, returns, torch.rand(steps, envs) < 0.7)


def test_masked_mean_takes_valid_rows_only_and_is_zero_without_any() -> None:
    x = torch.tensor([1.0, 2.0, torch.nan])
    assert masked_mean(x, torch.tensor([True, True, False])) == 1.5
    assert masked_mean(x, torch.zeros(3, dtype=torch.bool)) == 0.0


def test_a_minibatch_without_valid_rows_gives_zero_loss_and_zero_gradient() -> None:
    new, targets = case()
    targets = targets._replace(valid=torch.zeros_like(targets.valid))
    for terms in (a2c_loss(new, targets), ppo_loss(new, targets, clip=0.2)):
        total = terms.policy + terms.value + terms.entropy + terms.meta
        assert total == 0.0
        gradients = torch.autograd.grad(total, list(new), allow_unused=True)
        assert all(g is None or (g == 0).all() for g in gradients)


def test_normalise_gives_mean_zero_and_deviation_one_over_valid_rows() -> None:
    x, valid = torch.tensor([[1.0], [3.0], [1e6]]), torch.tensor([[True], [True], [False]])
    torch.testing.assert_close(normalise(x, valid)[:2], torch.tensor([[-1.0], [1.0]]))


def test_what_stands_in_invalid_rows_changes_no_gradient() -> None:
    new, targets = case()
    spoilt = Targets(*(x.clone() for x in targets[:4]), targets.valid)
    for x in spoilt[:4]:
        x[~targets.valid] = 1e3
    for loss in (a2c_loss, lambda n, t: ppo_loss(n, t, clip=0.2)):
        grads = []
        for rows in (targets, spoilt):
            terms = loss(new, rows)
            grads.append(
                torch.autograd.grad(terms.policy + terms.value + terms.entropy + terms.meta, list(new))
            )
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_ppo_golden_values() -> None:
    """One row, ratio 2, clip 0.2: a positive advantage is worth 1.2 A, a negative one 2 A."""
    one = torch.ones(1, 1)
    new = NewPolicy(one * math.log(2.0), one, one * 3.0, one * 0.5)
    for advantage, policy in ((1.0, -1.2), (-1.0, 2.0)):
        targets = Targets(one * 0.0, one, one * advantage, one, one.bool())
        terms = ppo_loss(new, targets, clip=0.2)
        assert terms.policy.item() == pytest.approx(policy)
        assert terms.value.item() == pytest.approx(0.5 * (1.0 - 3.0) ** 2)
        assert terms.clip_fraction == 1.0
        assert terms.approx_kl.item() == pytest.approx(2.0 - 1.0 - math.log(2.0))


def test_value_clipping_takes_the_larger_error() -> None:
    one = torch.ones(1, 1)
    new = NewPolicy(one * 0.0, one, one * 3.0, one)
    targets = Targets(one * 0.0, one * 0.0, one, one * 4.0, one.bool())
    assert ppo_loss(new, targets, 0.2, value_clip=0.5).value.item() == pytest.approx(0.5 * 3.5**2)
    assert ppo_loss(new, targets, 0.2, value_clip=None).value.item() == pytest.approx(0.5)


def test_ppo_at_ratio_one_has_the_gradient_of_a2c() -> None:
    new, targets = case()
    targets = targets._replace(log_prob=new.log_prob.detach())
    (ppo,) = torch.autograd.grad(ppo_loss(new, targets, clip=0.2).policy, [new.log_prob])
    (a2c,) = torch.autograd.grad(a2c_loss(new, targets).policy, [new.log_prob])
    torch.testing.assert_close(ppo, a2c)


def test_a_ratio_that_would_overflow_leaves_loss_and_gradients_finite() -> None:
    """A log ratio of 200 is beyond the 88 of float32; what it shares a minibatch with keeps its gradient."""
    for far in (200.0, -200.0, 1e30):
        log_prob = torch.tensor([[far, 0.1]], requires_grad=True)
        zeros = torch.zeros(1, 2)
        new = NewPolicy(log_prob, zeros, zeros, zeros)
        targets = Targets(
            zeros, zeros, torch.tensor([[-1.0, 1.0]]), zeros, torch.ones(1, 2, dtype=torch.bool)
        )
        terms = ppo_loss(new, targets, clip=0.2)
        terms.policy.backward()
        assert all(torch.isfinite(term) for term in terms)
        assert log_prob.grad is not None
        assert log_prob.grad[0, 0] == 0
        assert log_prob.grad[0, 1].item() == pytest.approx(-0.5 * math.exp(0.1))
