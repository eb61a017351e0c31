"""Stories as batches: what is a target, where long stories are cut, and that padding changes nothing."""

from __future__ import annotations

import pytest
import torch

from memory import CORE_NAMES, CoreConfig
from tasks.babi.generate import generate
from tasks.babi.reader import BLANK, Story, read_text
from tasks.babi.sequences import (
    PADDING,
    Sample,
    Sampler,
    Vocabulary,
    collate,
    cut,
    encode,
    in_batches,
)
from tasks.sequence_model import SequenceModel, sequence_loss

TWO = (
    "1 Ann went to the attic.\n2 Where is Ann? \tattic\t1\n3 Bob is in the barn.\n4 Where is Bob? \tbarn\t3\n"
    "1 Ann sleeps.\n2 Who sleeps? \tann\t1\n"
)
FIRST = ("ann went to the attic .", "where is ann ? -", "bob is in the barn .", "where is bob ? -")


def samples_of(task: int, stories: int = 40) -> tuple[Vocabulary, list[Sample]]:
    read = read_text(generate(task, stories), task)
    vocabulary = Vocabulary.of(read)
    return vocabulary, encode(read, vocabulary)


def test_a_batch_by_hand():
    stories = read_text(TWO, task=7)
    vocabulary = Vocabulary.of(stories)
    assert vocabulary.words[:2] == (PADDING, BLANK)
    assert vocabulary.answers == ("ann", "attic", "barn")
    batch = collate(encode(stories, vocabulary))
    tokens, targets, answer, valid = batch.sequence[:4]
    read = [[vocabulary.words[number] for number in column] for column in tokens.T.tolist()]
    assert read[0] == [word for sentence in FIRST for word in sentence.split()]
    assert read[1] == ["ann", "sleeps", ".", "who", "sleeps", "?", "-", *[PADDING] * 15]
    assert valid.sum(0).tolist() == [22, 7]
    assert answer.nonzero().tolist() == [[6, 1], [10, 0], [21, 0]]
    assert [vocabulary.answers[number] for number in targets[answer]] == ["ann", "attic", "barn"]
    assert batch.questions.tolist() == [2, 0, 1]
    assert batch.tasks.tolist() == [7, 7, 7]


def test_the_answer_is_never_among_what_is_read():
    for task in (1, 2, 6, 15):
        vocabulary, samples = samples_of(task)
        for batch in in_batches(samples, 16):
            tokens, _, answer, valid = batch.sequence[:4]
            assert bool((tokens[answer] == vocabulary.words.index(BLANK)).all())
            assert bool(((tokens == vocabulary.words.index(BLANK)) == answer).all())
            assert bool(((tokens == 0) == ~valid).all())


def long_story(questions: int, gap: int) -> Story:
    """A question after every `gap` statements of three tokens."""
    lines = []
    for _ in range(questions):
        lines += ["Ann sleeps."] * gap
        lines.append(f"Who sleeps? \tann\t{len(lines)}")
    return read_text("\n".join(f"{number} {line}" for number, line in enumerate(lines, start=1)))[0]


@pytest.mark.parametrize(("questions", "gap"), [(1, 5), (1, 400), (9, 30), (9, 130), (40, 3), (3, 117)])
def test_pieces_of_a_long_story(questions, gap):
    story = long_story(questions, gap)
    pieces = list(cut(story, 100, 40))
    assert [question for _, _, asked in pieces for question in asked] == list(story.questions)
    for start, stop, asked in pieces:
        assert start in story.sentences
        assert asked[-1].places[-1] == stop - 1
        for question in asked:
            place = question.places[0]
            assert place - start >= min(100, place)
        # A little more than the window and the overhang, because a piece opens with a sentence.
        assert stop - start <= 100 + 40 + 5
    if story.questions[-1].places[-1] < 140:
        assert len(pieces) == 1
        assert pieces[0][0] == 0


