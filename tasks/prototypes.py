"""The task `prototypes`: compare a user image with ONE prototype out of a bank of images, end to end.

Legend: B batch, n prototypes. A user image [B, 12, 12] is a drawn shape with defects and noise. The network

    addresses   logits [B, n] from the user image alone
    reads       one prototype image, bit for bit (`--read soft`: the mixture by softmax, for comparison)
    compares    answer = scale * mean((user - prototype)^2) + offset, scale and offset learned

Only the answer is supervised, by the difference from the shape that the image was made of. Which prototype
to read, and that one should be read at all, is never told. After training the bank can be replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agents.distributed import make_generator
from agents.files import write_csv
from memory.hard.bank import MemoryBank
from memory.hard.estimators import Choice, choose_best
from tasks.addressing import annealing, finite_logits, read_figures, read_loss, sampler, squared_errors
from tasks.config import PrototypesConfig
from tasks.prototype_figures import Answers, Example, plot_addresses, plot_examples, plot_replacement
from tasks.shapes import SHAPES, SIDE, SPARE, UserImages, difference, draw, prototypes, user_images

VALID_STREAM, TEST_STREAM = 2, 3
VALID_EXAMPLES = 1_024
REPLACED = 0
"""The prototype that is replaced by a new image after training."""


class PrototypesBatch(NamedTuple):
    """User images, the supervised differences and the noise of the choices."""

    users: UserImages
    targets: Tensor
    """[B]."""
    noise: Tensor
    """As `MemoryBank.noise` draws it for logits [B, n]."""


class PrototypesRead(NamedTuple):
    """What the network did with a batch."""

    answer: Tensor
    """[B]."""
    prototype: Tensor
    """What it compared with, [B, 12, 12]."""
    choice: Choice
    """Which cell; with a soft read the one of the largest weight."""
    logits: Tensor
    """Address logits [B, n]."""


class PrototypesModel(nn.Module):
    """Address network, bank of images, comparison."""

    def __init__(self, config: PrototypesConfig) -> None:
        super().__init__()
        self.read = config.read
        self.bank = MemoryBank(
            prototypes(config.shapes), estimator=sampler(config), samples=config.gumbel_samples
        )
        blocks: list[nn.Module] = [nn.Flatten()]
        width = SIDE * SIDE
        for _ in range(config.layers):
            size = config.hidden_size
            blocks += [nn.Linear(width, size), nn.BatchNorm1d(size), nn.ReLU()]
            width = size
        self.address = nn.Sequential(*blocks, nn.Linear(width, config.shapes))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.offset = nn.Parameter(torch.zeros(()))

    def compare(self, images: Tensor, others: Tensor) -> Tensor:
        """The answer for images compared with prototypes, both [..., 12, 12] up to broadcasting."""
        return self.log_scale.exp() * (images - others).square().mean(dim=(-2, -1)) + self.offset

    def mixture(self, logits: Tensor) -> Tensor:
        """All prototypes weighted by softmax, [B, 12, 12]: what a soft read returns."""
        return torch.einsum("bn,nij->bij", logits.softmax(-1), self.bank.cells)

    def forward(
        self, images: Tensor, temperature: float = 1.0, noise: Tensor | None = None
    ) -> PrototypesRead:
        """Address, read, compare; `temperature` and `noise` as for `MemoryBank`."""
        logits = finite_logits(self.address(images))
        if self.read == "soft":
            prototype, choice = self.mixture(logits), choose_best(logits)
        else:
            prototype, choice = self.bank(logits, temperature, noise)
        return PrototypesRead(self.compare(images, prototype), prototype, choice, logits)


class Prototypes:
    """The task under the supervised loop."""

    def __init__(self, config: PrototypesConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.model = PrototypesModel(config).to(device)
        self.valid, self.test = (
            self._batch(count, make_generator(config.seed, stream, torch.device("cpu")))
            for count, stream in ((VALID_EXAMPLES, VALID_STREAM), (config.test_examples, TEST_STREAM))
        )

    def draw(self, generator: torch.Generator) -> PrototypesBatch:
        """Fresh user images, and the noise of their choices."""
        return self._batch(self.config.batch_size, generator)

    def loss(self, batch: PrototypesBatch, progress: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Mean squared error of the answers; a soft read samples nothing, so no estimator has a part in it."""
        temperature = annealing(self.config).at(progress)
        images = batch.users.images
        read: PrototypesRead = self.model(images, temperature, batch.noise)
        errors = squared_errors(read.answer, batch.targets)

        def errors_of_cells() -> Tensor:
            answers = self.model.compare(images.unsqueeze(1), self.model.bank.cells)
            return (answers - batch.targets.unsqueeze(-1)).square()

        if self.config.read == "soft":
            loss = errors.mean()
        else:
            loss = read_loss(self.config, read.logits, read.choice, errors, errors_of_cells)
        return loss, {
            "sampled_mse": errors.mean(),
            "scale": self.model.log_scale.exp(),
            **read_figures(read.logits, read.choice, temperature),
        }

    def evaluate(self) -> dict[str, float]:
        """The score is the error of the answers; the accuracy of the addresses stands beside it."""
        figures = self._figures(self.valid, self.model(self.valid.users.images))
        return {"score": -figures["mse"], "accuracy": figures["accuracy"]}

    def finish(self, directory: Path) -> dict[str, Any]:
        """Test figures, the two swaps, addressing.csv, and pictures of addresses, examples and a swap."""
        read: PrototypesRead = self.model(self.test.users.images)
        bank = self.model.bank.cells.detach().clone()
        shapes = self.test.users.shape
        table = addressing(read, shapes, len(bank))
        write_csv(directory / "addressing.csv", addressing_rows(table))
        plot_addresses(directory / "addressing.png", bank.cpu(), *table)
        plot_examples(directory / "examples.png", self._examples(read))
        inverted = self._read_from(1.0 - bank)
        expected = difference(self.test.users.images, 1.0 - bank[shapes])
        return {
            **self._figures(self.test, read),
            "scale": float(self.model.log_scale.exp()),
            "offset": float(self.model.offset),
            "inverted_mse": float(squared_errors(inverted.answer, expected).mean()),
            "inverted_same_addresses": bool((inverted.choice.cell == read.choice.cell).all()),
            **self._replacement_test(bank, read, directory / "replacement.png"),
        }

    def _replacement_test(self, bank: Tensor, before: PrototypesRead, picture: Path) -> dict[str, Any]:
        """Put a new image in the place of one prototype: only the answers of its user images may change."""
        replaced = bank.clone()
        replaced[REPLACED] = draw(SPARE).to(bank)
        after = self._read_from(replaced)
        users = self.test.users
        of_shape = users.shape == REPLACED
        expected = difference(users.images, replaced[users.shape])
        first = int(of_shape.nonzero()[0]) if of_shape.any() else 0
        plot_replacement(
            picture,
            [image.cpu() for image in (users.images[first], bank[REPLACED], replaced[REPLACED])],
            Answers(self.test.targets.cpu(), before.answer.cpu()),
            Answers(expected.cpu(), after.answer.cpu()),
            of_shape.cpu(),
        )
        untouched = before.choice.cell != REPLACED
        return {
            "replaced_mse": float(squared_errors(after.answer, expected)[of_shape].mean()),
            "replaced_answer_before": float(before.answer[of_shape].mean()),
            "replaced_answer_after": float(after.answer[of_shape].mean()),
            "replaced_answer_expected": float(expected[of_shape].mean()),
            "others_unchanged": bool((after.answer == before.answer)[untouched].all()),
        }

    def _read_from(self, cells: Tensor) -> PrototypesRead:
        """The test with other cells in the bank, which is put back afterwards."""
        own = self.model.bank.cells.detach().clone()
        self.model.bank.swap(cells)
        read: PrototypesRead = self.model(self.test.users.images)
        self.model.bank.swap(own)
        return read

    def _figures(self, batch: PrototypesBatch, read: PrototypesRead) -> dict[str, float]:
        return {
            "mse": float(squared_errors(read.answer, batch.targets).mean()),
            "accuracy": float((read.choice.cell == batch.users.shape).double().mean()),
        }

    def _examples(self, read: PrototypesRead) -> list[Example]:
        """One user image of every shape."""
        users, mixture = self.test.users, self.model.mixture(read.logits)
        found = [(users.shape == shape).nonzero() for shape in range(self.config.shapes)]
        return [
            Example(
                users.images[row].cpu(),
                read.prototype[row].cpu(),
                mixture[row].cpu(),
                float(read.answer[row]),
                float(self.test.targets[row]),
            )
            for row in (int(rows[0]) for rows in found if len(rows))
        ]

    def _batch(self, count: int, generator: torch.Generator) -> PrototypesBatch:
        bank = prototypes(self.config.shapes)
        users = user_images(bank, count, self.config.defects, self.config.noise, generator)
        targets = difference(users.images, bank[users.shape])
        noise = self.model.bank.noise(torch.Size((count, self.config.shapes)), generator)
        on_device = UserImages(users.images.to(self.device), users.shape.to(self.device))
        return PrototypesBatch(on_device, targets.to(self.device), noise.to(self.device))


def addressing(read: PrototypesRead, shapes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """How often user images of a shape (row) read a cell (column), and the mean softmax(h); both [n, n]."""
    rows = torch.nn.functional.one_hot(shapes, count).float()
    number = rows.sum(0).clamp(min=1.0)[:, None]
    chosen = torch.nn.functional.one_hot(read.choice.cell, count).float()
    return (rows.T @ chosen / number).cpu(), (rows.T @ read.logits.softmax(-1) / number).cpu()


def addressing_rows(table: tuple[Tensor, Tensor]) -> list[dict[str, Any]]:
    """One row per shape and cell, for a CSV file."""
    names = list(SHAPES)
    return [
        {
            "shape": names[shape],
            "cell": names[cell],
            "read": round(float(table[0][shape, cell]), 5),
            "probability": round(float(table[1][shape, cell]), 5),
        }
        for shape in range(len(table[0]))
        for cell in range(len(table[0]))
    ]
