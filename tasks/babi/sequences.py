"""Stories as padded batches of numbers: where they are split, what is a target, and what is batched together.

A story is one sequence with all its questions, which is about three times cheaper than one window per
question. A story longer than WINDOW + OVERHANG tokens is split into windows. Every question is a target in
exactly one piece, and at least WINDOW tokens (or all there are) come before it there: more than the 326 tokens
that the farthest supporting fact of the 20 tasks is away. The state starts anew in every piece.

Legend: T time, B batch. Batches are time first; padding stands at the end of a column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tasks.babi.config import WINDOW
from tasks.babi.reader import BLANK, Question, Story
from tasks.sequence_model import SequenceBatch

OVERHANG = 150
"""By how much a piece may be longer, so that questions share it."""
PADDING = "<padding>"
NO_TARGET = -1
POOL = 8
"""Batches' worth of sequences that are drawn and sorted by length to fill one batch."""


@dataclass(frozen=True)
class Vocabulary:
    """Numbers for words and for whole answers."""

    words: tuple[str, ...]
    """Padding, the blank, then the words of the stories in alphabetical order."""
    answers: tuple[str, ...]
    """The classes of the output, in alphabetical order."""

    @staticmethod
    def of(stories: Sequence[Story]) -> Vocabulary:
        """All words and all answers that occur in the stories."""
        words = {word for story in stories for word in story.tokens} - {BLANK}
        answers = {answer for story in stories for question in story.questions for answer in question.answers}
        return Vocabulary((PADDING, BLANK, *sorted(words)), tuple(sorted(answers)))


@dataclass(frozen=True)
class Sample:
    """A story, or a piece of one, as numbers."""

    task: int
    words: Tensor
    """[T] int64."""
    targets: Tensor
    """[T] int64: the class that belongs in the blank, NO_TARGET elsewhere."""
    questions: Tensor
    """[T] int64: number of the question within the sample, NO_TARGET elsewhere."""
    asked: int
    """Number of questions."""
    evidence: tuple[int, ...]
    """First word of the earliest supporting fact of every question."""
    openings: tuple[int, ...]
    """Words with which the sample may open: sentences that leave a question with all its supporting facts."""

    def __len__(self) -> int:
        return len(self.words)

    def opened_at(self, start: int) -> Sample:
        """The sample without the words before `start`; questions that lose a supporting fact are not asked."""
        if start == 0:
            return self
        kept = torch.tensor([first >= start for first in self.evidence])
        questions = torch.where(kept, kept.cumsum(0) - 1, NO_TARGET)[self.questions[start:]]
        questions[self.questions[start:] == NO_TARGET] = NO_TARGET
        targets = self.targets[start:].masked_fill(questions == NO_TARGET, NO_TARGET)
        evidence = tuple(first - start for first in self.evidence if first >= start)
        openings = tuple(first - start for first in self.openings if first >= start)
        return Sample(self.task, self.words[start:], targets, questions, len(evidence), evidence, openings)


class BabiBatch(NamedTuple):
    """Samples side by side, and which blanks belong to which question."""

    sequence: SequenceBatch
    questions: Tensor
    """[K] int64: question of every blank, in the order of `sequence.answer` true; numbered through the batch.
    """
    tasks: Tensor
    """[Q] int64: task of every question."""


def encode(
    stories: Sequence[Story], vocabulary: Vocabulary, window: int = WINDOW, overhang: int = OVERHANG
) -> list[Sample]:
    """All stories as samples, long ones in pieces."""
    word_number = {word: number for number, word in enumerate(vocabulary.words)}
    class_number = {answer: number for number, answer in enumerate(vocabulary.answers)}
    samples = []
    for story in stories:
        numbers = torch.tensor([word_number[word] for word in story.tokens])
        for start, stop, asked in cut(story, window, overhang):
            targets, questions = torch.full((2, stop - start), NO_TARGET)
            for number, question in enumerate(asked):
                places = torch.tensor(question.places) - start
                targets[places] = torch.tensor([class_number[answer] for answer in question.answers])
                questions[places] = number
            evidence = tuple(max(question.evidence - start, 0) for question in asked)
            openings = tuple(
                first - start for first in story.sentences if start <= first <= start + max(evidence)
            )
            samples.append(
                Sample(story.task, numbers[start:stop], targets, questions, len(asked), evidence, openings)
            )
    return samples


