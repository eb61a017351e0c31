"""bAbI under the supervised loop: errors as the literature counts them, what a run writes, the maps of writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checks import refusal
from torch import Tensor, nn

import train_task
from memory import CoreConfig
from recall.render.similarity import rebinding_score
from tasks.babi.config import BabiConfig
from tasks.babi.generate import generate
from tasks.babi.reader import read_text
from tasks.babi.scores import Errors, error_table
from tasks.babi.sequences import Vocabulary
from tasks.babi.task import BabiTask
from tasks.babi.writes import DEMONSTRATION, maps_of_story, story_to_show
from tasks.sequence_model import SequenceBatch, SequenceModel, SequenceOutput

TINY = ["babi", "--hidden-size", "8", "--memory-size", "6", "--embedding-size", "5", "--batch-size", "4",
        "--steps", "4", "--log-every", "2", "--device", "cpu"]  # fmt: skip
SIZES = {"hidden_size": 8, "memory_size": 6, "embedding_size": 5, "batch_size": 4}
LISTS = "1 Ann got the milk.\n2 Ann got the apple.\n3 What has Ann? \tmilk,apple\t1 2\n4 What has Bob? \tnothing\t1\n"


def data(directory: Path, text: str, task: int = 8) -> str:
    """A data directory in which all splits of a task hold `text`."""
    for split in ("train", "valid", "test"):
        (directory / f"qa{task}_{split}.txt").write_text(text)
    return str(directory)


class Constant(nn.Module):
    """Gives the same preferences everywhere."""

    def __init__(self, preferences: list[float]) -> None:
        super().__init__()
        self.preferences = torch.tensor(preferences)

    def forward(self, batch: SequenceBatch) -> SequenceOutput:
        zero: Tensor = torch.zeros(batch.valid.shape)
        return SequenceOutput(self.preferences.expand(int(batch.answer.sum()), -1), zero, zero)


@pytest.mark.slow
def test_a_constant_answer_is_wrong_as_often_as_counted():
    task = BabiTask(BabiConfig(task="babi", tasks="6,15", **SIZES), torch.device("cpu"))
    task.model = Constant([float(answer in ("no", "wolf")) for answer in task.vocabulary.answers])  # type: ignore
    task.model.preferences[task.vocabulary.answers.index("no")] = 2.0
    errors = task.errors("valid")
    said = [q.answers[0] for s in read_text(generate(6, 200, "valid")) for q in s.questions]
    assert errors.asked == {6: 1000, 15: 800}
    assert errors.wrong[6] == 1000 - said.count("no")
    assert errors.of(15) == 100.0  # "wolf" is the second choice
    figures = task.evaluate()
    assert figures["score"] == pytest.approx(1.0 - (errors.of(6) + 100.0) / 200.0)
    assert figures["failed"] == 2


@pytest.mark.parametrize(("word_answers", "classes", "wrong"), [(False, 2, 1), (True, 3, 2)])
def test_a_list_is_right_only_as_a_whole(tmp_path, word_answers, classes, wrong):
    config = BabiConfig(
        task="babi", tasks="8", data=data(tmp_path, LISTS), word_answers=word_answers, **SIZES
    )
    task = BabiTask(config, torch.device("cpu"))
    assert len(task.vocabulary.answers) == classes
    first = next(n for n, answer in enumerate(task.vocabulary.answers) if "milk" in answer)
    task.model = Constant([float(n == first) for n in range(classes)])  # type: ignore[assignment]
    # One class: the list is right, "nothing" is wrong. A blank per word: "milk" alone is not the list.
    assert (task.errors("test").wrong[8], task.errors("test").asked[8]) == (wrong, 2)


def test_the_table_counts_failed_tasks():
    valid, test = Errors({1: 5, 2: 50}, {1: 1000, 2: 1000}), Errors({1: 50, 2: 51}, {1: 1000, 2: 1000})
    assert (test.failed, test.mean, valid.failed) == (1, pytest.approx(5.05), 0)
    table = error_table(valid, test).splitlines()
    assert table[2] == "| 1: 1 supporting fact | 0.5 | 5.0 |"
    assert table[-2:] == ["| mean error % | 2.75 | 5.05 |", "| failed tasks (error > 5%) | 0 | 1 |"]


@pytest.mark.slow
@pytest.mark.parametrize("core", ["mnm-p", "hard"])
def test_a_run_without_data_says_so_and_writes_its_tables(core, tmp_path, capsys):
    run = tmp_path / "run"
    assert train_task.main([*TINY, "--tasks", "15,1", "--core", core, "--run-dir", str(run)]) == 0
    assert "generated" in capsys.readouterr().out
    result = json.loads((run / "result.json").read_text())
    assert result["stories"] == "generated"
    with (run / "errors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["task"], row["questions"]) for row in rows] == [("1", "1000"), ("15", "800")]
    for row in rows:
        assert float(row["test_error"]) == pytest.approx(result[f"test_error_task{row['task']}"], abs=1e-3)
    assert "mean error %" in (run / "errors.md").read_text()
    for name in ("writes.png", "writes.csv"):
        assert (run / name).exists() == (core == "mnm-p")


@pytest.mark.slow
def test_a_run_in_pieces_equals_one_run_and_may_move_its_data(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    text = generate(2, 12)
    here, there = (data(tmp_path / name, text, task=2) for name in ("here", "there"))
    options = [*TINY, "--tasks", "2", "--no-anneal", "--core", "lstm"]
    train_task.main(
        [*options, "--data", here, "--run-dir", str(tmp_path / "parts"), "--steps", "2", "--no-anneal"]
    )
    train_task.main(["--run-dir", str(tmp_path / "parts"), "--resume", "--data", there, "--steps", "4"])
    train_task.main([*options, "--data", here, "--run-dir", str(tmp_path / "plain")])
    plain, parts = (
        torch.load(tmp_path / name / "checkpoints" / "latest.pt", weights_only=False)["model"]
        for name in ("plain", "parts")
    )
    assert all(torch.equal(plain[name], parts[name]) for name in plain)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--tasks", "3"], "task 3 needs the official files"),
        (["--tasks", "0"], "bAbI has tasks 1 to 20, got 0"),
        (["--tasks", "1;2"], "--tasks must be numbers"),
        (["--data", "no/such/place"], "no bAbI data at no/such/place"),
        (["--window", "0"], "--window must be at least 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(argv, expected, tmp_path):
    assert expected in refusal(train_task.main, *TINY, *argv, "--run-dir", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_damaged_file_is_named_with_its_line(tmp_path):
    directory = data(tmp_path, LISTS)
    (tmp_path / "qa8_valid.txt").write_text(LISTS + "7 Ann sleeps.\n")
    message = refusal(
        train_task.main, *TINY, "--data", directory, "--tasks", "8", "--run-dir", str(tmp_path / "r")
    )
    assert "qa8_valid.txt, line 5: line number 7, expected 5" in message


def places_share_a_key() -> tuple[SequenceModel, Vocabulary]:
    """A model set by hand: each word has a key and a value of its own, but all places have one key."""
    [story] = read_text(DEMONSTRATION)
    vocabulary = Vocabulary.of([story])
    count, size = len(vocabulary.words), 64
    core = CoreConfig("mnm-p", hidden_size=count, memory_size=size, controller="feedforward")
    model = SequenceModel(count, 1, count, core)
    places = [vocabulary.words.index(word) for word in ("garden", "kitchen", "hallway")]
    keys, values = torch.where(
        torch.rand(2, size, count, generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0
    )
    keys[:, places] = keys[:, places[:1]]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embedding.weight.copy_(torch.eye(count))
        cell, interaction = model.core.cell, model.core.interaction
        cell.weight[:, :count] = 20.0 * torch.eye(count)
        interaction.weight[size : 2 * size], interaction.weight[2 * size : 3 * size] = (
            20.0 * keys,
            20.0 * values,
        )
        model.core.rate.bias.fill_(20.0)
    return model, vocabulary


def test_maps_of_a_hand_built_memory():
    """The pattern of the document's figure: a place replaces a place under one key."""
    model, vocabulary = places_share_a_key()
    [story] = read_text(DEMONSTRATION)
    maps = maps_of_story(model, vocabulary, story)
    words = list(story.tokens)
    assert maps.keys.shape == (len(words), len(words))
    np.testing.assert_allclose(maps.beta, 1.0)
    same = np.array([[a == b for b in words] for a in words])
    place = np.array([word in ("garden", "kitchen", "hallway") for word in words])
    np.testing.assert_allclose(maps.keys[same | np.outer(place, place)], 1.0, atol=1e-5)
    np.testing.assert_allclose(maps.values[same], 1.0, atol=1e-5)
    assert maps.keys[~(same | np.outer(place, place))].max() < 0.6
    assert maps.values[~same].max() < 0.6
    garden, hallway = words.index("garden"), words.index("hallway")
    the = [n for n, word in enumerate(words) if word == "the"]
    assert rebinding_score(maps, changed=[(hallway, garden)], repeated=[(the[1], the[0])]) > 0.4


def test_the_story_shown_is_one_whose_words_are_known():
    [other] = read_text("1 Ann sleeps.\n2 Who sleeps? \tann\t1\n3 Bob snores.\n4 Who snores? \tbob\t3\n")
    [demonstration] = read_text(DEMONSTRATION)
    assert story_to_show(Vocabulary.of([demonstration, other]), other) == demonstration
    shown = story_to_show(Vocabulary.of([other]), other)
    assert " ".join(shown.tokens) == "ann sleeps . who sleeps ? -"
    assert shown.sentences == (0, 3)
