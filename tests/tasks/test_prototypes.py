"""The prototype comparison: its images, exact swaps on a network built by hand, the command, and learning."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import refusal
from PIL import Image
from torch import Tensor, nn

import train_task
from memory.hard.estimators import ESTIMATORS
from tasks import TASKS
from tasks.config import SHAPE_COUNT, PrototypesConfig
from tasks.prototypes import Prototypes, PrototypesBatch
from tasks.shapes import DEFECT, SHAPES, SIDE, SPARE, UserImages, difference, draw, prototypes, user_images
from tasks.trainer import build_task

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "task": "prototypes", "steps": 4, "batch_size": 16, "hidden_size": 8, "layers": 1, "test_examples": 200,
    "device": "cpu",
}  # fmt: skip


def task_of(**options: Any) -> Prototypes:
    task = build_task(PrototypesConfig(**{**SMALL, **options}), CPU)
    assert isinstance(task, Prototypes)
    return task


class MatchedFilter(nn.Module):
    """Address logits that name the nearest prototype, or with `shift` another one."""

    def __init__(self, sharpness: float, shift: int = 0) -> None:
        super().__init__()
        self.sharpness, self.shift = sharpness, shift

    def forward(self, images: Tensor) -> Tensor:
        distance = difference(images.unsqueeze(1), prototypes(len(SHAPES)))
        return -self.sharpness * distance.roll(self.shift, dims=1)


@torch.no_grad()
def built_by_hand(sharpness: float = 100.0, shift: int = 0, **options: Any) -> Prototypes:
    """A task whose network addresses by a matched filter and compares with the true scale and offset."""
    task = task_of(**options)
    task.model.address = MatchedFilter(sharpness, shift)  # type: ignore[assignment]
    task.model.log_scale.fill_(math.log(10.0))
    task.model.eval()
    return task


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures alone; the pictures cost seconds and have a test of their own."""
    for name in ("plot_addresses", "plot_examples", "plot_replacement"):
        monkeypatch.setattr(f"tasks.prototypes.{name}", lambda *arguments: None)


# The images


def test_the_shapes_are_ink_on_paper_and_far_apart() -> None:
    images = torch.stack([*prototypes(len(SHAPES)), draw(SPARE)])
    assert images.shape == (SHAPE_COUNT + 1, SIDE, SIDE)
    assert set(images.unique().tolist()) == {0.0, 1.0}
    apart = difference(images.unsqueeze(1), images) + 10.0 * torch.eye(len(images))
    # Three defects change at most 27 pixels; the nearest two shapes differ in more.
    assert apart.min() > 10.0 * 3 * DEFECT**2 / SIDE**2


def test_user_images_are_prototypes_with_square_defects() -> None:
    bank = prototypes(8)
    users = user_images(bank, 500, 3, 0.0, torch.Generator().manual_seed(0))
    changed = (users.images != bank[users.shape]).sum(dim=(1, 2))
    assert changed.max() <= 3 * DEFECT**2
    assert (changed == 0).any()
    assert (changed == DEFECT**2).any()
    assert changed[changed > 0].min() == DEFECT**2
    assert set(users.shape.tolist()) == set(range(8))
    plain = user_images(bank, 50, 0, 0.0, torch.Generator().manual_seed(1))
    assert torch.equal(plain.images, bank[plain.shape])
    noisy = user_images(bank, 500, 0, 0.1, torch.Generator().manual_seed(2))
    assert (noisy.images - bank[noisy.shape]).std().item() == pytest.approx(0.1, rel=0.02)


def test_one_defect_costs_ten_times_nine_pixels() -> None:
    image = prototypes(1)[0]
    defect = image.clone()
    defect[2:5, 7:10] = 1.0 - defect[2:5, 7:10]
    assert difference(defect, image).item() == pytest.approx(10.0 * 9 / 144)
    assert difference(1.0 - image, image).item() == 10.0


# The task


@pytest.mark.parametrize("read", ["hard", "soft"])
def test_the_network_is_never_told_the_shape(read: str) -> None:
    task = task_of(read=read)
    batch = task.draw(torch.Generator().manual_seed(3))
    users = UserImages(batch.users.images, batch.users.shape.flip(0))
    other = PrototypesBatch(users, batch.targets, batch.noise)
    assert torch.equal(task.loss(batch, 0.0)[0], task.loss(other, 0.0)[0])


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "exact"])
def test_every_estimator_replays_and_trains_the_addresses(estimator: str) -> None:
    task = task_of(estimator=estimator, gumbel_samples=2)
    batch = task.draw(torch.Generator().manual_seed(4))
    (first, figures), (second, _) = task.loss(batch, 0.5), task.loss(batch, 0.5)
    assert torch.equal(first, second)
    assert (estimator == "exact") is not torch.equal(first, torch.as_tensor(figures["sampled_mse"]))
    first.backward()
    weight = next(task.model.address.parameters())
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


