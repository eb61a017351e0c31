"""Generated stories: every answer follows from the words before it, found by a solver that shares no code."""

from __future__ import annotations

from collections import Counter

import pytest

from tasks.babi.generate import GENERATORS, generate
from tasks.babi.reader import BLANK, Story, read_text

MOVES = {"moved", "went", "journeyed", "travelled"}
TAKES = {"got", "grabbed", "picked", "took"}
SINGULAR = {"cats": "cat", "mice": "mouse", "sheep": "sheep", "wolves": "wolf"}


def sentences(story: Story) -> list[list[str]]:
    """The story's sentences as words, without blanks."""
    ends = [*story.sentences[1:], len(story.tokens)]
    return [
        [word for word in story.tokens[start:end] if word != BLANK]
        for start, end in zip(story.sentences, ends, strict=True)
    ]


def solve(story: Story) -> list[str]:
    """Answers from the words alone: where everyone and everything is, who fears whom."""
    place: dict[str, str] = {}
    carrier: dict[str, str] = {}
    kind: dict[str, str] = {}
    fear: dict[str, str] = {}
    answers = []
    for words in sentences(story):
        match words:
            case ["where", "is", "the", thing, "?"]:
                answers.append(place[thing])
            case ["where", "is", person, "?"]:
                answers.append(place[person])
            case ["is", person, "in", "the", where, "?"]:
                answers.append("yes" if place[person] == where else "no")
            case ["what", "is", name, "afraid", "of", "?"]:
                answers.append(fear[kind[name]])
            case [many, "are", "afraid", "of", others, "."]:
                fear[SINGULAR[many]] = SINGULAR[others]
            case [name, "is", "a", animal, "."]:
                kind[name] = animal
            case [person, verb, *_, where, "."] if verb in MOVES:
                place[person] = where
                place |= {thing: where for thing, who in carrier.items() if who == person}
            case [person, verb, *_, thing, "there", "."] if verb in TAKES:
                assert thing not in carrier
                here = place.get(person)
                assert place.get(thing, here) == here  # nobody takes what is elsewhere
                carrier[thing] = person
                place |= {thing: here} if here else {}
            case [person, _, *_, thing, "there", "."]:
                assert carrier.pop(thing, person) == person
                place[thing] = place[person]
            case _:
                raise AssertionError(words)
    return answers


@pytest.mark.parametrize("task", GENERATORS)
def test_every_answer_follows_from_the_story(task):
    stories = read_text(generate(task, 200), task)
    assert len(stories) == 200
    for story in stories:
        assert solve(story) == [question.answers[0] for question in story.questions]


@pytest.mark.parametrize("task", GENERATORS)
def test_the_supporting_facts_are_enough(task):
    """A story of nothing but a question's supporting facts has the same answer."""
    story: list[str] = []
    for line in generate(task, 30).splitlines():
        number, text = line.split(" ", 1)
        story = [text] if number == "1" else [*story, text]
        if "\t" not in text:
            continue
        question, answer, facts = text.split("\t")
        kept = [story[fact - 1] for fact in sorted(map(int, facts.split()))]
        lines = [*kept, f"{question}\t{answer}\t1"]
        [short] = read_text("\n".join(f"{n} {content}" for n, content in enumerate(lines, start=1)))
        assert solve(short) == [answer]


@pytest.mark.parametrize("task", GENERATORS)
def test_answers_are_balanced_and_all_used(task):
    stories = read_text(generate(task, 300), task)
    count = Counter(question.answers[0] for story in stories for question in story.questions)
    assert len(count) == {1: 6, 2: 6, 6: 2, 15: 4}[task]
    assert max(count.values()) < 1.4 * min(count.values())


def test_text_is_seeded_and_splits_differ():
    assert generate(1, 5) == generate(1, 5)
    texts = {generate(1, 5, split, seed) for split in ("train", "valid", "test") for seed in (0, 1)}
    assert len(texts) == 6
    assert generate(1, 9).startswith(generate(1, 5))
