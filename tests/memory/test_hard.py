"""Hard addressing: noise, straight-through choice, annealing, estimators against enumeration; mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from memory.hard.estimators import (
    ESTIMATORS,
    EstimatorName,
    choice_noise,
    choose,
    choose_best,
    conditional_perturbed,
    expected_loss,
    score_function,
)
from memory.hard.straight_through import Annealing, gumbel_noise, straight_through

# The three-cell problem: a read of vector cells, compared with a target by the squared distance.
LOGITS = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)
CELLS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -0.5]], dtype=torch.float64)
TARGET = torch.tensor([0.4, 0.7], dtype=torch.float64)
SAMPLES = 100_000


def loss_of(weights: Tensor) -> Tensor:
    return (weights @ CELLS - TARGET).square().sum(-1)


def exact_gradient() -> Tensor:
    logits = LOGITS.clone().requires_grad_()
    expected_loss(logits, loss_of(torch.eye(3, dtype=torch.float64))).backward()
    assert logits.grad is not None
    return logits.grad


def sampled_gradients(estimator: EstimatorName, temperature: float, seed: int, samples: int = 10) -> Tensor:
    """Gradients of many independent choices, [SAMPLES, 3]."""
    generator = torch.Generator().manual_seed(seed)
    logits = LOGITS.expand(SAMPLES, 3).clone().requires_grad_()
    noise = choice_noise(logits.shape, estimator, samples, generator)
    choice = choose(logits, noise, temperature, estimator)
    loss = loss_of(choice.weights)
    if estimator == "reinforce":
        baseline = float(expected_loss(LOGITS, loss_of(torch.eye(3, dtype=torch.float64))))
        loss = loss + score_function(choice.log_probability, loss, baseline)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return gradient


def gradient_of_choice(cell: int, estimator: EstimatorName) -> Tensor:
    """The gradient if `cell` is chosen, for estimators that depend on the noise through the cell alone."""
    logits = LOGITS.clone().requires_grad_()
    noise = torch.full((3,), -50.0)
    noise[cell] = 50.0
    choice = choose(logits, noise, 1.0, estimator)
    assert choice.cell == cell
    loss = loss_of(choice.weights)
    if estimator == "reinforce":
        loss = loss + score_function(choice.log_probability, loss, 1.7)
    (gradient,) = torch.autograd.grad(loss, logits)
    return gradient


def standard_errors_apart(sample: Tensor, expected: Tensor) -> Tensor:
    """How many standard errors of the mean lie between the mean of `sample` and `expected`."""
    return (sample.mean(0) - expected).abs() / (sample.std(0) / math.sqrt(len(sample)))


# Noise


def test_noise_is_standard_gumbel_and_float32() -> None:
    noise = gumbel_noise((200_000,), torch.Generator().manual_seed(0))
    assert noise.dtype == torch.float32
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)
    for point in (-1.0, 0.0, 1.0, 3.0):
        assert (noise <= point).float().mean().item() == pytest.approx(math.exp(-math.exp(-point)), abs=0.004)


def test_an_exponential_of_exactly_zero_gives_finite_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self, generator=None: self.zero_())
    assert gumbel_noise((4,)).isfinite().all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_fixed_seed_gives_fixed_cells(estimator: EstimatorName) -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(3))

    def cells(seed: int) -> Tensor:
        noise = choice_noise(logits.shape, estimator, 2, torch.Generator().manual_seed(seed))
        return choose(logits, noise, 0.5, estimator).cell

    assert torch.equal(cells(1), cells(1))
    assert not torch.equal(cells(1), cells(2))


# The choice


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("estimator", ["straight_through", *ESTIMATORS])
def test_the_value_is_exactly_one_hot(dtype: torch.dtype, estimator: str) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = (3.0 * torch.randn(20_000, 5, generator=generator)).to(dtype).requires_grad_()
    if estimator == "straight_through":
        noise = gumbel_noise(logits.shape, generator)
        weights = straight_through(logits, noise, 0.67)
    else:
        name: EstimatorName = estimator  # type: ignore[assignment]
        weights = choose(logits, choice_noise(logits.shape, name, 3, generator), 0.67, name).weights
    assert weights.dtype == dtype
    assert torch.equal(weights, torch.nn.functional.one_hot(weights.argmax(-1), 5).to(dtype))


@pytest.mark.parametrize("temperature", [0.1, 0.67, 2.0])
def test_the_gradient_is_that_of_the_soft_choice(temperature: float) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(8, 6, generator=generator).double().requires_grad_()
    noise, towards = gumbel_noise((8, 6), generator), torch.randn(8, 6, generator=generator).double()
    (hard,) = torch.autograd.grad((straight_through(logits, noise, temperature) * towards).sum(), logits)
    soft = torch.softmax((logits + noise) / temperature, dim=-1)
    (expected,) = torch.autograd.grad((soft * towards).sum(), logits)
    torch.testing.assert_close(hard, expected, rtol=0, atol=1e-15)
    (chosen,) = torch.autograd.grad((choose(logits, noise, temperature).weights * towards).sum(), logits)
    assert torch.equal(chosen, hard)


@pytest.mark.parametrize("temperature", [0.1, 5.0])
def test_cells_are_chosen_as_often_as_the_softmax_says(temperature: float) -> None:
    """Chi-square with 3 degrees of freedom stays below its 99.9% point, whatever the temperature."""
    logits = torch.tensor([0.3, -0.5, 0.8, -2.0])
    noise = gumbel_noise((100_000, 4), torch.Generator().manual_seed(4))
    weights = straight_through(logits.expand(100_000, 4), noise, temperature)
    expected = 100_000 * logits.softmax(0)
    assert ((weights.sum(0) - expected).square() / expected).sum().item() < 16.27


@pytest.mark.parametrize("estimator", ["straight_through", *ESTIMATORS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_and_temperatures_stay_finite(estimator: str, dtype: torch.dtype) -> None:
    rows = torch.tensor([[80.0, -80.0, 0.0], [-80.0, -80.0, 80.0], [80.0, 80.0, -torch.inf]], dtype=dtype)
    for temperature in (1e-9, 0.3, 100.0):
        logits = rows.clone().requires_grad_()
        generator = torch.Generator().manual_seed(5)
        if estimator == "straight_through":
            weights = straight_through(logits, gumbel_noise(logits.shape, generator), temperature)
        else:
            name: EstimatorName = estimator  # type: ignore[assignment]
            choice = choose(logits, choice_noise(logits.shape, name, 4, generator), temperature, name)
            assert choice.log_probability.isfinite().all()
            weights = choice.weights
        if weights.requires_grad:
            (gradient,) = torch.autograd.grad((weights * torch.tensor([1.0, -2.0, 3.0])).sum(), logits)
            assert gradient.isfinite().all()
            assert gradient[2, 2] == 0, "a masked cell has no gradient"
        assert weights[2, 2] == 0, "a masked cell is never chosen"


def test_choosing_the_best_is_the_choice_without_noise() -> None:
    logits = torch.randn(100, 6, generator=torch.Generator().manual_seed(6))
    best = choose_best(logits)
    assert torch.equal(best.cell, logits.argmax(-1))
    assert torch.equal(best.weights, straight_through(logits, torch.zeros_like(logits), 1.0))
    assert torch.equal(best.log_probability, logits.log_softmax(-1).amax(-1))


# The estimators on the three-cell problem


def test_the_exact_gradient_of_the_three_cell_problem() -> None:
    """Golden: sum_i p_i L_i by hand; p = (.32278, .14503, .53219), L = (.85, .25, 3.4)."""
    p = LOGITS.softmax(0)
    losses = torch.tensor([0.85, 0.25, 3.4], dtype=torch.float64)
    torch.testing.assert_close(loss_of(torch.eye(3, dtype=torch.float64)), losses, rtol=0, atol=1e-15)
    torch.testing.assert_close(exact_gradient(), p * (losses - p @ losses), rtol=0, atol=1e-15)
    torch.testing.assert_close(
        exact_gradient(), torch.tensor([-0.40995, -0.27122, 0.68117]).double(), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("estimator", ["reinmax", "reinforce"])
def test_reinmax_and_reinforce_are_unbiased_on_a_quadratic_loss(estimator: EstimatorName) -> None:
    """Enumerated over the three choices, so the comparison is exact; REINFORCE with any baseline."""
    p = LOGITS.softmax(0)
    mean = torch.stack([p[cell] * gradient_of_choice(cell, estimator) for cell in range(3)]).sum(0)
    torch.testing.assert_close(mean, exact_gradient(), rtol=0, atol=1e-15)


def test_reinmax_has_the_gradient_of_the_published_formula() -> None:
    """pi_1 = softmax(stop(log pi - theta) + theta) at the midpoint, result 2 pi_1 - pi_0 / 2."""
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    noise, towards = gumbel_noise((4, 5)), torch.randn(4, 5, dtype=torch.float64)
    choice = choose(logits, noise, 1.3, "reinmax")
    (mine,) = torch.autograd.grad((choice.weights * towards).sum(), logits)
    midpoint = ((logits / 1.3).softmax(-1) + choice.weights).detach() / 2
    pi_1 = ((midpoint.log() - logits).detach() + logits).softmax(-1)
    (published,) = torch.autograd.grad(((2 * pi_1 - 0.5 * logits.softmax(-1)) * towards).sum(), logits)
    torch.testing.assert_close(mine, published, rtol=0, atol=1e-14)


def test_the_bias_of_the_straight_through_choice_grows_with_the_temperature() -> None:
    distance = [
        (sampled_gradients("st", tau, 7).mean(0) - exact_gradient()).norm().item() for tau in (0.1, 0.67, 2.0)
    ]
    assert distance[0] < 0.05
    assert distance == sorted(distance)


def test_the_variance_of_the_straight_through_choice_falls_with_the_temperature() -> None:
    variance = [sampled_gradients("st", tau, 8).var(0).sum().item() for tau in (0.1, 0.3, 0.67, 2.0)]
    assert variance == sorted(variance, reverse=True)


@pytest.mark.parametrize("temperature", [0.3, 0.67, 1.0, 2.0])
def test_mean_and_variance_equal_those_of_torchs_own_sampler(temperature: float) -> None:
    torch.manual_seed(9)
    logits = LOGITS.expand(SAMPLES, 3).clone().requires_grad_()
    theirs = torch.nn.functional.gumbel_softmax(logits, temperature, hard=True)
    (reference,) = torch.autograd.grad(loss_of(theirs).sum(), logits)
    mine = sampled_gradients("st", temperature, 10)
    assert (standard_errors_apart(mine, reference.mean(0)) < 5).all()
    torch.testing.assert_close(mine.var(0), reference.var(0), rtol=0.05, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "ratio"), [(0.3, 0.33), (0.67, 0.59), (1.0, 0.75), (2.0, 0.93)])
def test_gumbel_rao_keeps_the_mean_and_lowers_the_variance(temperature: float, ratio: float) -> None:
    plain = sampled_gradients("st", temperature, 11)
    averaged = sampled_gradients("gumbel-rao", temperature, 12)
    assert (standard_errors_apart(plain, averaged.mean(0)) < 5).all()
    measured = (averaged.var(0).sum() / plain.var(0).sum()).item()
    assert measured == pytest.approx(ratio, abs=0.04)


def test_noise_redrawn_given_the_choice_has_the_right_law() -> None:
    """Against rejection: keep only those fresh draws that happen to choose cell 1."""
    generator = torch.Generator().manual_seed(13)
    fresh = LOGITS + gumbel_noise((SAMPLES, 3), generator)
    accepted = fresh[fresh.argmax(-1) == 1]
    index = torch.ones(SAMPLES, dtype=torch.int64)
    redrawn = conditional_perturbed(
        LOGITS.expand(SAMPLES, 3), index, gumbel_noise((1, SAMPLES, 3), generator)
    )[0]
    assert (redrawn.argmax(-1) == 1).all()
    for power in (1, 2):
        expected = accepted.pow(power).mean(0)
        spread = accepted.pow(power).std(0) / math.sqrt(len(accepted))
        assert ((redrawn.pow(power).mean(0) - expected).abs() < 5 * spread).all()


def test_reinforce_has_a_larger_variance_without_its_baseline() -> None:
    """Enumerated: the variance over the three choices with baseline mean loss and with 0."""
    p, losses = LOGITS.softmax(0), loss_of(torch.eye(3, dtype=torch.float64))
    scores = torch.eye(3, dtype=torch.float64) - p

    def variance(baseline: Tensor | float) -> float:
        gradients = (losses - baseline)[:, None] * scores
        return (p @ (gradients - exact_gradient()).square().sum(-1)).item()

    assert sampled_gradients("reinforce", 1.0, 14).var(0).sum().item() == pytest.approx(
        variance(p @ losses), rel=0.05
    )
    assert variance(p @ losses) < 0.7 * variance(0.0)


# The temperature over time


def test_annealing_is_geometric_and_fixed_if_both_ends_agree() -> None:
    annealing = Annealing()
    assert annealing.at(0.0) == 2.0
    assert annealing.at(1.0) == pytest.approx(0.3)
    assert annealing.at(0.5) == pytest.approx(math.sqrt(0.6))
    assert Annealing(0.67, 0.67).at(0.4) == 0.67
    with pytest.raises(ValueError, match="share of the training"):
        annealing.at(1.5)


# Mistakes


def choose_st(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    return choose(logits, noise, temperature).weights


@pytest.mark.parametrize("function", [straight_through, choose_st])
@pytest.mark.parametrize(
    ("logits", "noise_shape", "temperature", "message"),
    [
        (torch.zeros(2, 3), (2, 3), 0.0, "temperature must be finite and above 0, got 0.0"),
        (torch.zeros(2, 3), (2, 3), -1.0, "temperature must be finite and above 0, got -1.0"),
        (torch.zeros(2, 3), (2, 3), math.nan, "temperature must be finite and above 0, got nan"),
        (torch.zeros(2, 3), (3,), 1.0, r"shape of the logits \[2, 3\], got \[3\]"),
        (torch.zeros(2, 0), (2, 0), 1.0, "at least one cell"),
        (torch.tensor(1.0), (), 1.0, "at least one cell"),
        (torch.zeros(2, 3, dtype=torch.int64), (2, 3), 1.0, "floating point"),
        (torch.tensor([[0.0, math.nan]]), (1, 2), 1.0, "NaN"),
        (torch.tensor([[0.0, math.inf]]), (1, 2), 1.0, "inf"),
        (torch.tensor([[-math.inf, -math.inf]]), (1, 2), 1.0, "mask every cell"),
    ],
)
def test_impossible_choices_are_refused(
    function: Callable[[Tensor, Tensor, float], Tensor],
    logits: Tensor,
    noise_shape: tuple[int, ...],
    temperature: float,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        function(logits, torch.zeros(noise_shape), temperature)


def test_impossible_estimators_are_refused() -> None:
    name: EstimatorName = "straight"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="unknown estimator 'straight'; known estimators: st, gumbel-rao"):
        choose(torch.zeros(1, 2), torch.zeros(1, 2), 1.0, name)
    with pytest.raises(ValueError, match="at least one sample"):
        choice_noise((1, 2), "gumbel-rao", 0)
    with pytest.raises(ValueError, match=r"\[1 \+ samples, \*logits\]"):
        choose(torch.zeros(1, 2), torch.zeros(1, 2), 1.0, "gumbel-rao")
    with pytest.raises(ValueError, match="one loss per cell"):
        expected_loss(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="one loss per choice"):
        score_function(torch.zeros(2), torch.zeros(2, 2), 0.0)