@pytest.mark.parametrize("core", CORE_NAMES)
def test_padding_changes_neither_loss_nor_gradient(core):
    """A batch of stories of different lengths against the same stories one by one."""
    vocabulary, samples = samples_of(2, 4)
    torch.manual_seed(0)
    config = CoreConfig(core, hidden_size=8, memory_size=6)
    model = SequenceModel(len(vocabulary.words), len(vocabulary.answers), 5, config).double()
    parameters = [p for p in model.parameters() if p.requires_grad]

    def total(batches: list[list[Sample]]) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
        """Sum over batches of loss, weighted back to a mean over answers and over valid steps."""
        answers = sum(int((s.questions >= 0).sum()) for b in batches for s in b)
        steps = sum(len(s) for b in batches for s in b)
        loss = torch.zeros((), dtype=torch.float64)
        for batch in batches:
            sequence = collate(batch).sequence
            _, figures = sequence_loss(model(sequence), sequence, 0.5)
            loss = loss + figures["cross_entropy"] * int(sequence.answer.sum()) / answers
            loss = loss + 0.5 * figures["meta_loss"] * int(sequence.valid.sum()) / steps
        return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

    assert len({len(sample) for sample in samples}) > 1
    together, gradient = total([samples])
    apart, gradient_apart = total([[sample] for sample in samples])
    torch.testing.assert_close(together, apart)
    for one, other in zip(gradient, gradient_apart, strict=True):
        torch.testing.assert_close(one, other)


def test_a_late_start_drops_what_came_before_and_the_questions_that_need_it():
    stories = read_text(TWO, task=7)
    [first, _] = encode(stories, Vocabulary.of(stories))
    assert first.evidence == (0, 11)
    assert first.openings == (0, 6, 11)  # not the last question, which would come without its fact
    assert first.opened_at(0) is first
    for start, targets in ((6, {15: 2}), (11, {10: 2})):
        late = first.opened_at(start)
        assert torch.equal(late.words, first.words[start:])
        assert {n: int(t) for n, t in enumerate(late.targets) if t >= 0} == targets
        assert (late.asked, late.evidence, late.questions.max()) == (1, (11 - start,), 0)
        assert torch.equal(late.questions >= 0, late.targets >= 0)
    assert late.openings == (0,)


@pytest.mark.parametrize("task", [1, 2, 6, 15])
def test_every_question_of_a_late_start_has_its_facts(task):
    """The answer still follows from what is left: checked by the facts, which are words of the text."""
    text = generate(task, 5)
    stories = read_text(text, task)
    for story, sample in zip(stories, encode(stories, Vocabulary.of(stories)), strict=True):
        for start in sample.openings:
            late = sample.opened_at(start)
            kept = [question for question in story.questions if question.evidence >= start]
            assert late.asked == len(kept) > 0
            assert (late.targets >= 0).nonzero().flatten().tolist() == [q.places[0] - start for q in kept]
            assert late.opened_at(late.openings[-1]).asked > 0


def test_the_sampler_follows_its_generator_and_asks_every_task_alike():
    stories = [
        story for task, count in ((1, 90), (15, 10)) for story in read_text(generate(task, count), task)
    ]
    samples = encode(stories, Vocabulary.of(stories))
    sampler = Sampler(samples, 8)
    draws = [sampler.draw(torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(draws[0].sequence.tokens, draws[1].sequence.tokens)
    generator = torch.Generator().manual_seed(0)
    batches = [sampler.draw(generator) for _ in range(300)]
    tasks = torch.cat([batch.tasks for batch in batches])
    assert (tasks == 1).double().mean().item() == pytest.approx(0.5, abs=0.04)
    late = Sampler(samples, 8, late=1.0)
    steps = [sum(int(s.draw(generator).sequence.valid.sum()) for _ in range(50)) for s in (sampler, late)]
    assert steps[1] < 0.8 * steps[0]
    # Sorted pools: far less padding than in batches drawn at random.
    filled = sum(int(b.sequence.valid.sum()) for b in batches) / sum(
        b.sequence.valid.numel() for b in batches
    )
    assert filled > 0.95


def test_batches_of_an_evaluation_hold_every_sample_once():
    _, samples = samples_of(6, 23)
    batches = list(in_batches(samples, 5))
    assert sum(batch.sequence.tokens.shape[1] for batch in batches) == 23
    assert sum(len(batch.tasks) for batch in batches) == 23 * 5
