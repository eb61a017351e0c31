"""The official bAbI files, where they are at hand: counts that were made independently of this reader."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from tasks.babi.config import WINDOW
from tasks.babi.reader import BLANK, SPLITS, Story, read_split
from tasks.babi.sequences import OVERHANG, cut

ARCHIVE = Path(__file__).resolve().parents[3] / "shared" / "data" / "babi" / "babi-en-valid-10k.tar.xz"


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Story]]:
    """The official stories, read with one blank per answer word."""
    if not ARCHIVE.is_file():
        pytest.skip(f"the official bAbI files are not there ({ARCHIVE.name} in ../shared/data/babi)")
    directory = tmp_path_factory.mktemp("babi")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    return {
        split: read_split(directory / "en-valid-10k", range(1, 21), split, word_answers=True)
        for split in SPLITS
    }


def test_counts_of_the_official_data(official):
    """Stories, questions, tokens, and the farthest supporting fact, as counted independently."""
    expected = {
        "train": (56_396, 179_998, 5_149, 72, 1_920, 873, 326),
        "valid": (6_265, 20_002, 575, 72, 1_397, 98, 259),
        "test": (6_267, 20_000, 570, 72, 1_393, 96, 242),
    }
    for split, stories in official.items():
        lengths = np.array([len(story.tokens) for story in stories])
        questions = [question for story in stories for question in story.questions]
        third = np.array([story.task == 3 for story in stories])
        assert expected[split] == (
            len(stories),
            len(questions),
            round(lengths.sum() / 1e3),
            np.median(lengths),
            lengths.max(),
            round(lengths[third].sum() / 1e3),
            # From the first token of the earliest supporting fact to "?".
            max(question.places[0] - question.evidence for question in questions),
        )


def test_sizes_of_the_official_tasks(official):
    for split, (most, eighteen, twenty) in {
        "train": (9_000, 8_996, 9_002), "valid": (1_000, 1_004, 998), "test": (1_000, 1_000, 1_000),
    }.items():  # fmt: skip
        asked = dict.fromkeys(range(1, 21), 0)
        for story in official[split]:
            asked[story.task] += len(story.questions)
        assert asked == {task: {18: eighteen, 20: twenty}.get(task, most) for task in asked}


def test_words_and_answers_of_the_official_data(official):
    everything = [story for stories in official.values() for story in stories]
    read = {word for story in everything for word in story.tokens} - {BLANK}
    answers = [question.answers for story in everything for question in story.questions]
    single = {word for answer in answers for word in answer}
    assert (len(read), len(single - read), len(read | single)) == (147, 11, 158)
    assert (len(single), len(set(answers)), sum(len(answer) == 1 for answer in set(answers))) == (40, 60, 36)
    known = {q.answers for story in official["train"] for q in story.questions}
    assert {q.answers for story in official["test"] for q in story.questions} <= known


def test_windows_keep_all_supporting_facts(official):
    for split in SPLITS:
        for story in official[split]:
            if len(story.tokens) <= WINDOW:
                continue
            for start, _, asked in cut(story, WINDOW, OVERHANG):
                assert all(question.evidence >= start for question in asked)