def cut(story: Story, window: int, overhang: int) -> Iterator[tuple[int, int, tuple[Question, ...]]]:
    """Pieces (start, stop, questions asked) of a story; a piece opens with a sentence and ends with a blank.

    The whole story, if it is not longer than window + overhang up to its last question.
    """
    waiting = list(story.questions)
    while waiting:
        wanted = waiting[0].places[0] - window
        start = max((first for first in story.sentences if first <= wanted), default=0)
        limit = max(start + window + overhang, waiting[0].places[-1] + 1)
        asked = [question for question in waiting if question.places[-1] < limit]
        yield start, asked[-1].places[-1] + 1, tuple(asked)
        waiting = waiting[len(asked) :]


def collate(samples: Sequence[Sample]) -> BabiBatch:
    """Samples as one batch, padded at their ends."""
    tokens = pad_sequence([sample.words for sample in samples])
    targets = pad_sequence([sample.targets for sample in samples], padding_value=NO_TARGET)
    questions = pad_sequence([sample.questions for sample in samples], padding_value=NO_TARGET)
    answer = targets != NO_TARGET
    lengths, asked = torch.tensor([(len(sample), sample.asked) for sample in samples]).unbind(1)
    valid = torch.arange(len(tokens))[:, None] < lengths
    return BabiBatch(
        SequenceBatch(tokens, targets.clamp(min=0), answer, valid),
        (questions + asked.cumsum(0) - asked)[answer],
        torch.tensor([sample.task for sample in samples]).repeat_interleave(asked),
    )


class Sampler:
    """Random batches of samples of similar length, in which every task asks equally many questions.

    POOL batches' worth of samples are drawn independently and sorted by length; one random stretch of them
    is the batch. So every sample keeps its chance, and a batch depends on the generator's state alone.
    A fraction `late` of the samples starts at a random sentence: otherwise small data sets are overfitted.
    """

    def __init__(self, samples: Sequence[Sample], batch_size: int, late: float = 0.0) -> None:
        self.samples, self.batch_size, self.late = samples, batch_size, late
        tasks = torch.tensor([sample.task for sample in samples])
        asked = torch.tensor([sample.asked for sample in samples])
        weights = torch.zeros(len(samples), dtype=torch.float64)
        for task in tasks.unique():
            weights[tasks == task] = 1.0 / float(asked[tasks == task].sum())
        self.cumulative = (weights / weights.sum()).cumsum(0)

    def draw(self, generator: torch.Generator) -> BabiBatch:
        """The next batch."""
        count = POOL * self.batch_size
        which, is_late, opening = torch.rand(3, count, dtype=torch.float64, generator=generator)
        # Rounding may leave the last step of the distribution below 1.
        pool = torch.searchsorted(self.cumulative, which).clamp(max=len(self.samples) - 1)
        chosen = []
        for number, late, place in zip(
            pool.tolist(), (is_late < self.late).tolist(), opening.tolist(), strict=True
        ):
            sample = self.samples[number]
            chosen.append((sample, sample.openings[int(place * len(sample.openings))] if late else 0))
        chosen.sort(key=lambda pair: len(pair[0]) - pair[1])
        start = self.batch_size * int(torch.randint(POOL, (), generator=generator))
        return collate([sample.opened_at(word) for sample, word in chosen[start : start + self.batch_size]])


def in_batches(samples: Sequence[Sample], batch_size: int) -> Iterator[BabiBatch]:
    """All samples once, shortest first."""
    ordered = sorted(samples, key=len)
    for start in range(0, len(ordered), batch_size):
        yield collate(ordered[start : start + batch_size])
