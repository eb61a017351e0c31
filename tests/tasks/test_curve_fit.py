"""The curve fit: known optima, exact swaps, replayable losses, what the command writes, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import refusal, same
from PIL import Image
from torch import Tensor

import train_task
from agents.checkpoint import load_checkpoint
from agents.metrics import read_metrics
from memory.hard.estimators import ESTIMATORS
from tasks import TASKS
from tasks.addressing import squared_errors
from tasks.config import CurveFitConfig
from tasks.curve import (
    best_cell,
    grid,
    noisy_quadratic,
    optimal_cells,
    optimal_error,
    switch_points,
    uniform_cells,
)
from tasks.curve_fit import CurveFit
from tasks.trainer import TaskTrainer, build_task

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "task": "curve-fit", "steps": 6, "batch_size": 32, "hidden_size": 8, "layers": 2, "learning_rate": 1e-2,
    "log_every": 3, "device": "cpu",
}  # fmt: skip


def task_of(**options: Any) -> CurveFit:
    task = build_task(CurveFitConfig(**{**SMALL, **options}), CPU)
    assert isinstance(task, CurveFit)
    return task


# The optimum


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (uniform_cells(5), 0.004524),
        (uniform_cells(5)[:4], 0.006520),
        (torch.tensor([1 / 3]), 4 / 45),
        (uniform_cells(2), 0.0619),
        (uniform_cells(3), 0.0170),
        (uniform_cells(4), 0.00786),
        (uniform_cells(9), 0.00118),
        (uniform_cells(17), 0.000304),
        (torch.tensor([0.75, 0.0, 1.0, 0.25, 0.5]), 0.004524),
    ],
)
def test_the_optimal_errors_are_known(cells: Tensor, expected: float) -> None:
    assert optimal_error(cells) == pytest.approx(expected, rel=5e-3)
    x = grid(40_000).double()
    by_sampling = (cells.double()[best_cell(x.square(), cells.double())] - x.square()).square().mean()
    assert optimal_error(cells) == pytest.approx(float(by_sampling), abs=1e-8)


def test_the_best_fit_of_five_cells() -> None:
    expected = torch.tensor([0.3536, 0.6124, 0.7906, 0.9354]).double()
    torch.testing.assert_close(switch_points(uniform_cells(5)), expected, rtol=0, atol=5e-5)
    use = torch.bincount(best_cell(grid(20_000).square(), uniform_cells(5))) / 20_000
    torch.testing.assert_close(use, torch.tensor([0.354, 0.259, 0.178, 0.145, 0.065]), rtol=0, atol=6e-4)


def test_the_best_learned_bank() -> None:
    cells = optimal_cells(5)
    expected = torch.tensor([0.044, 0.219, 0.422, 0.643, 0.877]).double()
    torch.testing.assert_close(cells, expected, rtol=0, atol=6e-4)
    assert optimal_error(cells) == pytest.approx(0.003007, abs=1e-6)
    for cell in range(5):
        for shift in (-0.01, 0.01):
            moved = cells.clone()
            moved[cell] += shift
            assert optimal_error(moved) > optimal_error(cells)


def test_the_data_are_a_noisy_parabola() -> None:
    x, y = noisy_quadratic(20_000, 0.01, torch.Generator().manual_seed(0))
    assert -1 <= x.min() < -0.99
    assert 0.99 < x.max() < 1
    residual = y - x.square()
    assert residual.std().item() == pytest.approx(0.01, rel=0.03)
    assert abs(residual.mean().item()) < 3e-4


# The task


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values \[4, 1\] and targets \[4\]"):
        squared_errors(torch.zeros(4, 1), torch.zeros(4))


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "exact"])
def test_a_batch_with_its_noise_replays_the_loss(estimator: str) -> None:
    task = task_of(estimator=estimator, gumbel_samples=2)
    batch = task.draw(torch.Generator().manual_seed(1))
    (first, figures), (second, _) = task.loss(batch, 0.5), task.loss(batch, 0.5)
    assert torch.equal(first, second)
    assert figures["temperature"] == pytest.approx(0.6**0.5)
    if estimator != "exact":
        assert torch.equal(first, torch.as_tensor(figures["sampled_mse"])), "the value is the error itself"
    first.backward()
    first_layer = next(task.model.address.parameters())
    assert first_layer.grad is not None
    assert first_layer.grad.abs().sum() > 0


def test_enumeration_is_the_mean_over_many_choices() -> None:
    task = task_of(estimator="exact", batch_size=4)
    batch = task.draw(torch.Generator().manual_seed(2))
    exact, _ = task.loss(batch, 0.0)
    generator = torch.Generator().manual_seed(3)
    repeated = batch.x.repeat(5_000)
    noise = task.model.bank.noise(torch.Size((20_000, 5)), generator)
    with torch.no_grad():
        sampled = squared_errors(task.model(repeated, noise=noise).value, batch.y.repeat(5_000))
    assert exact.item() == pytest.approx(sampled.mean().item(), rel=0.03)


@pytest.mark.slow
def test_a_doubled_bank_gives_the_doubled_curve_exactly_and_is_put_back(tmp_path: Path) -> None:
    task = task_of()
    task.model.eval()
    with torch.no_grad():
        figures = task.finish(tmp_path)
        fit = task.fit_over(grid(500))
        assert figures["swap_exact"]
        assert figures["swapped_mse"] == pytest.approx(4 * figures["mse"], rel=1e-6)
        assert torch.equal(task.model.bank.cells, uniform_cells(5))
        task.model.bank.swap(uniform_cells(5).flip(0))
        assert not torch.equal(task.fit_over(grid(500)).value, fit.value)
        task.model.address[-1].weight.copy_(task.model.address[-1].weight.flip(0))  # type: ignore
        task.model.address[-1].bias.copy_(task.model.address[-1].bias.flip(0))  # type: ignore
        assert torch.equal(task.fit_over(grid(500)).value, fit.value), "bank and logits permuted together"


# The command


@pytest.mark.slow
def test_the_command_writes_the_three_figures_and_the_fit(tmp_path: Path) -> None:
    path = tmp_path / "run"
    argv = ["curve-fit", "--steps", "6", "--log-every", "3", "--device", "cpu", "--run-dir", str(path)]
    assert train_task.main(argv) == 0
    for name in ("figure1_samples", "figure2_data", "figure3_fit"):
        with Image.open(path / f"{name}.png") as image:
            assert image.format == "PNG"
            assert min(image.size) > 200
    lines = (path / "fit.csv").read_text().splitlines()
    assert lines[0] == "x,fit,best_fit,cell,best_cell"
    assert len(lines) == 751
    result = json.loads((path / "result.json").read_text())
    assert result["optimal_mse"] == pytest.approx(0.004524, abs=1e-6)
    assert result["excess"] == pytest.approx(result["mse"] - result["optimal_mse"], abs=1e-12)
    assert sum(result["use"]) == pytest.approx(1.0)
    assert {"temperature", "sampled_mse", "valid_excess", "valid_agreement"} <= set(
        read_metrics(path / "metrics.csv")[0]
    )


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Batch norm's running means and the noise of the choices included."""

    def train(name: str, stop: int | None) -> dict[str, Any]:
        config = CurveFitConfig(**SMALL, estimator="gumbel-rao", run_dir=str(tmp_path / name))
        TaskTrainer(config).run(stop_after_updates=stop)
        if stop is not None:
            TaskTrainer(config, resume=True).run()
        return load_checkpoint(tmp_path / name / "checkpoints" / "latest.pt")

    whole, parts = train("whole", None), train("parts", 4)
    keys = ("model", "optimizer", "generator", "updates", "best_score", "sums")
    assert same([whole[key] for key in keys], [parts[key] for key in keys])


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--tau-end", "0"], "--tau-end must be above 0, got 0.0"),
        (["--tau-start", "-1"], "--tau-start must be above 0, got -1.0"),
        (["--cells", "0"], "--cells must be at least 1, got 0"),
        (["--noise", "-0.1"], "--noise must be at least 0, got -0.1"),
        (["--batch-size", "1"], "--batch-size must be at least 2, got 1"),
        (["--estimator", "gumbel"], "unknown estimator 'gumbel' (did you mean gumbel-rao"),
        (["--gumbel-samples", "0"], "--gumbel-samples must be at least 1, got 0"),
        (["--learning-rate", "1e30"], "--learning-rate must be at most 10, got 1e+30"),
    ],
)
def test_bad_options_are_refused_in_one_line(argv: list[str], expected: str, tmp_path: Path) -> None:
    arguments = ["curve-fit", "--device", "cpu", "--run-dir", str(tmp_path / "run"), *argv]
    assert expected in refusal(train_task.main, *arguments)


# Learning


@pytest.mark.slow
def test_the_annealed_run_finds_the_best_fit(tmp_path: Path) -> None:
    """The control, the untrained network, misses by far; so does a bank that lacks its last cell."""
    path = tmp_path / "run"
    assert train_task.main(["curve-fit", "--device", "cpu", "--run-dir", str(path)]) == 0
    result = json.loads((path / "result.json").read_text())
    assert result["excess"] <= 5e-4
    assert result["agreement"] >= 0.95
    assert result["cells_used"] == 5
    assert optimal_error(uniform_cells(5)[:4]) - optimal_error(uniform_cells(5)) > 5e-4
    untrained = build_task(TASKS["curve-fit"].defaults, CPU)
    untrained.model.eval()
    with torch.no_grad():
        assert untrained.evaluate()["excess"] > 0.01