@pytest.mark.usefixtures("no_pictures")
@torch.no_grad()
def test_a_hard_read_passes_every_swap_exactly(tmp_path: Path) -> None:
    task = built_by_hand()
    figures = task.finish(tmp_path)
    assert figures["accuracy"] == 1.0
    assert max(figures[name] for name in ("mse", "inverted_mse", "replaced_mse")) < 1e-9
    assert figures["others_unchanged"]
    assert figures["inverted_same_addresses"]
    assert figures["replaced_answer_after"] == pytest.approx(figures["replaced_answer_expected"], abs=1e-5)
    assert figures["replaced_answer_after"] > figures["replaced_answer_before"] + 1.0
    assert torch.equal(task.model.bank.cells, prototypes(len(SHAPES))), "the bank is put back"
    read = task.model(task.test.users.images)
    assert torch.equal(read.prototype, task.model.bank.cells[read.choice.cell])
    rows = (tmp_path / "addressing.csv").read_text().splitlines()
    assert rows[0] == "shape,cell,read,probability"
    assert len(rows) == 1 + len(SHAPES) ** 2
    assert rows[1].startswith("disc,disc,1.0,")


@pytest.mark.usefixtures("no_pictures")
@torch.no_grad()
def test_the_figures_fall_if_the_addresses_are_wrong_or_the_read_is_a_mixture(tmp_path: Path) -> None:
    """The controls of the test above."""
    wrong = built_by_hand(shift=1).finish(tmp_path)
    assert wrong["accuracy"] == 0.0
    assert min(wrong[name] for name in ("mse", "inverted_mse", "replaced_mse")) > 0.01
    mixed = built_by_hand(sharpness=1.0, read="soft").finish(tmp_path)
    assert mixed["accuracy"] == 1.0, "the largest weight is on the right prototype"
    assert not mixed["others_unchanged"]
    assert mixed["mse"] > 1e-4


# The command


@pytest.mark.slow
def test_the_command_writes_its_pictures(tmp_path: Path) -> None:
    path = tmp_path / "run"
    argv = ["--steps", "4", "--test-examples", "300", "--device", "cpu", "--run-dir", str(path)]
    assert train_task.main(["prototypes", *argv]) == 0
    for name in ("addressing", "examples", "replacement"):
        with Image.open(path / f"{name}.png") as image:
            assert image.format == "PNG"
            assert min(image.size) > 400
    result = json.loads((path / "result.json").read_text())
    assert 0.0 <= result["accuracy"] <= 1.0
    assert result["others_unchanged"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--shapes", "1"], "--shapes must be at least 2, got 1"),
        (["--shapes", "9"], "--shapes must be at most 8, got 9"),
        (["--defects", "-1"], "--defects must be at least 0, got -1"),
        (["--read", "sof"], "unknown read 'sof' (did you mean soft?)"),
        (["--tau-end", "0"], "--tau-end must be above 0, got 0.0"),
        (["--learning-rate", "1e30"], "--learning-rate must be at most 10, got 1e+30"),
    ],
)
def test_bad_options_are_refused_in_one_line(argv: list[str], expected: str, tmp_path: Path) -> None:
    arguments = ["prototypes", "--device", "cpu", "--run-dir", str(tmp_path / "run"), *argv]
    assert expected in refusal(train_task.main, *arguments)


# Learning


@pytest.mark.slow
def test_the_right_prototype_is_found_though_only_the_difference_is_supervised(tmp_path: Path) -> None:
    """The control, the untrained network, reads the wrong prototype."""
    path = tmp_path / "run"
    assert train_task.main(["prototypes", "--device", "cpu", "--run-dir", str(path)]) == 0
    result = json.loads((path / "result.json").read_text())
    assert result["accuracy"] >= 0.98
    assert result["mse"] <= 1e-3
    assert result["inverted_mse"] <= 1e-2
    assert result["replaced_mse"] <= 1e-2
    assert result["others_unchanged"]
    untrained = build_task(TASKS["prototypes"].defaults, CPU)
    untrained.model.eval()
    with torch.no_grad():
        assert untrained.evaluate()["accuracy"] < 0.5
