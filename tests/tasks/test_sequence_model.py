"""The sequence model: padding never matters, gradients neither, and it learns a dictionary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import train_task
from memory import CORE_NAMES, CoreConfig
from tasks.sequence_model import SequenceBatch, SequenceModel, pad_sequences, sequence_loss
from tasks.symbols import Alphabet, Sizes, dictionary

ALPHABET = Alphabet(6)
META_COEF = 0.7


def model(core: str) -> SequenceModel:
    torch.manual_seed(0)
    config = CoreConfig(name=core, hidden_size=10, memory_size=8, heads=2)  # type: ignore[arg-type]
    return SequenceModel(ALPHABET.codes, ALPHABET.codes, 7, config).double()


def ragged() -> list[SequenceBatch]:
    """Three sequences of different length, [T_b, 1]."""
    stream = torch.Generator().manual_seed(0)
    return [dictionary(ALPHABET, sizes, 1, stream) for sizes in (Sizes(2, 1), Sizes(4, 2), Sizes(1, 3))]


def gradients(net: SequenceModel, batch: SequenceBatch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    loss, _ = sequence_loss(net(batch), batch, META_COEF)
    wanted = [p for p in net.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return loss, [torch.zeros_like(p) if g is None else g for p, g in zip(wanted, found, strict=True)]


@pytest.mark.parametrize("core", CORE_NAMES)
def test_a_padded_sequence_scores_as_it_does_alone(core: str) -> None:
    """Loss and gradient of one sequence do not depend on how far it is padded, nor with what."""
    net = model(core)
    single = ragged()[0]
    loss, grads = gradients(net, single)
    for fill in (0, ALPHABET.blank):
        padded = SequenceBatch(*(torch.cat([x, torch.zeros(9, 1, dtype=x.dtype)]) for x in single[:4]))
        padded.tokens[-9:] = fill
        padded_loss, padded_grads = gradients(net, padded)
        torch.testing.assert_close(padded_loss, loss, rtol=1e-12, atol=0)
        for got, expected in zip(padded_grads, grads, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("core", CORE_NAMES)
def test_a_padded_batch_is_the_mean_of_its_sequences(core: str) -> None:
    """Cross entropy is a mean over answers, the memory's loss a mean over valid steps, whatever the padding."""
    net = model(core)
    singles = ragged()
    batch = pad_sequences(singles, padding=0)
    assert batch.tokens.shape == (30, 3)
    _, together = sequence_loss(net(batch), batch, META_COEF)
    alone = [(s, sequence_loss(net(s), s, META_COEF)[1]) for s in singles]
    answers = torch.tensor([float(s.answer.sum()) for s, _ in alone], dtype=torch.float64)
    steps = torch.tensor([float(s.valid.sum()) for s, _ in alone], dtype=torch.float64)
    for name, weight in (("cross_entropy", answers), ("accuracy", answers), ("meta_loss", steps)):
        expected = (torch.stack([figures[name].detach() for _, figures in alone]) * weight).sum()
        torch.testing.assert_close(together[name].detach(), expected / weight.sum(), rtol=1e-12, atol=1e-14)


def test_logits_stand_in_the_order_of_the_answers() -> None:
    net = model("mnm-p")
    singles = ragged()
    batch = pad_sequences(singles, padding=0)
    logits = net(batch).logits
    column = batch.answer.nonzero()[:, 1]
    for position, single in enumerate(singles):
        torch.testing.assert_close(logits[column == position], net(single).logits, rtol=1e-10, atol=1e-12)


def test_noise_is_drawn_for_the_core_that_consumes_it() -> None:
    """Equal streams give equal outputs, another stream other choices, and no noise the best ones."""
    net, batch = model("hard"), pad_sequences(ragged(), padding=0)
    first, again, other = (
        net(net.with_noise(batch, torch.Generator().manual_seed(seed))).logits for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, net(batch).logits)
    assert model("mnm-p").with_noise(batch, torch.Generator()) is batch


@pytest.mark.slow
@pytest.mark.parametrize("core", ["mnm-p", "lstm"])
def test_mnm_p_learns_a_dictionary_while_the_lstm_still_guesses(core: str, tmp_path: Path) -> None:
    """Six symbols, one to three pairs; who knows the images but not which is whose scores 0.7."""
    words = [
        "--symbols",
        "6",
        "--max-items",
        "3",
        "--steps",
        "1500",
        "--log-every",
        "300",
        "--stop-at",
        "0.95",
    ]
    path = tmp_path / "run"
    assert (
        train_task.main(["dictionary", "--core", core, *words, "--device", "cpu", "--run-dir", str(path)])
        == 0
    )
    score = json.loads((path / "result.json").read_text())["best_score"]
    assert score >= 0.95 if core == "mnm-p" else score < 0.8
