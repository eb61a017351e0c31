"""Read bAbI stories (20 tasks, v1.2) from their text files, word by word.

    1 Mary moved to the bathroom.
    2 Where is Mary? <TAB>bathroom<TAB>1

Number 1 opens a story and numbers rise by one; a line with tabs is a question, its answer and the numbers of
its supporting facts. Tokens are lower-case words, "." and "?". Questions stay in the story; the answer does
not: in its place stands the blank "-", so that no true answer is ever part of what a model reads.

Source of the format: Weston et al. 2015, "Towards AI-complete question answering".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from envs.errors import UserError

BLANK = "-"
"""The token in the place of an answer."""
SPLITS = ("train", "valid", "test")
LINE = re.compile(r"(\d{1,9}) (.*)")
TOKEN = re.compile(r"[.?]|[^\s.?]+")


@dataclass(frozen=True)
class Question:
    """Where a story wants an answer, and which."""

    places: tuple[int, ...]
    """Tokens of the story that are blanks of this question: one per answer."""
    answers: tuple[str, ...]
    """What belongs there, lower case. "n,w" is one answer, or two if the story was read word for word."""
    evidence: int
    """First token of the earliest supporting fact. Never an input of a model."""
    line: int
    """Line of the file."""


@dataclass(frozen=True)
class Story:
    """One story with its questions in place."""

    task: int
    tokens: tuple[str, ...]
    sentences: tuple[int, ...]
    """First token of every statement and question."""
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Fault:
    """Where a line is and what it looks like, for error messages."""

    source: str
    line: int

    def error(self, message: str) -> UserError:
        """A one-line error that names file and line."""
        return UserError(f"{self.source}, line {self.line}: {message}")


def file_name(task: int, split: str) -> str:
    """Name of the official file of a task and split."""
    return f"qa{task}_{split}.txt"


def read_split(directory: Path, tasks: Iterable[int], split: str, word_answers: bool = False) -> list[Story]:
    """The stories of several tasks, task by task; raises UserError."""
    if not directory.is_dir():
        raise UserError(f"no bAbI data at {directory}: give the directory that holds {file_name(1, 'train')}")
    return [
        story for task in tasks for story in read_file(directory / file_name(task, split), task, word_answers)
    ]


def read_file(path: Path, task: int, word_answers: bool = False) -> list[Story]:
    """All stories of one file; raises UserError with file and line number."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"no bAbI file {path}; task {task} needs {', '.join(file_name(task, s) for s in SPLITS)}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    return read_text(text, task, str(path), word_answers)


def read_text(text: str, task: int = 0, source: str = "text", word_answers: bool = False) -> list[Story]:
    """All stories of a text in the official format; CRLF line ends are accepted; raises UserError."""
    stories: list[Story] = []
    story = _Builder(task, word_answers)
    lines = text.splitlines()
    for line, content in enumerate(lines, start=1):
        fault = Fault(source, line)
        match = LINE.fullmatch(content.strip())
        if match is None:
            raise fault.error(f'expected "number, space, text", found {content.strip()[:40]!r}')
        number = int(match[1])
        if number == 1 and story.tokens:
            stories.append(story.finish())
            story = _Builder(task, word_answers)
        if number != len(story.sentences) + 1:
            expected = f"{len(story.sentences) + 1}, or 1 for a new story" if story.tokens else "1"
            raise fault.error(f"line number {number}, expected {expected}")
        story.add(match[2], fault)
    if story.tokens:
        stories.append(story.finish())
    if not any(story.questions for story in stories):
        raise UserError(f"{source} holds no question" if stories else f"{source} is empty")
    return stories


@functools.lru_cache(maxsize=65_536)
def tokens_of(sentence: str) -> tuple[str, ...]:
    """Lower-case words, "." and "?" of a sentence; most sentences of the data occur many times."""
    return tuple(TOKEN.findall(sentence.lower()))


class _Builder:
    """A story under way."""

    def __init__(self, task: int, word_answers: bool) -> None:
        self.task, self.word_answers = task, word_answers
        self.tokens: list[str] = []
        self.sentences: list[int] = []
        self.is_statement: list[bool] = []
        self.questions: list[Question] = []

    def add(self, text: str, fault: Fault) -> None:
        """Append a statement, or a question with its blanks."""
        sentence, *rest = text.split("\t")
        words = tokens_of(sentence)
        if not words:
            raise fault.error("a line without words")
        if BLANK in words:
            raise fault.error(f'the word "{BLANK}" stands for an answer and cannot be part of a story')
        if not rest and words[-1] == "?":
            raise fault.error("a question needs its answer and its supporting facts, separated by tabs")
        self.sentences.append(len(self.tokens))
        self.is_statement.append(not rest)
        if rest:
            self._ask(words, rest, fault)
        else:
            self.tokens += words

    def _ask(self, words: tuple[str, ...], rest: list[str], fault: Fault) -> None:
        if len(rest) != 2:
            raise fault.error(f"a question has three fields separated by tabs, found {len(rest) + 1}")
        answer = rest[0].strip().lower()
        if not answer:
            raise fault.error("the answer is empty")
        answers = tuple(answer.split(",")) if self.word_answers else (answer,)
        evidence = self._evidence(rest[1].split(), fault)
        self.tokens += words if words[-1] == "?" else (*words, "?")
        places = tuple(range(len(self.tokens), len(self.tokens) + len(answers)))
        self.tokens += [BLANK] * len(answers)
        self.questions.append(Question(places, answers, evidence, fault.line))

    def _evidence(self, facts: list[str], fault: Fault) -> int:
        """First token of the earliest supporting fact."""
        numbers = [int(fact) for fact in facts if fact.isdecimal()]
        earlier = self.is_statement[:-1]
        if not facts or len(numbers) < len(facts):
            raise fault.error(f"supporting facts must be line numbers, found {' '.join(facts)!r}")
        for number in numbers:
            if not 1 <= number <= len(earlier) or not earlier[number - 1]:
                raise fault.error(f"supporting fact {number} is no earlier statement of the story")
        return self.sentences[min(numbers) - 1]

    def finish(self) -> Story:
        """The story as a value."""
        return Story(self.task, tuple(self.tokens), tuple(self.sentences), tuple(self.questions))
